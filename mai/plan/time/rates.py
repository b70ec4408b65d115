"""How fast a GPU multiplies, attends and moves memory in the middle of a training step."""

from dataclasses import dataclass

from mai.errors import PlanError
from mai.hardware.gpu import Gpu
from mai.plan.model.work import Multiplication
from mai.plan.setting.setting import Precision
from mai.plan.software import Software

_BF16_BYTES, _SUM_BYTES = 2, 4

_LAUNCH_SECONDS = 3e-6
"""From the end of one kernel to the start of the next: 636 kernels left an H100 idle for 7 of 194 ms beside gaps over
20 us (benchmarks/results/step_profile_layers_8b_cuda_2026-11-26.txt), and the last wave of a kernel is not full."""

_HALF_LENGTH = 1300
"""Tokens of a sequence at which attention reaches half of its rate for long ones: at 4,096 it has 0.88 of what it has
at 8,192. cuDNN's on an H100 had 0.84 in the middle of a step of what it reached alone at 8,192, and 0.92 of what a step
sustains of that (benchmarks/results, step_profile and kernels_h100 of 2026-11-26)."""

_EXPOSED_SHARE = 0.5
"""The share of the time to move a product's operands in which it does not multiply: 0 would be a roofline, and cuBLAS
on an H100 loses some tenth of its rate from 8,192 to 4,096 rows and columns (MAMF, stas00/ml-engineering)."""

_SLOWEST_GPU = 0.95
"""The slowest of many sets the pace: GPUs of one node differ by 5% or more (Sinha et al., arXiv 2208.11035)."""

_ASSUMED_MATMUL_SHARE = 0.72
"""What the fastest product reaches of the peak, where nobody measured: as on a GB200 (MAMF)."""
_FP32_SHARE = 1 / 16
"""The fp32 peak over the bf16 one: outside the tensor cores, as torch leaves TF32 off. 19.5 of 312 on an A100, 67 of
989 on an H100 (their data sheets); other GPUs differ."""
_ASSUMED_SUSTAINED_SHARE = 0.9
_ASSUMED_COPY_SHARE = 0.9
_ASSUMED_ATTENTION_SHARES = 0.69, 0.51
"""Forward and backward, of the bf16 peak: those of an H100."""


@dataclass(frozen=True, slots=True)
class Rates:
    product_flops: float
    grouped_flops: float
    forward_attention_flops: float
    backward_attention_flops: float
    memory_bytes: float
    is_quantised: bool
    """Products read FP8 or FP4, which something has to write."""

    @classmethod
    def of(cls, gpu: Gpu, precision: Precision, software: Software, *, num_gpus: int) -> "Rates":
        """A step's; raises PlanError where the GPU has no such arithmetic."""
        pace = software.pace
        slowest = _SLOWEST_GPU if num_gpus > 1 else 1.0
        products = _fastest_tflops(gpu, precision) * 1e12 * (gpu.sustained_share or _ASSUMED_SUSTAINED_SHARE) * slowest
        attention = gpu.attention_forward_tflops, gpu.attention_backward_tflops
        forward, backward = (
            (known or share * gpu.bf16_tflops) * 1e12 * slowest * pace.attention_share
            for known, share in zip(attention, _ASSUMED_ATTENTION_SHARES, strict=True)
        )
        return cls(
            product_flops=products * pace.product_share,
            grouped_flops=products * pace.grouped_share,
            forward_attention_flops=forward,
            backward_attention_flops=backward,
            memory_bytes=memory_bytes_per_second(gpu),
            is_quantised=precision in ("fp8", "fp4"),
        )

    def product_seconds(self, product: Multiplication) -> tuple[float, float]:
        """How long a product takes forward, and the two of its backward pass: for its input, and for its matrix."""
        inputs = product.rows * product.inner * product.times
        matrix = product.inner * product.columns * product.times
        outputs = product.rows * product.columns * product.times
        rate = self.grouped_flops if product.is_grouped else self.product_flops
        # The sum of a matrix's gradients is read and written.
        moved_back = _BF16_BYTES * (2 * inputs + 2 * outputs + matrix) + 2 * _SUM_BYTES * matrix
        forward = _LAUNCH_SECONDS + self._seconds(product.flops / rate, _BF16_BYTES * (inputs + matrix + outputs))
        backward = 2 * _LAUNCH_SECONDS + self._seconds(2 * product.flops / rate, moved_back)
        if self.is_quantised:
            # Read as bf16, written as it is and transposed. A matrix is quantised once a step.
            forward += 2 * _BF16_BYTES * inputs / self.memory_bytes
            backward += 2 * _BF16_BYTES * outputs / self.memory_bytes
        return forward, backward

    def _seconds(self, multiplying: float, num_bytes: float) -> float:
        moving = num_bytes / self.memory_bytes
        return max(multiplying + _EXPOSED_SHARE * moving, moving)

    def attention_seconds(self, flops: float, *, length: float) -> tuple[float, float]:
        """Fused, forward and backward, of sequences that are computed in pieces of so many tokens."""
        slower = 1 + _HALF_LENGTH / length
        return flops / self.forward_attention_flops * slower, 2.5 * flops / self.backward_attention_flops * slower


def memory_bytes_per_second(gpu: Gpu) -> float:
    """That a copy reaches, read and written together."""
    return gpu.hbm_tb_per_second * 1e12 * (gpu.memory_share or _ASSUMED_COPY_SHARE)


def _fastest_tflops(gpu: Gpu, precision: Precision) -> float:
    peaks = {
        "fp32": (gpu.bf16_tflops * _FP32_SHARE, None),
        "bf16": (gpu.bf16_tflops, gpu.matmul_bf16_tflops),
        "fp8": (gpu.fp8_tflops, gpu.matmul_fp8_tflops),
        "fp4": (gpu.fp4_tflops, None),
    }
    peak, measured = peaks[precision]
    if peak is None:
        raise PlanError(f"precision={precision}: {gpu.name} has no such arithmetic, or nobody published its rate")
    return measured or peak * _ASSUMED_MATMUL_SHARE
