#!/usr/bin/env bash
# `make demo`: a small checkpoint with made-up weights answers about docs/boat.png. $1 is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build}
model=$build/demo-model
"$build/tools/make_demo_model" "$model"
cat <<END

The model in $model is a small one whose weights are random numbers: its answer means nothing.
It shows that everything runs. For real answers: fastvlm pull llava-fastvithd_0.5b_stage3

\$ $build/fastvlm predict --model $model --image docs/boat.png --prompt "What is in the picture?"
END
"$build/fastvlm" predict --model "$model" --image docs/boat.png --prompt "What is in the picture?" \
    --temperature 1 --top-k 12 --repetition-penalty 1.2 --seed 7 --max-tokens 16 --stats
