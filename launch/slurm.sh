#!/usr/bin/env bash
# launch/slurm.sh VERB [--dry-run] [-- FLAGS]: GPUs of a SLURM cluster, one process a GPU. Run it on the login node, in
# a folder that all nodes share; jax.distributed finds its processes by SLURM's variables.
#
#   install  packages into .venv (JAX=cuda13), the corpus from DATA into data/
#   run      hands the job over; it saves before the time limit or at preemption, goes to the queue again and goes on
#   logs     follows the job's log, runs/NAME.log
#   stop     saves and ends; a job that still waits is cancelled
#
# Knobs in the environment:
#   NAME  NODES (1)  GPUS, of a node (8)  CPUS, of a GPU (8)  TIME (24:00:00)
#   CONFIG   a file of configs/                             WORKDIR  a shared folder or gs://…
#   COMMAND  pretrain (default) or finetune                 DATA     gs://… of a prepared corpus, or of GLUE's folders
#   SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS, …         sbatch reads these itself
# FLAGS go to python -m symbert_jax: -- --config.model.attention=pairwise

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

NODES=${NODES:-1} GPUS=${GPUS:-8} CPUS=${CPUS:-8} TIME=${TIME:-24:00:00}

install() {
  JAX=${JAX:-cuda13} launch/local.sh install ${DRY_RUN:+--dry-run}
}

job() { # SIGTERM reaches the tasks alone; the one that had it returns 143 when it has saved
  training .venv/bin/python
  cat <<END
#!/usr/bin/env bash
srun --cpus-per-task=$CPUS --kill-on-bad-exit=0 $(quoted launch/restart.sh "${TRAINING[@]}")
status=\$?
if ((status == 143)); then scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$status"
END
}

run() {
  local script
  script=$(job)
  call mkdir -p runs
  feed "$script" sbatch --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$GPUS" --gpus-per-node="$GPUS" \
    --cpus-per-task="$CPUS" --time="$TIME" --requeue --signal=TERM@300 --open-mode=append --output="runs/$NAME.log"
}

logs() {
  call tail -n 100 -F "runs/$NAME.log"
}

stop() {
  local job
  call scancel --user="$(id -un)" --name="$NAME" --state=PENDING
  for job in $(ask JOBID squeue --user="$(id -un)" --name="$NAME" --noheader --format=%A); do
    call scontrol update JobId="$job" Requeue=0 # or it would queue itself again
    call scancel --signal=TERM "$job"
  done
}

parse "install run logs stop" "$@"
require NAME
"$VERB"
