#!/usr/bin/env bash
# Stage 2: everything learns from instructions, starting from what stage 1.5 wrote; batch 128.
#
#   recipes/stage2.sh MODEL DATA.json PICTURES OUTPUT [more options of fastvlm train]
set -euo pipefail
model=$1 data=$2 pictures=$3 output=$4
shift 4
exec ${FASTVLM:-fastvlm} train --model "$model" --data "$data" --image-folder "$pictures" --output "$output" --resume \
    --tune vision,projector,llm --lr 2e-5 --batch-size 2 --gradient-accumulation-steps 64 \
    --gradient-checkpointing true --group-by-modality-length true \
    --epochs 1 --schedule cosine --warmup-ratio 0.03 --weight-decay 0 \
    --save-steps 100 --save-total-limit 2 "$@"
