"""In which number format the model computes. Master weights, moments and gradients' sums are always fp32."""

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

FormatName = Literal["bf16", "fp32"]


@plain_dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A number format, in the words of those who ask for it."""

    name: FormatName
    torch: str
    """torch's name, and that of a Hugging Face config.json."""
    safetensors: str
    """The name in the header of a safetensors file."""
    num_bytes: int


FORMATS: Mapping[FormatName, Format] = {
    "fp32": Format(name="fp32", torch="float32", safetensors="F32", num_bytes=4),
    "bf16": Format(name="bf16", torch="bfloat16", safetensors="BF16", num_bytes=2),
}


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class PrecisionConfig:
    compute: FormatName = "bf16"
    """Format of weights and activations in forward and backward."""

    @property
    def format(self) -> Format:
        """What weights, activations and the products of matrices are in; the peak of a GPU is that of this format."""
        return FORMATS[self.compute]

    @property
    def is_mixed(self) -> bool:
        """Whether the model computes with rounded copies of its fp32 weights."""
        return self.format != FORMATS["fp32"]

    @property
    def formats(self) -> tuple[FormatName, ...]:
        """The formats that a certificate compares: fp32 tells a layout's mistakes from rounding."""
        return ("fp32", self.compute) if self.is_mixed else ("fp32",)
