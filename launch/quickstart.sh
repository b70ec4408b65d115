#!/bin/sh
# Train the quick start on the device asked for (auto, cpu or cuda) and say which it is and why; `make quickstart`
# calls this: sh launch/quickstart.sh DEVICE [mai train's own arguments]
set -eu

device=$1
shift
gpu=$(nvidia-smi -L 2>/dev/null | grep -m 1 '^GPU ' || true)

case $device in
    auto) if [ -n "$gpu" ]; then device=cuda; else device=cpu; fi ;;
    cpu) ;;
    cuda) if [ -z "$gpu" ]; then echo "DEVICE=cuda, but nvidia-smi lists no GPU here; leave DEVICE out." >&2 && exit 83; fi ;;
    *) echo "DEVICE=$device is none of: auto, cpu, cuda." >&2 && exit 2 ;;
esac

if [ $device = cuda ]; then
    echo "Training with one process on $gpu (on 8 CPU processes instead: make quickstart DEVICE=cpu)"
    # One rank holds the whole model; larger micro-batches keep the GPU busy.
    set -- parallel.tensor=1 parallel.sequence=false parallel.pipeline=1 parallel.data=1 \
        parallel.micro_batch_sequences=16 precision.compute=bf16 "$@"
elif [ -n "$gpu" ]; then
    echo "Training with 8 processes on the CPU, as DEVICE=cpu asks (this machine has $gpu)"
else
    echo "Training with 8 processes on the CPU: nvidia-smi lists no GPU here"
fi
exec .venv/bin/mai train quickstart --device $device "$@"
