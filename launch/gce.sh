#!/usr/bin/env bash
# launch/gce.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v5p, v6e) of two or more hosts on Compute Engine, as a
# managed instance group that is created all at once.
#
#   create   workload policy, instance template, group; waits until every host is there
#   install  copies the committed code to every host, and there: packages, the corpus from DATA
#   run      trains and waits for the end; Ctrl-C leaves it running, `run` again waits on
#   watch    all of these, and again from the last checkpoint whenever the slice is preempted, to the end
#   logs     follows the first host
#   stop     saves and ends
#   delete   gives the slice back
#
# Knobs in the environment:
#   NAME  ZONE  PROJECT
#   MACHINE   ct5p-hightpu-4t, ct6e-standard-4t             TOPOLOGY  of chips: 4x4, 2x2x4, …
#   IMAGE     image family of ubuntu-os-accelerator-images (ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e)
#   SPOT=1    preemptible
#   CONFIG    a file of configs/                            WORKDIR   gs://…
#   COMMAND   pretrain (default) or finetune                DATA      gs://… of a prepared corpus, or of GLUE's folders
#   POLL      seconds between two looks at the slice (30)
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/slice.sh
source launch/slice.sh

request() {
  local region=${ZONE%-*}
  call gcloud compute resource-policies create workload-policy "$NAME" --region="$region" --project="$PROJECT" \
    --type=HIGH_THROUGHPUT --accelerator-topology="$TOPOLOGY"
  call gcloud compute instance-templates create "$NAME" --project="$PROJECT" --machine-type="$MACHINE" \
    --image-project=ubuntu-os-accelerator-images --image-family="${IMAGE:-ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e}" \
    --boot-disk-size=200GB --scopes=cloud-platform --maintenance-policy=TERMINATE \
    ${SPOT:+--provisioning-model=SPOT --instance-termination-action=STOP}
  call gcloud compute instance-groups managed create "$NAME" "${PLACE[@]}" --template="$NAME" --size="$HOSTS" \
    --target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing \
    --workload-policy="projects/$PROJECT/regions/$region/resourcePolicies/$NAME"
}

state() {
  local states
  states=$(query RUNNING "${LIST[@]}" '--format=value(instanceStatus)' | sort -u)
  case $states in
    RUNNING) echo ACTIVE ;;
    *STOP* | *TERMINATED* | *SUSPEND*) echo SUSPENDED ;;
    ABSENT | UNKNOWN) echo "$states" ;;
    *) echo WAITING ;;
  esac
}

vms() { # sets VMS to their names, in the order of the processes; a dry run numbers them
  VMS=$(ask "$(seq -f "$NAME-%g" 0 $((HOSTS - 1)))" "${LIST[@]}" '--format=value(name)')
}

at_once() { # COMMAND...: in the background, until `finish` has waited for it
  if [[ $DRY_RUN ]]; then
    echo "$(quoted "$@") &"
  else
    "$@" &
    JOBS="$JOBS $!"
  fi
}

finish() { # 2, the user's mistake, goes before other statuses
  local job last status=0
  if [[ $DRY_RUN ]]; then echo wait; fi
  for job in $JOBS; do wait "$job" || { last=$? && ((status == 2)) || status=$last; }; done
  JOBS=
  return "$status"
}

everywhere() { # LINE of shell, %PROCESS% in it being the host's number
  local vm process=0
  for vm in $VMS; do
    at_once gcloud compute ssh "$vm" "${PLACE[@]}" "${ALIVE[@]/#/--ssh-flag=}" --command="${1//%PROCESS%/$process}"
    process=$((process + 1))
  done
  finish
}

install() {
  local pack="${TMPDIR:-/tmp}/$NAME.tar.gz" vm
  vms && call git archive --format=tar.gz --output="$pack" HEAD || return
  for vm in $VMS; do
    at_once gcloud compute scp "$pack" "$vm:symbert_jax.tar.gz" "${PLACE[@]}" "${ALIVE[@]/#/--scp-flag=}"
  done
  finish && everywhere "$(unpack)"
}

run() { # what these machines tell jax.distributed is not documented, so the launcher tells it
  vms || return
  local FLAGS=("--coordinator=${VMS%%$'\n'*}:$JAX_COORDINATOR_PORT" --process=%PROCESS% "--processes=$(wc -w <<<"$VMS")"
    ${FLAGS[@]+"${FLAGS[@]}"})
  everywhere "$(start)"
}

logs() {
  vms
  call gcloud compute ssh "${VMS%%$'\n'*}" "${PLACE[@]}" "${ALIVE[@]/#/--ssh-flag=}" \
    --command="cd symbert_jax && launch/local.sh logs"
}

stop() {
  vms
  everywhere "cd symbert_jax && launch/local.sh stop"
}

delete() { # what was never made does not keep the rest
  local status=0
  call gcloud compute instance-groups managed delete "$NAME" "${PLACE[@]}" --quiet || status=$?
  call gcloud compute instance-templates delete "$NAME" --project="$PROJECT" --quiet || status=$?
  call gcloud compute resource-policies delete "$NAME" --region="${ZONE%-*}" --project="$PROJECT" --quiet || status=$?
  return "$status"
}

parse "create install run watch logs stop delete" "$@"
require NAME ZONE PROJECT
HOSTS=$(hosts)
if [[ $VERB == run || $VERB == watch ]]; then start >/dev/null; fi
PLACE=("--zone=$ZONE" "--project=$PROJECT")
LIST=(gcloud compute instance-groups managed list-instances "$NAME" "${PLACE[@]}" --sort-by=name)
VMS='' JOBS=''
"$VERB"
