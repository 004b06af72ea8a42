#!/usr/bin/env bash
# launch/slurm.sh VERB [--dry-run] [-- FLAGS]: GPUs of a SLURM cluster, one process per GPU. Run this script on the
# login node, in a folder that all nodes share; jax.distributed finds its processes by SLURM's variables.
#
#   install  installs the packages in .venv; copies the corpus from DATA to data/
#   run      submits the job; before the time limit and at a preemption, it saves and is queued again to continue
#   logs     follows the log of the job, runs/NAME.log
#   stop     saves a checkpoint and ends the job; cancels a job that is still pending
#
# Environment variables:
#   NAME  NODES (1)  GPUS per node (8)  CPUS per GPU (8)  TIME of the job at most (24:00:00)
#   JAX      the extra of jax to install (cuda13)
#   CONFIG   a file in configs/                             WORKDIR  a shared folder or gs://…
#   COMMAND  pretrain (default) or finetune                 DATA     gs://… of a prepared corpus or of GLUE
#   SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS, …         sbatch reads these itself
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

NODES=${NODES:-1} GPUS=${GPUS:-8} CPUS=${CPUS:-8} TIME=${TIME:-24:00:00}

install() {
  JAX=${JAX:-cuda13} launch/local.sh install ${DRY_RUN:+--dry-run}
}

job_script() { # prints the script. Only its tasks receive SIGTERM; they return 143 when they have saved
  set_training_command .venv/bin/python
  cat <<END
#!/usr/bin/env bash
srun --cpus-per-task=$CPUS --kill-on-bad-exit=0 $(quote launch/restart.sh "${TRAINING[@]}")
status=\$?
if ((status == 143)); then scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$status"
END
}

run() {
  local script
  script=$(job_script)
  call mkdir -p runs
  feed "$script" sbatch --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$GPUS" --gpus-per-node="$GPUS" \
    --cpus-per-task="$CPUS" --time="$TIME" --requeue --signal=TERM@300 --open-mode=append --output="runs/$NAME.log"
}

logs() {
  call tail -n 100 -F "runs/$NAME.log"
}

stop() {
  local ids job
  call scancel --user="$(id -un)" --name="$NAME" --state=PENDING
  ids=$(ask JOBID squeue --user="$(id -un)" --name="$NAME" --noheader --format=%A)
  for job in $ids; do
    call scontrol update JobId="$job" Requeue=0 # otherwise the job would be queued again
    call scancel --signal=TERM "$job"
  done
}

parse "install run logs stop" "$@"
require NAME
"$VERB"
