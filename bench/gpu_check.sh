#!/usr/bin/env bash
# Runs bench.gpu_check on a machine with one NVIDIA GPU and without a network: about 10 minutes on an H100.
#
#   bench/gpu_check.sh DATA WHEELS OUT [FLAGS of bench.gpu_check ...]
#
# DATA: a folder with `glue`, which holds RTE, and `vocab.txt` of bert-base-uncased. WHEELS: a folder with the wheels of
# the packages that the machine lacks; it may be empty. Torch and transformers are peers, in the same environment. OUT:
# the folder for the report and the logs.
set -euo pipefail

if (($# < 3)); then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
data=$(realpath "$1") wheels=$(realpath "$2") out=$(realpath -m "$3")
shift 3
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

shopt -s nullglob
packages=("$wheels"/*.whl)
if ((${#packages[@]})); then
  site=${SITE:-$(mktemp -d)}
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "${packages[@]}"
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
PEERS_PYTHON=$(command -v "$python")
export PEERS_PYTHON
exec "$python" -m bench.gpu_check --glue="$data/glue" --vocab="$data/vocab.txt" --out="$out" "$@"
