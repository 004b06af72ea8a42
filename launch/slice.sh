# shellcheck shell=bash
# Creates and watches a slice that can be preempted, and defines the shell commands that its hosts run. The script that
# sources this file defines `request`, `state`, `install`, `run` and `delete`. `state` prints ACTIVE, ABSENT, SUSPENDED
# or FAILED (the last two are permanent), or anything else while the slice is not ready.

# A preempted host does not answer, and ssh by default waits for hours. With these options ssh exits with 255, and
# `watch` queries the state of the slice.
# shellcheck disable=SC2034 # gce.sh and tpu_vm.sh use it
SSH_OPTIONS=(-oServerAliveInterval=30 -oConnectTimeout=30)

# Google opens this port between the hosts of a TPU, but not 8482, jax's default (jax-ml/jax#35905).
JAX_COORDINATOR_PORT=${JAX_COORDINATOR_PORT:-8476}

install_line() { # prints a command for the hosts, which installs the copied code unless the service is running
  echo "systemctl is-active --quiet symbert_jax || { mkdir -p symbert_jax &&" \
    "tar -xzf symbert_jax.tar.gz -C symbert_jax && cd symbert_jax &&" \
    "$(quote env JAX=tpu DATA="$DATA") launch/local.sh install; }"
}

start_line() { # prints a command for the hosts, which starts the service or waits for a running one
  set_training_command python && require_bucket
  local env=(env COMMAND="$COMMAND" CONFIG="$CONFIG" WORKDIR="$WORKDIR" DATA="$DATA"
    JAX_COORDINATOR_PORT="$JAX_COORDINATOR_PORT")
  echo "cd symbert_jax && $(quote "${env[@]}") launch/local.sh start -- $(quote ${FLAGS[@]+"${FLAGS[@]}"})"
}

query() { # ANSWER COMMAND...: like `ask`, but prints ABSENT if the resource does not exist, UNKNOWN at other errors
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
      echo "error: $NAME is $now and will not become ACTIVE; delete it and create it again" >&2
      exit 1
    fi
    pause
  done
}

attempt() { # FUNCTION: runs it; ignores a failure, such as a lack of capacity, because `watch` tries again
  "$@" || echo "watch: $1 failed; continuing" >&2
}

watch() { # trains to the end, through all preemptions
  # status: of the last run on this slice; 255 before the first run, and after a lost connection, when ssh returns 255
  # polls: queries from the one before that run on; failed_installs: on this slice, in a row
  local now polls failed_installs=0 status=255
  while :; do
    now=$(state)
    case $now in
      ACTIVE) # a preempted slice is still ACTIVE for a while, so after a failure it is polled again
        if ((status == 255)); then
          polls=0
          if install; then
            failed_installs=0
            run && status=0 || status=$?
          elif ((++failed_installs < 10)); then # whatever the status: uv returns 2 for a failed download
            echo "watch: install failed; continuing" >&2
          else
            echo "error: install failed $failed_installs times in a row" >&2
            exit 1
          fi
        fi
        if ((status == 0 || ++polls > (status == 2 ? 1 : 4))); then exit "$status"; fi
        ;;
      ABSENT | SUSPENDED | FAILED)
        if [[ $now != ABSENT ]]; then attempt delete; fi
        attempt request
        failed_installs=0 status=255
        ;;
    esac
    pause
  done
}
