#!/usr/bin/env bash
# launch/xpk.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v4, v5e, v5p, v6e) in a GKE cluster that Google's xpk
# manages: pip install xpk.
#
#   create   creates the cluster, unless it exists, and the slice in it
#   install  builds launch/Dockerfile from the last commit and pushes it as IMAGE
#   run      creates the workload; the cluster restarts it from the last checkpoint after a preemption or a crash
#   logs     follows the log of host 0
#   stop     saves a checkpoint and ends training: deletes the workload
#   delete   deletes the whole cluster and everything that runs in it; call `stop` first, so that the run saves
#
# Environment variables:
#   NAME  PROJECT  CLUSTER  ZONE (of the slice; the cluster is in its region)
#   ACCELERATOR  v4-32, v5litepod-16, v5p-32, v6e-16, …     SPOT=1    preemptible
#   IMAGE        REGION-docker.pkg.dev/PROJECT/REPOSITORY/symbert_jax
#   CONFIG       a file in configs/                         WORKDIR   gs://…
#   COMMAND      pretrain (default) or finetune             DATA      gs://… of a prepared corpus or of GLUE
#   RESTARTS     the most restarts of the whole workload (100)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/jobset.sh
source launch/jobset.sh

corpus_path() { # replaces the function of common.sh: the command itself reads DATA from the bucket
  echo "$DATA"
}

check_accelerator() { # a value of ACCELERATOR that is not xpk's name of a slice is a user error
  require ACCELERATOR
  [[ $ACCELERATOR == @(v4|v5litepod|v5p|v6e)-* ]] ||
    user_error ACCELERATOR "'$ACCELERATOR'" "v4-…, v5litepod-…, v5p-… or v6e-…"
}

create() {
  check_accelerator
  local capacity=--on-demand
  [[ -z ${SPOT:-} ]] || capacity=--spot
  call xpk cluster create "${SCOPE[@]}" --tpu-type="$ACCELERATOR" "$capacity"
}

run() { # xpk restarts after exit codes 42 and 127 to 255; the flag adds all others but 0 and 2, a user error
  require IMAGE DATA
  check_accelerator && set_training_command python && require_bucket
  # `exec`, because xpk sends SIGTERM to the shell that reads the command
  call xpk workload create "${SCOPE[@]}" --workload="$NAME" --tpu-type="$ACCELERATOR" --docker-image="$IMAGE" \
    --docker-name=train --command="exec $(quote launch/restart.sh "${TRAINING[@]}")" --env=RESTARTS=0 \
    --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=1,3-126 --termination-grace-period-seconds=600
}

stop() {
  call xpk workload delete "${SCOPE[@]}" --workload="$NAME"
}

delete() {
  call xpk cluster delete "${SCOPE[@]}"
}

parse "create install run logs stop delete" "$@"
require NAME PROJECT CLUSTER ZONE
SCOPE=("--cluster=$CLUSTER" "--zone=$ZONE" "--project=$PROJECT")
KUBECTL=(kubectl "--context=gke_${PROJECT}_${ZONE%-*}_$CLUSTER")
"$VERB"
