#!/usr/bin/env bash
# launch/tpu_vm.sh VERB [--dry-run] [-- FLAGS]: a Cloud TPU slice (v4, v5e, v5p, v6e) through queued resources.
# Google no longer extends this API; gke.sh and gce.sh use its successors.
#
#   create   requests the slice and waits until it runs
#   install  copies the last commit to every host; installs the packages and copies the corpus from DATA there
#   run      trains and waits for the end; after Ctrl-C training continues, and another `run` waits for its end
#   watch    does all of these, and after a preemption does them again from the last checkpoint, until training ends
#   logs     follows the log of host 0
#   stop     saves a checkpoint and ends training
#   delete   deletes the slice
#
# Environment variables:
#   NAME  ZONE  PROJECT
#   ACCELERATOR  v4-32, v5litepod-16, v5p-32, v6e-16, …     RUNTIME  image; by default the one for ACCELERATOR
#   SPOT=1       preemptible
#   CONFIG       a file in configs/                         WORKDIR  gs://…
#   COMMAND      pretrain (default) or finetune             DATA     gs://… of a prepared corpus or of GLUE
#   POLL         seconds between two queries of the slice (30)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise
# Several hosts need your key in the ssh agent: ssh-add ~/.ssh/google_compute_engine

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/slice.sh
source launch/slice.sh

default_runtime() {
  case $ACCELERATOR in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) user_error ACCELERATOR "'$ACCELERATOR'" "v4-…, v5litepod-…, v5p-… or v6e-…" ;;
  esac
}

request() {
  call gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${SCOPE[@]}" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${SPOT:+--spot}
}

state() {
  query ACTIVE gcloud compute tpus queued-resources describe "$NAME" "${SCOPE[@]}" '--format=value(state.state)'
}

on_hosts() { # HOSTS LINE: runs a shell command on these hosts
  call gcloud compute tpus tpu-vm ssh "$NAME" "${SCOPE[@]}" "${SSH_OPTIONS[@]/#/--ssh-flag=}" --worker="$1" \
    --command="$2"
}

install() {
  local pack="${TMPDIR:-/tmp}/$NAME.tar.gz"
  call git archive --format=tar.gz --output="$pack" HEAD &&
    call gcloud compute tpus tpu-vm scp "$pack" "$NAME:symbert_jax.tar.gz" "${SCOPE[@]}" \
      "${SSH_OPTIONS[@]/#/--scp-flag=}" --worker=all &&
    on_hosts all "$(install_line)"
}

run() {
  on_hosts all "$(start_line)"
}

logs() {
  on_hosts 0 "cd symbert_jax && launch/local.sh logs"
}

stop() {
  on_hosts all "cd symbert_jax && launch/local.sh stop"
}

delete() {
  call gcloud compute tpus queued-resources delete "$NAME" "${SCOPE[@]}" --force --quiet
}

parse "create install run watch logs stop delete" "$@"
require NAME ZONE PROJECT
if [[ $VERB == create || $VERB == watch ]]; then require ACCELERATOR && RUNTIME=${RUNTIME:-$(default_runtime)}; fi
if [[ $VERB == run || $VERB == watch ]]; then start_line >/dev/null; fi # ends on a user error before anything starts
SCOPE=("--zone=$ZONE" "--project=$PROJECT")
"$VERB"
