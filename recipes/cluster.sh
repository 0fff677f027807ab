#!/usr/bin/env bash
#SBATCH --job-name=fastvlm --nodes=4 --ntasks-per-node=2 --cpus-per-task=32
#SBATCH --time=24:00:00 --signal=USR1@600 --requeue
# Full fine-tune on a cluster, batch 128: `sbatch recipes/cluster.sh MODEL DATA.json PICTURES OUTPUT [options]`, or with
# LAUNCHER="mpirun -n 8 --hostfile hosts --map-by ppr:2:node --bind-to none" and any other way of starting MPI.
#
# One rank a socket, each with all its cores. Ten minutes before the time is up every rank gets SIGUSR1: a checkpoint is
# written and the job ends; it goes on from there when it is started again. The output has to be on a file system that
# all nodes see. `fastvlm train --plan` says which stage of ZeRO fits the memory.
set -euo pipefail
model=$1 data=$2 pictures=$3 output=$4
shift 4
ranks=${RANKS:-${SLURM_NTASKS:-8}}
batches=$((128 / (2 * ranks)))
exec ${LAUNCHER:-srun --mpi=pmix} ${FASTVLM:-fastvlm} train --model "$model" --data "$data" --image-folder "$pictures" \
    --output "$output" --resume --zero 2 --threads "${SLURM_CPUS_PER_TASK:-0}" \
    --tune=vision,projector,llm --lr 2e-5 --batch-size 2 --gradient-accumulation-steps "$((batches > 0 ? batches : 1))" \
    --gradient-checkpointing true --bf16 true --group-by-modality-length true \
    --epochs 1 --schedule cosine --warmup-ratio 0.03 --weight-decay 0 --save-steps 50 --save-total-limit 2 "$@"
