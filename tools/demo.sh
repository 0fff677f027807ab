#!/usr/bin/env bash
# `make demo`: the built-in model answers about a picture. $1 is the build folder.
#   make demo                                      docs/demo.jpg, which draw_scenes drew
#   make demo SEED=12                              a new picture from draw_scenes, with the questions that come with it
#   make demo IMAGE=photo.jpg PROMPT="Is it red?"  yours; MODEL=... asks another model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build}
image=${IMAGE:-docs/demo.jpg}
questions=("How many circles are there?" "What shape is the pink object?" "Describe the picture.")
if [ -n "${SEED:-}" ]; then
    [ -x "$build/tools/scenes/draw_scenes" ] || {
        echo "demo: SEED needs draw_scenes, which needs cairo and fonts: \`make scenes\` installs them and builds it" >&2
        exit 1
    }
    "$build/tools/scenes/draw_scenes" --count 1 --seed "$SEED" --camera 0 --output "$build/demo"
    image=$build/demo/$(sed 's/.*"image":"\([^"]*\)".*/\1/' "$build/demo/data.jsonl")
    mapfile -t questions < <(grep -o '"human","value":"[^"]*"' "$build/demo/data.jsonl" |
        sed 's/.*:"//; s/"$//; s/<image>\\n//' | head -3)
elif [ -n "${IMAGE:-}" ]; then
    questions=("Describe the picture.")
fi
[ -z "${PROMPT:-}" ] || questions=("$PROMPT")

show=(--show auto)
for question in "${questions[@]}"; do
    printf '\n$ %s predict %s--image %s --prompt "%s"\n' "$build/fastvlm" "${MODEL:+--model $MODEL }" "$image" "$question"
    "$build/fastvlm" predict ${MODEL:+--model "$MODEL"} --image "$image" --prompt "$question" --temperature 0 --stats \
        "${show[@]}"
    show=()
done
