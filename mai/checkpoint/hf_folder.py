"""A folder in Hugging Face's format: config.json and safetensors, opened without reading a weight.

Nothing else is read: no pickled weights, no code that the folder brings. A quantised tensor is read as what it stands
for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mai.errors import CheckpointError
from mai.model.hf_rules import Source

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"

# Block-wise FP8 of DeepSeek-V3 (config.json, quantization_config.weight_block_size).
_FP8_BLOCK = 128
# The sixteen numbers of OCP MXFP4, by code; 32 of them share an exponent, two stand in a byte, the low half first.
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, slots=True)
class Located:
    """One tensor: in which file, of which shape and dtype (safetensors' name); quantised ones as they are read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    quantised: str = ""
    """`fp8` or `mxfp4`, with a tensor of scales beside it."""


@dataclass(frozen=True, slots=True)
class HfFolder:
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Located]

    @property
    def num_quantised(self) -> int:
        return sum(bool(located.quantised) for located in self.tensors.values())

    def read(self, source: Source) -> Tensor:
        """The tensor, or one entry of it, in its own dtype (fp32 where it is quantised)."""
        located = self.tensors[source.name]
        with safe_open(located.file, framework="pt") as file:
            if located.quantised == "fp8":
                values, scales = file.get_tensor(source.name), file.get_tensor(f"{source.name}_scale_inv")
                return _from_fp8(values, scales)
            name = f"{source.name}_blocks" if located.quantised else source.name
            entry = slice(None) if source.entry is None else source.entry
            values = file.get_slice(name)[entry] if file.get_slice(name).get_shape() else file.get_tensor(name)
            if located.quantised == "mxfp4":
                return _from_mxfp4(values, file.get_slice(f"{source.name}_scales")[entry])
            return values  # type: ignore[no-any-return]


def open_hf_folder(path: Path) -> HfFolder:
    """Raises CheckpointError with all that is wrong with it."""
    config = _json(path / "config.json")
    wrong: list[str] = []
    found: dict[str, Located] = {}
    for file in _weight_files(path):
        there, damage = _tensors_of(file)
        wrong += [damage] if damage else []
        wrong += [f"{file}: {name} stands in {found[name].file.name} as well" for name in there.keys() & found.keys()]
        found |= there
    if wrong:
        raise CheckpointError("\n".join(wrong))
    return HfFolder(path, config, _as_read(found))


def _tensors_of(file: Path) -> tuple[dict[str, Located], str]:
    """What the file's header says, or what is wrong with the file."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (safe_open is no dict)
            return {name: Located(file, tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}, ""
    except (OSError, SafetensorError) as error:
        return {}, f"{file}: damaged or cut off ({error}); copy it again"


def _weight_files(path: Path) -> Sequence[Path]:
    if (path / _INDEX).exists():
        names = sorted(set(_json(path / _INDEX).get("weight_map", {}).values()))
        strange = [name for name in names if Path(name).name != name]
        missing = [name for name in names if name not in strange and not (path / name).is_file()]
        if strange or missing or not names:
            raise CheckpointError(f"{path / _INDEX}: names no files, or files that are not here: {strange + missing}")
        return [path / name for name in names]
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    others = sorted(file.name for file in path.glob("*.bin")) + sorted(file.name for file in path.glob("*.pt"))
    has = f"; {', '.join(others[:3])} can run code when read: save the model as safetensors" if others else ""
    raise CheckpointError(f"{path}: has neither {_SINGLE} nor {_INDEX}{has}")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; name a folder in Hugging Face's format") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: does not hold one JSON object")
    return value


def _as_read(found: Mapping[str, Located]) -> dict[str, Located]:
    """Quantised tensors under the name of what they stand for, their scales left out."""
    read: dict[str, Located] = {}
    for name, located in found.items():
        stem = name.removesuffix("_blocks")
        if name.endswith("_scale_inv") and name.removesuffix("_scale_inv") in found:
            continue
        if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in found:
            continue
        if stem != name and f"{stem}_scales" in found:
            *leading, rows, groups, halves = located.shape
            read[stem] = Located(located.file, (*leading, groups * halves * 2, rows), "BF16", "mxfp4")
        elif f"{name}_scale_inv" in found:
            read[name] = Located(located.file, located.shape, "BF16", "fp8")
        else:
            read[name] = located
    return read


def _from_fp8(values: Tensor, scales: Tensor) -> Tensor:
    """Every block of 128 x 128 times its scale."""
    rows, columns = values.shape
    wide = scales.float().repeat_interleave(_FP8_BLOCK, 0)[:rows].repeat_interleave(_FP8_BLOCK, 1)[:, :columns]
    return values.float() * wide


def _from_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """[..., rows, groups, 16 bytes] and exponents [..., rows, groups] -> [..., 32 groups, rows].

    Rows and columns change places, as in transformers (integrations/mxfp4.py, convert_moe_packed_tensors)."""
    table = torch.tensor(_FP4_VALUES)
    both = torch.stack([blocks & 0x0F, blocks >> 4], dim=-1).flatten(-2)
    values = torch.ldexp(table[both.long()], (scales.int() - 127)[..., None])
    return values.flatten(-2).transpose(-1, -2).contiguous()
