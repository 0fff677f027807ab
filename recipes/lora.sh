#!/usr/bin/env bash
# An adapter of the size in LLaVA's script, on one machine: rank 128, alpha 256, batch 16. MODEL may be quantised.
#
#   recipes/lora.sh MODEL DATA.json PICTURES OUTPUT [more options of fastvlm train]
set -euo pipefail
model=$1 data=$2 pictures=$3 output=$4
shift 4
exec ${FASTVLM:-fastvlm} train --model "$model" --data "$data" --image-folder "$pictures" --output "$output" --resume \
    --lora true --lora-r 128 --lora-alpha 256 --lr 2e-4 --mm-projector-lr 2e-5 --bf16 true \
    --batch-size 1 --gradient-accumulation-steps 16 --gradient-checkpointing true \
    --epochs 1 --schedule cosine --warmup-ratio 0.03 --weight-decay 0 \
    --save-steps 50 --save-total-limit 2 "$@"
