#!/usr/bin/env bash
# A small adapter for a laptop: rank 16, alpha 32, batch 8. MODEL may be quantised.
#
#   recipes/lora_small.sh MODEL DATA.json PICTURES OUTPUT [more options of fastvlm train]
set -euo pipefail
model=$1 data=$2 pictures=$3 output=$4
shift 4
exec ${FASTVLM:-fastvlm} train --model "$model" --data "$data" --image-folder "$pictures" --output "$output" --resume \
    --lora true --lora-r 16 --lora-alpha 32 --lr 2e-4 --mm-projector-lr 2e-5 --bf16 true \
    --batch-size 1 --gradient-accumulation-steps 8 --gradient-checkpointing true \
    --epochs 1 --schedule cosine --warmup-ratio 0.03 --weight-decay 0 \
    --save-steps 50 --save-total-limit 2 "$@"
