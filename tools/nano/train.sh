#!/usr/bin/env bash
# Train the built-in model from nothing: `make nano`, or train.sh [BUILD [FOLDER [PART]]]. What is done is kept in FOLDER
# (default: BUILD/nano), and the next call goes on from there. PART: thousandths of pictures and steps (default: 1000), to
# try the stages out. docs/training.md tells what each is for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build}
work=${2:-$build/nano}
part=${3:-1000}
sets=(objects text charts others)
mkdir -p "$work"

# draw NAME COUNT SEED KINDS OPTION...
draw() {
    if [ ! -d "$work/$1" ]; then
        echo "nano: drawing $1"
        "$build/tools/scenes/draw_scenes" -n $(($2 * part / 1000)) -s "$3" -k "$4" "${@:5}" -o "$work/$1.part"
        mv "$work/$1.part" "$work/$1"
    fi
}

# train NAME MODEL SETS STEPS OPTION...
train() {
    local data=() set
    for set in $3; do
        data+=(--data "$work/$set/data.jsonl" --image-folder "$work/$set")
    done
    if [ ! -f "$work/$1/model.safetensors" ]; then
        echo "nano: training $1 from $2"
        "$build/fastvlm" train --model "$work/$2" "${data[@]}" --output "$work/$1" --max-steps $((($4 * part + 999) / 1000)) \
            --precision bf16 --weight-decay 0.01 --save-steps 250 --save-total-limit 1 --report-to none --resume \
            "${@:5}"
    fi
}

draw objects 26000 101 objects --questions 8
draw text 30000 102 text --questions 8
draw charts 16000 103 chart,clock --questions 8
draw others 12000 104 screen,sign,face --questions 8
draw described 12000 105 objects,text,chart,clock,sign,face,screen --types description,background

if [ ! -f "$work/start/model.safetensors" ]; then
    "$build/tools/train_vocabulary" 640 "$work/start" "$work"/{objects,text,charts,others}/data.jsonl
    "$build/tools/make_demo_model" "$work/start" nano
fi

# The tower alone, by what is where; the language model on its features, descriptions first; then all of it, still with what
# is where.
train tower start "${sets[*]}" 4000 --objective labels --tune vision --batch-norm batch --batch-size 64 --lr 1.5e-3 \
    --warmup-steps 60
train described-model tower described 350 --tune projector,llm --batch-size 32 --lr 2e-3 --warmup-steps 40
train asked described-model "${sets[*]}" 4000 --tune projector,llm --batch-size 32 --lr 2e-3 --warmup-steps 40 --seed 8
train joint asked "${sets[*]}" 5000 --objective both --tune vision,projector,llm --batch-norm batch --batch-size 32 \
    --lr 1e-3 --mm-vision-tower-lr 7e-4 --warmup-steps 40 --seed 7

"$build/fastvlm" convert --quiet --model "$work/joint" --type q8_0 --output "$work/nano.gguf"
cat <<END
nano: $work/nano.gguf is trained. To ship it: copy it to models/nano/, run ninja, then tools/nano_report.py examples
and tools/nano_report.py scores --checkpoint $work/joint.
END
