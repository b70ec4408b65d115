"""How fast a GPU multiplies, attends and moves memory in the middle of a training step."""

from dataclasses import dataclass

from mai.plan.hardware import Gpu
from mai.plan.setting import Precision
from mai.plan.software import Software
from mai.plan.work import Multiplication

_MATMUL_SHARE = {"bf16": 0.8, "fp8": 0.71, "fp4": 0.6, "fp32": 0.8}
_LAUNCH_SECONDS = 3e-6


@dataclass(frozen=True, slots=True)
class Rates:
    product_flops: float
    forward_flops: float
    backward_flops: float
    memory_bytes: float
    cast_bytes: float
    """Moved for each number of a product's operands, to make it FP8."""
    traffic: float

    @classmethod
    def of(cls, gpu: Gpu, precision: Precision, software: Software) -> "Rates":
        memory = gpu.hbm_tb_per_second * 1e12 * (gpu.memory_share or 0.9)
        peak = gpu.bf16_tflops * 1e12
        fastest = (gpu.matmul_bf16_tflops or gpu.bf16_tflops * 0.8) * 1e12
        if precision == "fp8":
            assert gpu.fp8_tflops is not None
            fastest = (gpu.matmul_fp8_tflops or gpu.fp8_tflops * 0.72) * 1e12
        elif precision == "fp4":
            assert gpu.fp4_tflops is not None
            fastest = gpu.fp4_tflops * 0.6e12
        return cls(
            product_flops=fastest * software.pace.product_share,
            forward_flops=(gpu.attention_forward_tflops or 0.55 * peak / 1e12) * 1e12,
            backward_flops=(gpu.attention_backward_tflops or 0.42 * peak / 1e12) * 1e12,
            memory_bytes=memory,
            cast_bytes=4.0 if precision in ("fp8", "fp4") else 0.0,
            traffic=software.pace.traffic,
        )

    def product_seconds(self, product: Multiplication) -> float:
        rows, inner, columns = product.rows, product.inner, product.columns
        moved = 2.0 * (rows * inner + inner * columns + rows * columns) * product.times
        cast = self.cast_bytes * (rows * inner + inner * columns) * product.times
        return (
            product.flops / self.product_flops
            + 0.5 * moved / self.memory_bytes
            + cast / self.memory_bytes
            + _LAUNCH_SECONDS
        )
