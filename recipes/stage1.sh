#!/usr/bin/env bash
# Stage 1 of the paper: the projector learns to speak to the language model, from captions; batch 256.
#
#   recipes/stage1.sh MODEL DATA.json PICTURES OUTPUT [more options of fastvlm train]
set -euo pipefail
model=$1 data=$2 pictures=$3 output=$4
shift 4
exec ${FASTVLM:-fastvlm} train --model "$model" --data "$data" --image-folder "$pictures" --output "$output" --resume \
    --tune projector --lr 1e-3 --batch-size 4 --gradient-accumulation-steps 64 \
    --epochs 1 --schedule cosine --warmup-ratio 0.03 --weight-decay 0 \
    --save-steps 100 --save-total-limit 2 "$@"
