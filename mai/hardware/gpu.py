"""What a GPU gives: `Gpu`, read from a TOML file, and which of them a device is.

A number stands in its file with its source. A number that nobody published is not there, and is None here: unknown,
never guessed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mai.hardware.names import check_name, names_in
from mai.hardware.toml_file import NOT_A_KEY, Findings, build, read_table

_SHIPPED = Path(__file__).parent / "gpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One accelerator. Rates are those of dense matrices, not of sparse ones."""

    name: str = field(metadata=NOT_A_KEY)

    torch_names: tuple[str, ...] = ()
    """What torch.cuda.get_device_name says of one, to the letter; empty where it drives no such GPU."""

    bf16_tflops: float
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    """Peak rates; None where the GPU has no such arithmetic, or its rate is unknown."""

    matmul_bf16_tflops: float | None = None
    matmul_fp8_tflops: float | None = None
    """Measured: the fastest product of two matrices that was found (MAMF)."""

    attention_forward_tflops: float | None = None
    attention_backward_tflops: float | None = None
    """Measured: causal attention with heads of 128, of the half of the square that it needs, over long sequences; what
    short ones reach of it is in mai/plan/time/rates.py."""

    sustained_share: float | None = None
    """What a training step sustains of the product's measured rate: clocks under load. Attention's rates are those of a
    step, or taken as such."""

    memory_share: float | None = None
    """Measured: what a copy reaches of `hbm_tb_per_second`."""

    sold_memory_gb: float
    """As the vendor prints it; some print GB and mean GiB."""

    usable_memory_gib: float | None = None
    """What the driver gives to a process, which is what PyTorch calls the total capacity."""

    hbm_tb_per_second: float

    nvlink_gb_per_second: float | None = None
    """One way, to all neighbours together, over NVLink or what stands in its place."""

    tdp_watts: float | None = None

    eight_gpu_node_watts: float | None = None
    """Measured: mean power of a whole node of eight while it trains."""

    sources: Mapping[str, str] = field(default_factory=dict, metadata=NOT_A_KEY, repr=False, hash=False)
    """Where each number comes from, by its field's name."""

    def peak_tflops(self, format_name: str) -> float | None:
        """Peak of dense matrix products in `bf16`, `fp8` or `fp4`; None for what is not stated, such as fp32."""
        return {"bf16": self.bf16_tflops, "fp8": self.fp8_tflops, "fp4": self.fp4_tflops}.get(format_name)

    @property
    def most_memory_gib(self) -> float:
        """What needs more does not fit: what a process gets or, where nobody published that, all there is."""
        return self.usable_memory_gib or self.sold_memory_gb


def load_gpu(name: str) -> Gpu:
    """The GPU of this name; raises PlanError, with the names there are, when none has it."""
    check_name(name, "GPU", gpu_names())
    file = _SHIPPED / f"{name}.toml"
    findings = Findings()
    gpu = build(Gpu, read_table(file), findings, name=name, sources=findings.sources)
    assert gpu is not None, f"{file} ships with mai: {findings.violations}"
    return gpu


def gpu_names() -> list[str]:
    return names_in(_SHIPPED)


@cache
def gpu_of_torch(name: str) -> Gpu | None:
    """The GPU that torch calls so; None where no file says so: unknown, never guessed."""
    return the_one_called(name, map(load_gpu, gpu_names()))


def the_one_called(name: str, gpus: Iterable[Gpu]) -> Gpu | None:
    """By torch, to the letter: a GB200 is no B200, an H100 NVL no H100, a slice of a GPU (MIG) not the whole.

    None also where two are called so."""
    found = [gpu for gpu in gpus if name in gpu.torch_names]
    return found[0] if len(found) == 1 else None
