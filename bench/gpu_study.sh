#!/usr/bin/env bash
# Runs the study of configs/study_gpu.py on a machine with a GPU and without a network, within a time limit.
#
#   bench/gpu_study.sh CORPUS WHEELS OUT [FLAGS of study ...]
#
# CORPUS: the folder of a corpus that `prepare` wrote. WHEELS: a folder with the wheels of the packages that the machine
# lacks; it may be empty. OUT: the folder for the report, at most 8 small files. LIMIT: the seconds for training, by
# default 390, after which the report is made of the runs that are finished. Checkpoints stay in WORK, by default a
# temporary folder; with the WORK of an earlier call, the study continues.
set -euo pipefail

if (($# < 3)); then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
corpus=$(realpath "$1") wheels=$(realpath "$2") out=$3
shift 3
mkdir -p "$out"
out=$(realpath "$out")
work=$(realpath -m "${WORK:-$(mktemp -d)}")
limit=${LIMIT:-390}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

shopt -s nullglob
packages=("$wheels"/*.whl)
if ((${#packages[@]})); then
  "$python" -m pip install --quiet --no-index --no-deps --target "$work/packages" "${packages[@]}"
  export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -c 'import jax; print("jax", jax.__version__, "on", jax.devices())'

command=("$python" -m symbert_jax study --config=configs/study_gpu.py --workdir="$work/study")
command+=(--config.base.data.dir="$corpus" --config.base.data.sources= "$@")
code=0
timeout --signal=TERM --kill-after=60 "$limit" "${command[@]}" || code=$?
if ((code == 124)); then
  echo "stopped after $limit seconds"
  code=0
fi
"${command[@]}" --report || code=$?
(cd "$work/study" && find runs -name metrics.jsonl -print0 | tar --null -czf "$out/metrics.tar.gz" -T -)
for file in report.md report.json loss.png escape.png diagnostics.png; do
  if [[ -e $work/study/$file ]]; then
    cp "$work/study/$file" "$out/"
  fi
done
exit "$code"
