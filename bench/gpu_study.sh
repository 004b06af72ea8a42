#!/usr/bin/env bash
# Runs a study, by default configs/study_gpu.py, on a machine with a GPU and without a network, within a time limit.
#
#   bench/gpu_study.sh CORPUS WHEELS OUT [FLAGS of study ...]
#
# CORPUS: the folder of a corpus that `prepare` wrote. WHEELS: a folder with the wheels of the packages that the machine
# lacks; it may be empty. OUT: the folder for the report, its plots, all metrics and the log, 7 small files.
#
# Variables:
#   CONFIG  the config of the study; ARMS must fit it
#   LIMIT   the seconds for training, by default 330; then the report is made of the runs that are finished
#   ARMS    groups of arms, separated by commas in a group and by spaces between groups. A process per group trains its
#           arms one after the other: one process prepares batches or compiles while another trains. By default, the arms
#           of the config in three groups, the most important first.
#   WORK    the folder for checkpoints, by default a temporary one; with the WORK of an earlier call, the study continues
#   PYTHON  the interpreter, by default python3
set -uo pipefail

if (($# < 3)); then
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
corpus=$(realpath "$1") wheels=$(realpath "$2") out=$3
shift 3
mkdir -p "$out"
out=$(realpath "$out")
work=$(realpath -m "${WORK:-$(mktemp -d)}")
mkdir -p "$work"
limit=${LIMIT:-330}
python=${PYTHON:-python3}
first=standard,symmetric,pairwise_unit second=standard_gain,uniform,standard_shared_start
third=pairwise_normal,symmetric_gain
read -ra groups <<<"${ARMS:-$first $second $third}"
cd "$(dirname "$0")/.." || exit

shopt -s nullglob
packages=("$wheels"/*.whl)
if ((${#packages[@]})); then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/packages" "${packages[@]}" || exit
  export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$work/xla
"$python" -c 'import jax; print("jax", jax.__version__, "on", jax.devices())' || exit

command=("$python" -m symbert_jax study --config="${CONFIG:-configs/study_gpu.py}" --workdir="$work/study")
command+=(--config.base.data.dir="$corpus" --config.base.data.sources= "$@")
: "${XLA_PYTHON_CLIENT_MEM_FRACTION:=$("$python" -c "print(0.9 / ${#groups[@]})")}"
export XLA_PYTHON_CLIENT_MEM_FRACTION

# train ARMS: trains arms until the end of the limit; if one fails, the others one by one.
train() {
  local seconds=$((deadline - SECONDS))
  ((seconds > 0)) || return 0
  timeout --signal=TERM --kill-after=30 "$seconds" "${command[@]}" --arms="$1"
  local code=$?
  if ((code == 124 || code == 137)); then
    echo "stopped after $limit seconds"
  elif ((code)) && [[ $1 == *,* ]]; then
    echo "exit code $code: training the arms of $1 one by one"
    local arm
    for arm in ${1//,/ }; do
      train "$arm"
    done
  fi
}

deadline=$((SECONDS + limit))
for i in "${!groups[@]}"; do
  train "${groups[i]}" 2>&1 | sed -u "s/^/[$((i + 1))] /" &
done >"$out/log.txt"
wait
JAX_PLATFORMS=cpu "${command[@]}" --report
code=$?
mkdir -p "$work/study/runs"
(cd "$work/study" && find runs -name metrics.jsonl -print0 | tar --null -czf "$out/metrics.tar.gz" -T -)
for file in report.md report.json loss.png escape.png diagnostics.png; do
  if [[ -e $work/study/$file ]]; then
    cp "$work/study/$file" "$out/"
  fi
done
exit "$code"
