#!/usr/bin/env bash
# launch/xpk.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v4, v5e, v5p, v6e) in a cluster of GKE that Google's xpk
# makes and keeps: pip install xpk.
#
#   create   the cluster, unless it is there, and the slice in it
#   install  builds launch/Dockerfile from the committed code and pushes it as IMAGE
#   run      hands the workload over; the cluster restarts it from the last checkpoint after preemption or a crash
#   logs     follows host 0
#   stop     saves and ends: deletes the workload
#   delete   deletes the whole cluster and whatever runs in it; `stop` first, so that the run saves
#
# Knobs in the environment:
#   NAME  PROJECT  CLUSTER  ZONE (of the slice; the cluster is in its region)
#   ACCELERATOR  v4-32, v5litepod-16, v5p-32, v6e-16, …     SPOT=1    preemptible
#   IMAGE        REGION-docker.pkg.dev/PROJECT/REPOSITORY/symbert_jax
#   CONFIG       a file of configs/                         WORKDIR   gs://…
#   COMMAND      pretrain (default) or finetune             DATA      gs://… of a prepared corpus, or of GLUE's folders
#   RESTARTS     of the whole workload (100)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/jobset.sh
source launch/jobset.sh

corpus() { # stays in the bucket, from where each host reads it
  echo "$DATA"
}

accelerator() { # checks ACCELERATOR, which has xpk's name
  require ACCELERATOR
  [[ $ACCELERATOR == @(v4|v5litepod|v5p|v6e)-* ]] ||
    mistake ACCELERATOR "'$ACCELERATOR'" "v4-…, v5litepod-…, v5p-… or v6e-…"
}

create() {
  accelerator
  local capacity=--on-demand
  [[ -z ${SPOT:-} ]] || capacity=--spot
  call xpk cluster create "${PLACE[@]}" --tpu-type="$ACCELERATOR" "$capacity"
}

run() { # from exit codes 42 and 127 to 255 xpk restarts by itself, so from all but 2, the user's mistake
  require IMAGE DATA
  accelerator && training python && bucket
  # `exec`, as xpk passes SIGTERM on to the shell that reads the command
  call xpk workload create "${PLACE[@]}" --workload="$NAME" --tpu-type="$ACCELERATOR" --docker-image="$IMAGE" \
    --docker-name=train --command="exec $(quoted launch/restart.sh "${TRAINING[@]}")" --env=RESTARTS=0 \
    --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=1,3-126 --termination-grace-period-seconds=600
}

stop() {
  call xpk workload delete "${PLACE[@]}" --workload="$NAME"
}

delete() {
  call xpk cluster delete "${PLACE[@]}"
}

parse "create install run logs stop delete" "$@"
require NAME PROJECT CLUSTER ZONE
PLACE=("--cluster=$CLUSTER" "--zone=$ZONE" "--project=$PROJECT")
KUBECTL=(kubectl "--context=gke_${PROJECT}_${ZONE%-*}_$CLUSTER")
"$VERB"
