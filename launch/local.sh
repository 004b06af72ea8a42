#!/usr/bin/env bash
# launch/local.sh VERB [--dry-run] [-- FLAGS]: one machine, alone or as one host of a slice.
#
#   install  installs Python and the packages in .venv; copies the corpus from DATA to data/
#   run      trains in the foreground and starts again after a crash; Ctrl-C saves a checkpoint and ends training
#   start    trains as a systemd service, which outlives the terminal, unless the service is running; waits for its end
#   logs     follows the log of the service
#   stop     saves a checkpoint and ends the service
#
# Environment variables:
#   CONFIG   a file in configs/                    WORKDIR  a folder or gs://…
#   COMMAND  pretrain (default) or finetune        DATA     gs://… of a prepared corpus or of GLUE
#   JAX      the extra of jax to install: tpu, cuda13; by default none
#   RESTARTS the most restarts after crashes (10)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

UNIT=symbert_jax

install() {
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || call bash -c 'curl -LsSf https://astral.sh/uv/install.sh | sh'
  call uv venv --quiet --allow-existing --python=3.12 .venv
  local packages=("jax${JAX:+[$JAX]}")
  # a run on a TPU writes to a bucket; any other run may
  [[ ${JAX:-} != tpu && $WORKDIR != gs://* ]] || packages+=(gcsfs google-cloud-storage)
  call uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt "${packages[@]}"
  if [[ $DATA ]]; then
    call mkdir -p "$(corpus_path)"
    call gcloud storage rsync "$DATA" "$(corpus_path)" --recursive
  fi
}

run() {
  set_training_command .venv/bin/python
  call launch/restart.sh "${TRAINING[@]}"
}

state() {
  ask inactive systemctl is-active "$UNIT" || true # `is-active` fails for a service that is not active
}

start() {
  set_training_command .venv/bin/python
  local now
  now=$(state)
  [[ $now != failed ]] || call sudo systemctl reset-failed "$UNIT"
  if [[ $now == @(inactive|failed|unknown) ]]; then
    # At a shutdown, and so at a preemption, systemd ends services with SIGTERM, upon which the run saves. systemd stops
    # the units of After= only after the service, so the network and names work during the save. libtpu locks memory.
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
