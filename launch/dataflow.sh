#!/usr/bin/env bash
# launch/dataflow.sh VERB [--dry-run] [-- FLAGS]: prepares a corpus on Google Cloud Dataflow.
#
#   install  builds launch/Dockerfile.dataflow from the last commit and pushes it as IMAGE
#   run      prepares the corpus and waits for it; needs the packages apache-beam[gcp], gcsfs and google-cloud-storage
#   jobs     lists the jobs of NAME, up to three per corpus, with their states
#   stop     cancels the job that is running
#
# Environment variables:
#   NAME  PROJECT  REGION such as us-east5
#   IMAGE     REGION-docker.pkg.dev/PROJECT/REPOSITORY/symbert_jax_dataflow
#   PYTHON    the version of Python on this machine (3.12)
#   CONFIG    a file in configs/                             DATA     gs://… of the corpus to write
#   TEMP      gs://… for temporary files, in the same region
#   MACHINE   of the workers (n2-standard-8)                 WORKERS  at most (32)
# FLAGS go to python -m symbert_jax prepare: -- --config.data.sources=jsonl:gs://…

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

install() {
  require IMAGE
  call bash -c "git archive HEAD | docker build --tag=$(quote "$IMAGE") --build-arg=PYTHON=${PYTHON:-3.12} \
--file=launch/Dockerfile.dataflow -"
  call docker push "$IMAGE"
}

run() {
  local options
  require IMAGE CONFIG DATA TEMP
  [[ $DATA == gs://* ]] || user_error DATA "'$DATA'" "gs://…, which all workers see"
  options=$(quote --runner=DataflowRunner --project="$PROJECT" --region="$REGION" --temp_location="$TEMP" \
    --job_name="$NAME" --sdk_container_image="$IMAGE" --sdk_location=container \
    --worker_machine_type="${MACHINE:-n2-standard-8}" --max_num_workers="${WORKERS:-32}")
  call .venv/bin/python -m symbert_jax prepare "--config=$CONFIG" "--config.data.dir=$DATA" "--beam=$options" \
    ${FLAGS[@]+"${FLAGS[@]}"}
}

jobs() {
  call gcloud dataflow jobs list "${SCOPE[@]}" --filter="name=$NAME"
}

stop() {
  local ids job
  ids=$(ask JOBID gcloud dataflow jobs list "${SCOPE[@]}" --filter="name=$NAME" --status=active "--format=value(id)")
  for job in $ids; do
    call gcloud dataflow jobs cancel "$job" "${SCOPE[@]}"
  done
}

parse "install run jobs stop" "$@"
require NAME PROJECT REGION
SCOPE=("--project=$PROJECT" "--region=$REGION")
"$VERB"
