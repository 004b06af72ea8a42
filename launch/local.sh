#!/usr/bin/env bash
# launch/local.sh VERB [--dry-run] [-- FLAGS]: one machine, by hand or as one host of a slice.
#
#   install  Python and the packages into .venv, the corpus from DATA into data/
#   run      trains in the foreground; again after a crash, until it has finished. Ctrl-C saves and ends
#   start    the same as a service of systemd, which outlives the terminal; waits for the end of one that runs
#   logs     follows the service
#   stop     the service saves and ends
#
# Knobs in the environment:
#   CONFIG   a file of configs/                    WORKDIR  a folder or gs://…
#   COMMAND  pretrain (default) or finetune        DATA     gs://… of a prepared corpus, or of GLUE's folders
#   JAX      extra of jax to install: tpu, cuda13; by default none
#   RESTARTS how often it starts again after a crash (10)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

UNIT=symbert_jax

install() {
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || call bash -c 'curl -LsSf https://astral.sh/uv/install.sh | sh'
  call uv venv --quiet --allow-existing --python=3.12 .venv
  local packages=("jax${JAX:+[$JAX]}")
  # the runs of a TPU live in buckets, and others may
  [[ ${JAX:-} != tpu && $WORKDIR != gs://* ]] || packages+=(gcsfs google-cloud-storage)
  call uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt "${packages[@]}"
  if [[ $DATA ]]; then
    call mkdir -p "$(corpus)"
    call gcloud storage rsync "$DATA" "$(corpus)" --recursive
  fi
}

run() {
  training .venv/bin/python
  call launch/restart.sh "${TRAINING[@]}"
}

state() {
  ask inactive systemctl is-active "$UNIT" || true # its exit code says the same
}

start() {
  training .venv/bin/python
  local now
  now=$(state)
  [[ $now != failed ]] || call sudo systemctl reset-failed "$UNIT"
  if [[ $now == @(inactive|failed|unknown) ]]; then
    # At a shutdown systemd ends services with SIGTERM: that is how a preempted machine saves. What a service is ordered
    # after is stopped after it, so network and names stay for the save. libtpu locks memory.
    call sudo systemd-run --quiet --unit="$UNIT" --uid="$(id -un)" --working-directory="$PWD" \
      ${JAX_COORDINATOR_PORT:+"--setenv=JAX_COORDINATOR_PORT=$JAX_COORDINATOR_PORT"} \
      --setenv=RESTARTS="${RESTARTS:-10}" --property=KillMode=mixed --property=TimeoutStopSec=10min \
      --property=LimitMEMLOCK=infinity --property=After="network.target nss-lookup.target" \
      "$PWD/launch/restart.sh" "${TRAINING[@]}"
  fi
  until [[ $(state) == @(inactive|failed|unknown) ]]; do pause; done
  exit "$(ask 0 systemctl show --property=ExecMainStatus --value "$UNIT")"
}

logs() {
  call sudo journalctl --unit="$UNIT" --output=cat --lines=100 --follow
}

stop() {
  call sudo systemctl stop "$UNIT"
}

parse "install run start logs stop" "$@"
"$VERB"
