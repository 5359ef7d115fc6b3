#!/bin/bash
# A recipe on a cluster of Slurm: all GPUs of two machines, as one job that resumes itself.
#
#     sbatch dl/mytorch/large/launch/slurm.sh dl.modules.GPT.GPT2.train --parallel fsdp --out runs/gpt2
#     sbatch --nodes=8 --gpus-per-node=4 --time=1-0 dl/mytorch/large/launch/slurm.sh ...
#
# Start it where the project is installed; RANKS=2 in front says how many processes a machine has, default: one for each GPU.
# Two minutes before the time is over the ranks are asked to stop, save the run, and the job queues again. After a machine
# is lost, Slurm queues it again by itself. What resumes is the run in --out, a folder that all machines see.
#SBATCH --job-name=dl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=4:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

# The signal goes to this shell alone. To pass it on by `kill` would have srun kill the ranks at once, without a save.
stopped=
trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM

# Where ranks meet. Without an answer there is no other place to take: on localhost each machine would train alone.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
[ -n "$first" ] || { echo "error: scontrol does not name the machines of this job" >&2; exit 1; }
port=$((20000 + SLURM_JOB_ID % 10000))  # of this job: another one may run on the same machine

# torchrun gives ranks 30 seconds to save, where it cannot be told otherwise: before torch 2.13.
patience=
torchrun --help | grep -q -e --shutdown-timeout && patience=--shutdown-timeout=100

[ -z "$SLURM_RESTART_COUNT" ] || set -- "$@" --no-fresh  # --fresh counts for the first start only

srun torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${RANKS:-gpu}" $patience \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:$port" -m "$@" &
wait $!  # for the end, or for the signal
status=$?
wait  # for the save
[ -z "$stopped" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
