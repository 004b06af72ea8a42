#!/usr/bin/env bash
# launch/tpu_vm.sh VERB [--dry-run] [-- FLAGS]: a Cloud TPU slice (v4, v5e, v5p, v6e) through queued resources.
# Google keeps this API for maintenance only; its successors are gke.sh and gce.sh.
#
#   create   asks for the slice and waits until it is there
#   install  copies the committed code to every host, and there: packages, the corpus from DATA
#   run      trains and waits for the end; Ctrl-C leaves it running, `run` again waits on
#   watch    all of these, and again from the last checkpoint whenever the slice is preempted, to the end
#   logs     follows host 0
#   stop     saves and ends
#   delete   gives the slice back
#
# Knobs in the environment:
#   NAME  ZONE  PROJECT
#   ACCELERATOR  v4-32, v5litepod-16, v5p-32, v6e-16, …     RUNTIME  image; by default the one of the ACCELERATOR
#   SPOT=1       preemptible
#   CONFIG       a file of configs/                         WORKDIR  gs://…
#   COMMAND      pretrain (default) or finetune             DATA     gs://… of a prepared corpus, or of GLUE's folders
#   POLL         seconds between two looks at the slice (30)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise
# Several hosts need your key in the ssh agent: ssh-add ~/.ssh/google_compute_engine

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/slice.sh
source launch/slice.sh

runtime() {
  require ACCELERATOR
  case $ACCELERATOR in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) mistake ACCELERATOR "'$ACCELERATOR'" "v4-…, v5litepod-…, v5p-… or v6e-…" ;;
  esac
}

request() {
  call gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${PLACE[@]}" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${SPOT:+--spot}
}

state() {
  query ACTIVE gcloud compute tpus queued-resources describe "$NAME" "${PLACE[@]}" '--format=value(state.state)'
}

on() { # WORKERS LINE of shell
  call gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" "${ALIVE[@]/#/--ssh-flag=}" --worker="$1" --command="$2"
}

install() {
  local pack="${TMPDIR:-/tmp}/$NAME.tar.gz"
  call git archive --format=tar.gz --output="$pack" HEAD &&
    call gcloud compute tpus tpu-vm scp "$pack" "$NAME:symbert_jax.tar.gz" "${PLACE[@]}" \
      "${ALIVE[@]/#/--scp-flag=}" --worker=all &&
    on all "$(unpack)"
}

run() {
  on all "$(start)"
}

logs() {
  on 0 "cd symbert_jax && launch/local.sh logs"
}

stop() {
  on all "cd symbert_jax && launch/local.sh stop"
}

delete() {
  call gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
}

parse "create install run watch logs stop delete" "$@"
require NAME ZONE PROJECT
if [[ $VERB == create || $VERB == watch ]]; then RUNTIME=${RUNTIME:-$(runtime)}; fi
if [[ $VERB == run || $VERB == watch ]]; then start >/dev/null; fi
PLACE=("--zone=$ZONE" "--project=$PROJECT")
"$VERB"
