"""Where this process computes: CUDA with NCCL, or CPU with gloo. Chosen once, before Megatron-Core is imported.

Nothing else in `mai` asks which device it is on, and no other room reads the environment.
"""

import importlib
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mai.engine.operations import offer_weight_gradient
from mai.errors import EnvironmentMismatchError
from mai.hardware.gpu import gpu_of_torch
from mai.parallel.place import Place

DeviceKind = Literal["cpu", "cuda"]

_CPU_ADAPTER = "mai.engine.cpu_adapter"


@dataclass(frozen=True, slots=True)
class Device:
    """One process's device, with the words that torch uses for it."""

    kind: DeviceKind
    index: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", self.index) if self.kind == "cuda" else torch.device("cpu")

    @property
    def backend(self) -> str:
        return "nccl" if self.kind == "cuda" else "gloo"

    def peak_flops_per_second(self, format_name: str) -> float | None:
        """The card's peak in matrix products of this format; None where it is not known (every CPU)."""
        if self.kind == "cpu":
            return None
        gpu = gpu_of_torch(torch.cuda.get_device_name(self.index))
        tflops = None if gpu is None else gpu.peak_tflops(format_name)
        return None if tflops is None else tflops * 1e12

    def peak_memory_bytes(self) -> int:
        """The most memory this process has held so far: allocated on the card, resident in CPU memory."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.index)
        # Not getrusage's ru_maxrss: a child starts with its parent's (exec keeps the peak of the image it replaces).
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak_kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return peak_kib * 1024

    def synchronize(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize(self.index)


def choose(requested: Literal["auto", "cpu", "cuda"]) -> DeviceKind:
    """The device that this machine can give; raises EnvironmentMismatchError when CUDA is asked for and absent."""
    # Asks the driver's management library, so that no CUDA context exists when ranks are forked later.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if requested == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if requested == "cuda":
        raise EnvironmentMismatchError(
            "--device cuda: torch sees no NVIDIA GPU on this machine "
            f"(torch {torch.__version__}); use --device cpu, or install a CUDA build of torch and its driver"
        )
    return "cpu"


def prepare(kind: DeviceKind) -> None:
    """Make `megatron.core` importable for this device; call before anything imports it, in every process once."""
    _silence_known_warnings()
    offer_weight_gradient()
    if kind == "cpu":
        # Imported by name and not above: a run on CUDA never loads it.
        importlib.import_module(_CPU_ADAPTER).install()
        return
    if _CPU_ADAPTER in sys.modules:
        raise RuntimeError("this process was prepared for the CPU; start another one for CUDA")
    # Megatron's tensor parallelism counts on kernels being started in the order of their launch
    # (megatron/core/tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication).
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def _silence_known_warnings() -> None:
    # Megatron-Core says that Transformer Engine and apex are absent, which is how we use it, and looks at `.grad` of
    # the optimizer's shards; torch 2.13 renames collectives that Megatron-Core 0.16 calls.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    # transformer/transformer_layer.py knows MoELayer by its exact class; ours finds its process groups by itself.
    logging.getLogger("megatron.core.transformer.transformer_layer").addFilter(_is_of_interest)


def _is_of_interest(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unknown MLP type")


def open_device(kind: DeviceKind, place: Place) -> Device:
    """Bind this process to its device: on CUDA the card of its local rank, on a CPU its share of the cores."""
    local_rank = place.local_rank
    if kind == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.world_size))
        return Device(kind="cpu", index=0)
    count = torch.cuda.device_count()
    card = card_of(local_rank, count, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    if card is None:
        raise EnvironmentMismatchError(
            f"local rank {local_rank} has no GPU of its own: this machine has {count}; "
            "start at most one rank a GPU, or use --device cpu"
        )
    torch.cuda.set_device(card)
    return Device(kind="cuda", index=card)


def card_of(local_rank: int, count: int, *, visible: str | None) -> int | None:
    """Which of the cards that this process sees is its own; None where there is none.

    `visible`: CUDA_VISIBLE_DEVICES. A scheduler that gives each rank a card of its own (srun --gpus-per-task=1) lets it
    see that one alone, as the first. NCCL refuses two ranks on one card."""
    if local_rank < count:
        return local_rank
    return 0 if count == 1 and visible else None
