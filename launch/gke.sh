#!/usr/bin/env bash
# launch/gke.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v4, v5e, v5p, v6e) in a GKE cluster, which trains with the
# JobSet of launch/jobset.yaml.
#
#   create   creates a node pool, which is the slice, and installs JobSet's controller in the cluster
#   install  builds launch/Dockerfile from the last commit and pushes it as IMAGE
#   run      creates the JobSet; the cluster restarts it from the last checkpoint after a preemption or a crash
#   logs     follows the log of host 0
#   stop     saves a checkpoint and ends training: deletes the JobSet
#   delete   deletes the JobSet and the node pool
#
# Environment variables:
#   NAME  PROJECT  CLUSTER  LOCATION (of the cluster)  ZONE (of the slice)
#   MACHINE   ct4p-hightpu-4t, ct5lp-hightpu-4t, ct5p-hightpu-4t, ct6e-standard-4t
#   TOPOLOGY  chips: 4x4, 2x2x4, …                          SPOT=1    preemptible
#   IMAGE     REGION-docker.pkg.dev/PROJECT/REPOSITORY/symbert_jax
#   CONFIG    a file in configs/                            WORKDIR   gs://…
#   COMMAND   pretrain (default) or finetune                DATA      gs://… of a prepared corpus or of GLUE
#   RESTARTS  the most restarts of the whole JobSet (100)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/jobset.sh
source launch/jobset.sh

JOBSET=https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml

create() {
  local hosts
  require ZONE
  hosts=$(count_hosts)
  call gcloud container node-pools create "$NAME" --cluster="$CLUSTER" --location="$LOCATION" --project="$PROJECT" \
    --node-locations="$ZONE" --machine-type="$MACHINE" --tpu-topology="$TOPOLOGY" --num-nodes="$hosts" \
    --scopes=cloud-platform ${SPOT:+--spot}
  call gcloud container clusters get-credentials "$CLUSTER" --location="$LOCATION" --project="$PROJECT"
  call "${KUBECTL[@]}" apply --server-side --filename="$JOBSET"
}

accelerator_name() { # prints GKE's name for the chip of MACHINE
  case $MACHINE in
    ct4p-*) echo tpu-v4-podslice ;;
    ct5lp-*) echo tpu-v5-lite-podslice ;;
    ct5p-*) echo tpu-v5p-slice ;;
    ct6e-*) echo tpu-v6e-slice ;;
    *) user_error MACHINE "'$MACHINE'" "ct4p-…, ct5lp-…, ct5p-… or ct6e-…" ;;
  esac
}

yaml_list() { # WORD...: prints the words as a YAML list
  local word list=
  for word; do list+="${list:+, }'${word//\'/\'\'}'"; done
  echo "[$list]"
}

manifest() { # prints launch/jobset.yaml with its words between @ signs filled in
  require IMAGE DATA MACHINE
  local text hosts accelerator command suffix=${MACHINE##*-} # such as 4t: 4 chips per host
  set_training_command python && require_bucket
  hosts=$(count_hosts) && accelerator=$(accelerator_name) || return
  command=$(yaml_list launch/restart.sh "${TRAINING[@]}")
  text=$(<launch/jobset.yaml)
  text=${text//@NAME@/"$NAME"} text=${text//@IMAGE@/"$IMAGE"} text=${text//@RESTARTS@/"${RESTARTS:-100}"}
  text=${text//@TOPOLOGY@/"$TOPOLOGY"} text=${text//@HOSTS@/"$hosts"} text=${text//@CHIPS@/"${suffix%t}"}
  text=${text//@ACCELERATOR@/"$accelerator"} text=${text//@DATA@/"$DATA"} text=${text//@CORPUS@/"$(corpus_path)"}
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
