"""Initial weights as a pure function of (seed, name, expert, row): every layout starts from the same model.

Each rank draws only the rows that it holds, in groups of 64, from a generator seeded by the group's name. Drawn on the
CPU, so that CPU and GPU runs start alike.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from mai.engine.shard import Block
from mai.engine.sharded_state import blocks
from mai.engine.translate import output_init_std
from mai.recipe import ModelConfig

_ROWS_PER_DRAW = 64
_INTO_RESIDUAL = ("linear_proj.weight", "linear_fc2.weight", "fc2_latent_proj.weight")


@torch.no_grad()
def initialize_weights(model: Sequence[MegatronModule], config: ModelConfig, *, seed: int) -> None:
    """Fill every parameter: biases and sinks with 0, norms so that they multiply with 1, matrices from N(0, init_std),
    those that write into the residual stream from a narrower one."""
    for parameter, start, block in blocks(model):
        target = parameter.view(-1)[start : start + math.prod(block.shape)].view(block.shape)
        if block.name.endswith((".bias", ".sinks")):
            target.zero_()
            continue
        if len(block.shape) == 1:
            target.fill_(0.0 if config.zero_centred_norms else 1.0)
            continue
        std = output_init_std(config) if block.name.endswith(_INTO_RESIDUAL) else config.init_std
        target.copy_(normal_block(block, std=std, seed=seed))


def normal_block(block: Block, *, std: float, seed: int) -> Tensor:
    """The block's part of its global matrix, or of one expert's, fp32, every element from N(0, std)."""
    *expert, first_row, first_column = block.offset
    num_rows, num_columns = block.shape[-2:]
    name = "/".join([block.name, *map(str, expert)])
    out = torch.empty(num_rows, num_columns)
    for group in range(first_row // _ROWS_PER_DRAW, -(-(first_row + num_rows) // _ROWS_PER_DRAW)):
        rows = torch.randn(_ROWS_PER_DRAW, block.global_shape[-1], generator=_generator(seed, name, group))
        group_start = group * _ROWS_PER_DRAW
        low, high = max(first_row, group_start), min(first_row + num_rows, group_start + _ROWS_PER_DRAW)
        out[low - first_row : high - first_row] = rows[
            low - group_start : high - group_start, first_column : first_column + num_columns
        ]
    return out.mul_(std).view(block.shape)


def _generator(seed: int, name: str, group: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{group}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
