#!/usr/bin/env bash
# launch/gce.sh VERB [--dry-run] [-- FLAGS]: a TPU slice (v5p, v6e) of two or more hosts on Compute Engine, as a
# managed instance group that is created all at once.
#
#   create   creates a workload policy, an instance template and the group; waits until every host runs
#   install  copies the last commit to every host; installs the packages and copies the corpus from DATA there
#   run      trains and waits for the end; after Ctrl-C training continues, and another `run` waits for its end
#   watch    does all of these, and after a preemption does them again from the last checkpoint, until training ends
#   logs     follows the log of the first host
#   stop     saves a checkpoint and ends training
#   delete   deletes the slice
#
# Environment variables:
#   NAME  ZONE  PROJECT
#   MACHINE   ct5p-hightpu-4t, ct6e-standard-4t             TOPOLOGY  chips: 4x4, 2x2x4, …
#   IMAGE     image family of ubuntu-os-accelerator-images (ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e)
#   SPOT=1    preemptible
#   CONFIG    a file in configs/                            WORKDIR   gs://…
#   COMMAND   pretrain (default) or finetune                DATA      gs://… of a prepared corpus or of GLUE
#   POLL      seconds between two queries of the slice (30)
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
  call gcloud compute instance-groups managed create "$NAME" "${SCOPE[@]}" --template="$NAME" --size="$HOSTS" \
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

find_vms() { # sets VMS to the names of the hosts; the first one runs process 0
  VMS=$(ask "$(seq -f "$NAME-%g" 0 $((HOSTS - 1)))" "${LIST[@]}" '--format=value(name)')
}

run_in_background() { # COMMAND...: starts a command, which `wait_for_all` waits for
  if [[ $DRY_RUN ]]; then
    echo "$(quote "$@") &"
  else
    "$@" &
    JOBS="$JOBS $!"
  fi
}

wait_for_all() { # returns 2, a user error, if any job returned 2; else the last status that is not 0, or 0
  local job last status=0
  if [[ $DRY_RUN ]]; then echo wait; fi
  for job in $JOBS; do wait "$job" || { last=$? && ((status == 2)) || status=$last; }; done
  JOBS=
  return "$status"
}

on_all_hosts() { # LINE: runs a shell command on each host; %PROCESS% in it stands for the number of the host
  local vm process=0
  for vm in $VMS; do
    run_in_background gcloud compute ssh "$vm" "${SCOPE[@]}" "${SSH_OPTIONS[@]/#/--ssh-flag=}" \
      --command="${1//%PROCESS%/$process}"
    process=$((process + 1))
  done
  wait_for_all
}

install() {
  local pack="${TMPDIR:-/tmp}/$NAME.tar.gz" vm
  find_vms && call git archive --format=tar.gz --output="$pack" HEAD || return
  for vm in $VMS; do
    run_in_background gcloud compute scp "$pack" "$vm:symbert_jax.tar.gz" "${SCOPE[@]}" \
      "${SSH_OPTIONS[@]/#/--scp-flag=}"
  done
  wait_for_all && on_all_hosts "$(install_line)"
}

run() { # jax.distributed does not detect these hosts, so it gets their addresses as flags
  find_vms || return
  local FLAGS=("--coordinator=${VMS%%$'\n'*}:$JAX_COORDINATOR_PORT" --process=%PROCESS% "--processes=$(wc -w <<<"$VMS")"
    ${FLAGS[@]+"${FLAGS[@]}"})
  on_all_hosts "$(start_line)"
}

logs() {
  find_vms
  call gcloud compute ssh "${VMS%%$'\n'*}" "${SCOPE[@]}" "${SSH_OPTIONS[@]/#/--ssh-flag=}" \
    --command="cd symbert_jax && launch/local.sh logs"
}

stop() {
  find_vms
  on_all_hosts "cd symbert_jax && launch/local.sh stop"
}

delete() { # deletes each resource, also if another one cannot be deleted
  local status=0
  call gcloud compute instance-groups managed delete "$NAME" "${SCOPE[@]}" --quiet || status=$?
  call gcloud compute instance-templates delete "$NAME" --project="$PROJECT" --quiet || status=$?
  call gcloud compute resource-policies delete "$NAME" --region="${ZONE%-*}" --project="$PROJECT" --quiet || status=$?
  return "$status"
}

parse "create install run watch logs stop delete" "$@"
require NAME ZONE PROJECT
HOSTS=$(count_hosts)
if [[ $VERB == run || $VERB == watch ]]; then start_line >/dev/null; fi # ends on a user error before anything starts
SCOPE=("--zone=$ZONE" "--project=$PROJECT")
LIST=(gcloud compute instance-groups managed list-instances "$NAME" "${SCOPE[@]}" --sort-by=name)
VMS='' JOBS=''
"$VERB"
