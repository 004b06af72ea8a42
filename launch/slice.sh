# shellcheck shell=bash
# The life of a slice that can be taken away, in terms of `request`, `state`, `install`, `run` and `delete`, and the
# lines of shell that its hosts run. `state` prints ACTIVE, ABSENT, SUSPENDED or FAILED (both are for good), or
# anything else for: not yet.

# Options of ssh: a host that was taken away does not answer, and ssh by itself would wait for it for hours. With these
# it ends with 255, when `watch` looks what has become of the slice.
# shellcheck disable=SC2034 # gce.sh and tpu_vm.sh read it
ALIVE=(-oServerAliveInterval=30 -oConnectTimeout=30)

# Google opens this port between the hosts of a TPU, but not 8482, which jax takes by itself (jax-ml/jax#35905).
JAX_COORDINATOR_PORT=${JAX_COORDINATOR_PORT:-8476}

unpack() { # installs the code that lies beside; leaves a running service alone
  echo "systemctl is-active --quiet symbert_jax || { mkdir -p symbert_jax &&" \
    "tar -xzf symbert_jax.tar.gz -C symbert_jax && cd symbert_jax &&" \
    "$(quoted env JAX=tpu DATA="$DATA") launch/local.sh install; }"
}

start() {
  training python && bucket # a mistake shows before anything is begun
  local env=(env COMMAND="$COMMAND" CONFIG="$CONFIG" WORKDIR="$WORKDIR" DATA="$DATA"
    JAX_COORDINATOR_PORT="$JAX_COORDINATOR_PORT")
  echo "cd symbert_jax && $(quoted "${env[@]}") launch/local.sh start -- $(quoted ${FLAGS[@]+"${FLAGS[@]}"})"
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
  local now looks failed=0 status=255 # the status of the last run on this slice; ssh's own where it lost the connection
  while :; do
    now=$(state)
    case $now in
      ACTIVE) # is what a preempted slice says too for a while, so all but success is looked at again
        if ((status == 255)); then
          looks=0
          if install; then
            failed=0
            run && status=0 || status=$?
          elif ((++failed < 10)); then # whatever its status: 2 is uv's too, where a download fails
            echo "watch: install failed; going on" >&2
          else
            echo "error: install failed $failed times in a row" >&2
            exit 1
          fi
        fi
        if ((status == 0 || ++looks > (status == 2 ? 1 : 4))); then exit "$status"; fi
        ;;
      ABSENT | SUSPENDED | FAILED)
        if [[ $now != ABSENT ]]; then tried delete; fi
        tried request
        failed=0 status=255
        ;;
    esac
    pause
  done
}
