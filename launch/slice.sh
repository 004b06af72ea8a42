# shellcheck shell=bash
# The life of a slice that can be taken away, in terms of `request`, `state`, `install`, `run` and `delete`, and the
# lines of shell that its hosts run. `state` prints ACTIVE, ABSENT, SUSPENDED or FAILED (both are for good), or
# anything else for: not yet.

unpack() { # installs the code that lies beside; leaves a running service alone
  echo "systemctl is-active --quiet symbert_jax || { mkdir -p symbert_jax &&" \
    "tar -xzf symbert_jax.tar.gz -C symbert_jax && cd symbert_jax &&" \
    "$(quoted env JAX=tpu DATA="$DATA") launch/local.sh install; }"
}

start() {
  training python && bucket # a mistake shows before anything is begun
  echo "cd symbert_jax && $(quoted env COMMAND="$COMMAND" CONFIG="$CONFIG" WORKDIR="$WORKDIR" DATA="$DATA")" \
    "launch/local.sh start -- $(quoted ${FLAGS[@]+"${FLAGS[@]}"})"
}

query() { # ANSWER COMMAND...: as `ask`; ABSENT for what does not exist, UNKNOWN where nobody answers
  local answer errors
  errors=$(mktemp)
  if answer=$(ask "$@" 2>"$errors"); then
    echo "$answer"
  elif grep -qi -e NOT_FOUND -e "not found" "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm "$errors"
}

create() {
  request
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    if [[ $now == SUSPENDED || $now == FAILED ]]; then
      echo "error: $NAME is $now and will not become ACTIVE: delete it and ask again" >&2
      exit 1
    fi
    pause
  done
}

tried() { # VERB: what fails for now, no machine to be had say, is tried again at the next look
  "$@" || echo "watch: $1 failed; going on" >&2
}

watch() { # trains to the end, whatever happens to the slice
  local now looks status=255 # the status of the last run on this slice; ssh's own where it lost the connection
  while :; do
    now=$(state)
    case $now in
      ACTIVE) # is what a preempted slice says too for a while, so all but success is looked at again
        if ((status == 255)); then
          install && run && status=0 || status=$?
          looks=0
        fi
        if ((status == 0 || ++looks > (status == 2 ? 1 : 4))); then exit "$status"; fi
        ;;
      ABSENT | SUSPENDED | FAILED)
        if [[ $now != ABSENT ]]; then tried delete; fi
        tried request
        status=255
        ;;
    esac
    pause
  done
}
