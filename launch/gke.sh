#!/usr/bin/env bash
# launch/gke.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v4, v5e, v5p, v6e) in a cluster of GKE. What trains is
# the JobSet of launch/jobset.yaml.
#
#   create   a node pool that is the slice, and JobSet's controller in the cluster
#   install  builds launch/Dockerfile from the committed code and pushes it as IMAGE
#   run      hands the JobSet over; the cluster restarts it from the last checkpoint after preemption or a crash
#   logs     follows host 0
#   stop     saves and ends: deletes the JobSet
#   delete   gives the node pool back
#
# Knobs in the environment:
#   NAME  PROJECT  CLUSTER  LOCATION (of the cluster)  ZONE (of the slice)
#   MACHINE   ct4p-hightpu-4t, ct5lp-hightpu-4t, ct5p-hightpu-4t, ct6e-standard-4t
#   TOPOLOGY  of chips: 4x4, 2x2x4, …                       SPOT=1    preemptible
#   IMAGE     REGION-docker.pkg.dev/PROJECT/REPOSITORY/symbert_jax
#   CONFIG    a file of configs/                            WORKDIR   gs://…
#   COMMAND   pretrain (default) or finetune                DATA      gs://… of a prepared corpus, or of GLUE's folders
#   RESTARTS  of the whole JobSet (100)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/jobset.sh
source launch/jobset.sh

JOBSET=https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml

create() {
  local size
  require ZONE
  size=$(hosts)
  call gcloud container node-pools create "$NAME" --cluster="$CLUSTER" --location="$LOCATION" --project="$PROJECT" \
    --node-locations="$ZONE" --machine-type="$MACHINE" --tpu-topology="$TOPOLOGY" --num-nodes="$size" \
    --scopes=cloud-platform ${SPOT:+--spot}
  call gcloud container clusters get-credentials "$CLUSTER" --location="$LOCATION" --project="$PROJECT"
  call "${KUBECTL[@]}" apply --server-side --filename="$JOBSET"
}

accelerator() { # GKE's name of it
  case $MACHINE in
    ct4p-*) echo tpu-v4-podslice ;;
    ct5lp-*) echo tpu-v5-lite-podslice ;;
    ct5p-*) echo tpu-v5p-slice ;;
    ct6e-*) echo tpu-v6e-slice ;;
    *) mistake MACHINE "'$MACHINE'" "ct4p-…, ct5lp-…, ct5p-… or ct6e-…" ;;
  esac
}

yaml() { # WORD...: a list
  local word list=
  for word; do list+="${list:+, }'${word//\'/\'\'}'"; done
  echo "[$list]"
}

manifest() {
  require IMAGE DATA
  local text size accelerator command chips=${MACHINE##*-}
  training python && bucket
  size=$(hosts) && accelerator=$(accelerator) || return
  command=$(yaml launch/restart.sh "${TRAINING[@]}")
  text=$(<launch/jobset.yaml)
  text=${text//@NAME@/"$NAME"} text=${text//@IMAGE@/"$IMAGE"} text=${text//@RESTARTS@/"${RESTARTS:-100}"}
  text=${text//@TOPOLOGY@/"$TOPOLOGY"} text=${text//@HOSTS@/"$size"} text=${text//@CHIPS@/"${chips%t}"}
  text=${text//@ACCELERATOR@/"$accelerator"} text=${text//@DATA@/"$DATA"} text=${text//@CORPUS@/"$(corpus)"}
  echo "${text//@COMMAND@/"$command"}"
}

run() {
  local text
  text=$(manifest)
  feed "$text" "${KUBECTL[@]}" create --filename=-
}

stop() {
  call "${KUBECTL[@]}" delete jobset "$NAME" --ignore-not-found
}

delete() {
  stop
  call gcloud container node-pools delete "$NAME" --cluster="$CLUSTER" --location="$LOCATION" --project="$PROJECT" \
    --quiet
}

parse "create install run logs stop delete" "$@"
require NAME PROJECT CLUSTER LOCATION
KUBECTL=(kubectl "--context=gke_${PROJECT}_${LOCATION}_$CLUSTER")
"$VERB"
