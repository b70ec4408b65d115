"""A folder in Hugging Face's format: config.json and safetensors, opened without reading a weight.

Nothing else is read: no pickled weights, no code that the folder brings. A quantised tensor is read as what it stands
for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mai.checkpoint.shard_file import DTYPES
from mai.errors import CheckpointError, MaiError
from mai.model.hf_rules import Source

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST = 20
_COMPUTED = ("rotary_emb.inv_freq", "attn.masked_bias")
"""Buffers that older files hold, and that follow from config.json."""

# Block-wise FP8 of DeepSeek-V3 (config.json, quantization_config.weight_block_size).
_FP8_BLOCK = 128
_MXFP4_BYTES = 16
# The sixteen numbers of OCP MXFP4, by code; 32 of them share an exponent, two stand in a byte, the low half first.
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, slots=True)
class Located:
    """One tensor: in which file, of which shape and dtype (safetensors' name); quantised ones as they are read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    quantised: str = ""
    """`fp8` or `mxfp4`, with a tensor of scales."""
    scales: Path | None = None
    """In which file those are."""


@dataclass(frozen=True, slots=True)
class HfFolder:
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Located]
    """All but those that follow from config.json."""

    @property
    def num_quantised(self) -> int:
        return sum(bool(located.quantised) for located in self.tensors.values())

    def read(self, source: Source) -> Tensor:
        """The tensor, or one entry of it, in its own dtype (fp32 where it is quantised)."""
        located = self.tensors[source.name]
        if located.quantised == "fp8":
            return _from_fp8(_read(located.file, source.name), _read(located.scales, f"{source.name}_scale_inv"))
        if located.quantised == "mxfp4":
            blocks = _read(located.file, f"{source.name}_blocks", source.entry)
            return _from_mxfp4(blocks, _read(located.scales, f"{source.name}_scales", source.entry))
        return _read(located.file, source.name, source.entry)


def _read(path: Path | None, name: str, entry: int | None = None) -> Tensor:
    assert path is not None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name) if entry is None else file.get_slice(name)[entry]  # type: ignore[no-any-return]


@contextmanager
def noting(wrong: list[str]) -> Iterator[None]:
    """Let the next check come, so that all that is wrong is told at once."""
    try:
        yield
    except MaiError as error:
        wrong += str(error).splitlines()


def read_config(path: Path) -> dict[str, Any]:
    """The folder's config.json; raises CheckpointError."""
    return read_json(path / "config.json")


def read_headers(path: Path) -> tuple[dict[str, Located], int]:
    """Every tensor of the folder, and how many are left out because they follow from config.json; raises
    CheckpointError with all that is wrong with its files."""
    found = _found(path)
    wanted = {name: located for name, located in found.items() if not name.endswith(_COMPUTED)}
    return _as_read(wanted), len(found) - len(wanted)


def _found(path: Path) -> dict[str, Located]:
    """Every tensor, as the headers of the files say."""
    wrong: list[str] = []
    found: dict[str, Located] = {}
    index = _index(path)
    for file in [path / name for name in sorted(set(index.values()))] if index else [_single(path)]:
        there, damage = _tensors_of(file)
        wrong += [damage] if damage else []
        wrong += [f"{file}: {name} stands in {found[name].file.name} as well" for name in there.keys() & found.keys()]
        found |= there
    if index and not wrong:
        wrong += [
            f"{path / _INDEX}: {name} is said to be in {file}, and is not"
            for name, file in index.items()
            if name not in found or found[name].file.name != file
        ]
        wrong += [f"{path / _INDEX}: does not name {name}" for name in sorted(found.keys() - index.keys())]
    if wrong:
        raise CheckpointError("\n".join(first_of(wrong)))
    return found


def first_of(wrong: Sequence[str]) -> Sequence[str]:
    """What a person reads of a long list."""
    return [*wrong[:_MOST], f"and {len(wrong) - _MOST} more"] if len(wrong) > _MOST else wrong


def _tensors_of(file: Path) -> tuple[dict[str, Located], str]:
    """What the file's header says, or what is wrong with the file."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (safe_open is no dict)
            return {name: Located(file, tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}, ""
    except (OSError, SafetensorError) as error:
        return {}, f"{file}: damaged or cut off ({error}); copy it again"


def _index(path: Path) -> dict[str, str]:
    """Which tensor is said to be in which file; empty where there is no index."""
    file = path / _INDEX
    if not file.exists():
        return {}
    names = read_json(file).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{file}: weight_map does not say which tensor is in which file")
    strange = {name for name in names.values() if Path(name).name != name or not (path / name).is_file()}
    if strange:
        raise CheckpointError(f"{file}: names files that are not here: {', '.join(first_of(sorted(strange)))}")
    return names


def _single(path: Path) -> Path:
    if (path / _SINGLE).is_file():
        return path / _SINGLE
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
    has = f"; {', '.join(others[:3])} can run code when read: save the model as safetensors" if others else ""
    raise CheckpointError(f"{path}: has neither {_SINGLE} nor {_INDEX}{has}")


def read_json(path: Path) -> dict[str, Any]:
    """The file's one object; raises CheckpointError."""
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
    wrong: list[str] = []
    for name, located in found.items():
        stem = name.removesuffix("_blocks")
        if name.endswith("_scale_inv") and name.removesuffix("_scale_inv") in found:
            continue
        if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in found:
            continue
        if stem != name and (scales := found.get(f"{stem}_scales")):
            if not _is_mxfp4(located, scales):
                wrong.append(f"{name} {list(located.shape)}: no MXFP4 with scales {list(scales.shape)}")
                continue
            *leading, rows, groups, halves = located.shape
            shape = (*leading, groups * halves * 2, rows)
            read[stem] = Located(located.file, shape, "BF16", "mxfp4", scales.file)
        elif scales := found.get(f"{name}_scale_inv"):
            if not _is_fp8(located, scales):
                wrong.append(f"{name} {list(located.shape)}: no block-wise FP8 with scales {list(scales.shape)}")
                continue
            read[name] = Located(located.file, located.shape, "BF16", "fp8", scales.file)
        elif located.dtype not in DTYPES:
            wrong.append(
                f"{name}: {located.dtype} is not read; weights are {', '.join(DTYPES)}, FP8 or MXFP4 with scales"
            )
        else:
            read[name] = located
    if wrong:
        raise CheckpointError("\n".join(first_of(wrong)))
    return read


def _is_fp8(values: Located, scales: Located) -> bool:
    """A scale for every block of 128 x 128."""
    blocks = tuple(-(-size // _FP8_BLOCK) for size in values.shape)
    return values.dtype == "F8_E4M3" and len(values.shape) == 2 and scales.shape == blocks and scales.dtype in DTYPES


def _is_mxfp4(blocks: Located, scales: Located) -> bool:
    """A scale for every 32 numbers, which are 16 bytes."""
    return (
        (blocks.dtype, scales.dtype) == ("U8", "U8")
        and len(blocks.shape) >= 3
        and blocks.shape == (*scales.shape, _MXFP4_BYTES)
    )


def _from_fp8(values: Tensor, scales: Tensor) -> Tensor:
    """Every block of 128 x 128 times its scale."""
    rows, columns = values.shape
    wide = scales.float().repeat_interleave(_FP8_BLOCK, 0)[:rows].repeat_interleave(_FP8_BLOCK, 1)[:, :columns]
    return values.float().mul_(wide)


def _from_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """[..., rows, groups, 16 bytes] and exponents [..., rows, groups] -> [..., 32 groups, rows].

    Rows and columns change places, as in transformers (integrations/mxfp4.py, convert_moe_packed_tensors)."""
    table = torch.tensor(_FP4_VALUES)
    both = torch.stack([blocks & 0x0F, blocks >> 4], dim=-1).flatten(-2)
    values = torch.ldexp(table[both.long()], (scales.int() - 127)[..., None])
    return values.flatten(-2).transpose(-1, -2).contiguous()
