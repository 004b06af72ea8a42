#!/usr/bin/env bash
# Runs the study of configs/study_gpu.py on a machine with a GPU and without a network, within a time limit.
#
#   bench/gpu_study.sh CORPUS WHEELS OUT [FLAGS of study ...]
#
# CORPUS: the folder of a corpus that `prepare` wrote. WHEELS: a folder with the wheels of the packages that the machine
# lacks; it may be empty. OUT: the folder for the report, its plots, all metrics and the logs, 8 small files.
#
# Variables:
#   LIMIT   the seconds for training, by default 330; then the report is made of the runs that are finished
#   GROUPS_OF_ARMS  one process per group trains its arms, separated by commas, one after the other, so that one process
#           compiles while another trains; by default the arms of the config in two groups
#   WORK    the folder for checkpoints, by default a temporary one; with the WORK of an earlier call, the study continues
#   PYTHON  the interpreter, by default python3
set -uo pipefail

if (($# < 3)); then
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
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
# Arms of one attention differ only in their initial values and share their compiled programs.
first=standard,symmetric,uniform,standard_shared_start
second=pairwise_normal,standard_gain,symmetric_gain,pairwise_unit
read -ra groups <<<"${GROUPS_OF_ARMS:-$first $second}"
cd "$(dirname "$0")/.." || exit

shopt -s nullglob
packages=("$wheels"/*.whl)
if ((${#packages[@]})); then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/packages" "${packages[@]}" || exit
  export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$work/xla
"$python" -c 'import jax; print("jax", jax.__version__, "on", jax.devices())' || exit

command=("$python" -m symbert_jax study --config=configs/study_gpu.py --workdir="$work/study")
command+=(--config.base.data.dir="$corpus" --config.base.data.sources= "$@")
XLA_PYTHON_CLIENT_MEM_FRACTION=$("$python" -c "print(0.9 / ${#groups[@]})")
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
  train "${groups[i]}" >"$out/log_$((i + 1)).txt" 2>&1 &
done
wait
tail -n 3 "$out"/log_*.txt
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
