#!/usr/bin/env bash
# `make bench`: every kernel by itself, the machine's limits, then a whole answer. $1 is the build folder; MODEL a checkpoint or a
# model's name, the built-in one unless given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build}
for program in "$build"/tests/kernels/test_*; do
    if [ -f "$program" ] && [ -x "$program" ]; then
        echo "== $(basename "$program")"
        "$program" --bench
    fi
done
echo "== the machine"
"$build/fastvlm" bench --roofline
model=${MODEL:-nano}
echo "== $model"
"$build/fastvlm" bench --model "$model"
