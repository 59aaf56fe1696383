#!/usr/bin/env bash
# All measurements on a GPU, within 8 minutes: results/NAME.CARD.json. PYTHON names one outside .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-.venv/bin/python}
failed=0

measure() { # seconds that it may take, script, its options
  local began=$SECONDS
  timeout "$1" "$python" "benchmarks/$2.py" --device cuda "${@:3}" || { echo "$2: failed, or over $1 s" >&2; failed=1; }
  echo "$2: $((SECONDS - began)) s"
}

timeout 90 "$python" -m tvr_lightning data shapes
measure 70 score --large
measure 70 memory
measure 190 train_gpu --compile
measure 60 train_step --experiment lean_shapes --tracker none

exit "$failed"
