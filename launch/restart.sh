#!/usr/bin/env bash
# launch/restart.sh COMMAND...: runs COMMAND until it finishes; starts it again RESTART_AFTER (10) seconds after a
# crash.
#
# SIGTERM and Ctrl-C reach COMMAND as SIGTERM, upon which it saves and ends. Exit codes: 0 finished, 2 a user error,
# 143 stopped; any other: a crash that no restart followed, because of a signal or after RESTARTS (10) restarts.
set -euo pipefail

stopped=
child=
trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' TERM INT

run() { # COMMAND...: returns its exit code; a signal ends the wait, not the child
  local status
  "$@" &
  child=$!
  if [[ $stopped ]]; then kill -TERM "$child"; fi # the signal came before the child started
  wait "$child" && status=0 || status=$?
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" && status=0 || status=$?
  done
  return "$status"
}

for ((left = ${RESTARTS:-10}; ; left--)); do
  run "$@" && status=0 || status=$?
  if [[ $stopped ]]; then exit $((status ? status : 143)); fi
  if ((status == 0 || status == 2 || left <= 0)); then exit "$status"; fi
  echo "restart.sh: exit code $status, starting again ($left left)" >&2
  run sleep "${RESTART_AFTER:-10}" || true
  if [[ $stopped ]]; then exit "$status"; fi
done
