"""Sample tokens with a key-value cache, through all pipeline stages and tensor ranks.

Every stage runs the same loop: take hidden states from the stage before, run its layers, pass them on; the last stage
draws the next token and tells everyone. Shapes: B sequences, S tokens, V vocabulary, H hidden size.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from mai.engine.core_attention import CoreAttention, KeyValueCache
from mai.engine.groups import Groups


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability (nucleus sampling, arXiv 1904.09751)."""
    seed: int = 0


@torch.no_grad()
def generate(
    model: GPTModel,
    groups: Groups,
    tokens_BS: Tensor,
    *,
    num_tokens: int,
    sampling: Sampling,
    end_tokens: Collection[int],
) -> Tensor:
    """Continue each sequence by up to `num_tokens`; returns the new tokens [B, N]. All ranks must call alike.

    Stops early when every sequence has said one of `end_tokens`."""
    generator = torch.Generator().manual_seed(sampling.seed)
    source = groups.last_stage_rank
    new_tokens: list[Tensor] = []
    inputs_BS = tokens_BS
    is_done_B = torch.zeros(tokens_BS.size(0), dtype=torch.bool)
    ends = torch.tensor(sorted(end_tokens), dtype=torch.int64)
    with _decoding(model):
        for _ in range(num_tokens):
            logits_BSV = _through_stages(model, groups, inputs_BS)
            next_B = torch.zeros(tokens_BS.size(0), dtype=torch.int64, device=tokens_BS.device)
            if dist.get_rank() == source:
                assert logits_BSV is not None
                next_B = draw(logits_BSV[:, -1].float().cpu(), sampling, generator).to(tokens_BS.device)
            dist.broadcast(next_B, src=source)
            new_tokens.append(next_B)
            inputs_BS = next_B[:, None]
            is_done_B |= torch.isin(next_B.cpu(), ends)
            if is_done_B.all():
                break
    return torch.stack(new_tokens, dim=1)


def draw(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """The next token of each sequence, int64 [B]."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    # In fp64 and below zero, so that no temperature is too small to divide by.
    logits_BV = logits_BV.double() - logits_BV.amax(dim=-1, keepdim=True)
    probabilities_BV, order_BV = (logits_BV / sampling.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    # A token stays when the likelier ones have not reached top_p, and the first stays always.
    is_left_out_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV >= sampling.top_p
    is_left_out_BV[:, 0] = False
    probabilities_BV = probabilities_BV.masked_fill(is_left_out_BV, 0.0)
    choice_B1 = torch.multinomial(probabilities_BV, 1, generator=generator)
    return order_BV.gather(-1, choice_B1).squeeze(-1)


@contextlib.contextmanager
def _decoding(model: GPTModel) -> Iterator[None]:
    """Give every attention core an empty cache. The model must not be cut along the sequence: one token cannot be."""
    assert not model.config.sequence_parallel
    cores = [module for module in model.modules() if isinstance(module, CoreAttention)]
    model.eval()
    for core in cores:
        core.cache = KeyValueCache()
    try:
        yield
    finally:
        for core in cores:
            core.cache = None


def _through_stages(model: GPTModel, groups: Groups, tokens_BS: Tensor) -> Tensor | None:
    """Run all stages on the new tokens; logits [B, S, V] on the last stage, None elsewhere."""
    if not groups.is_first_stage:
        shape = (tokens_BS.size(1), tokens_BS.size(0), model.config.hidden_size)
        hidden_SBH = torch.empty(shape, dtype=model.config.params_dtype, device=tokens_BS.device)
        dist.recv(hidden_SBH, src=groups.previous_stage_rank)
        model.set_input_tensor(hidden_SBH)
    out = model(tokens_BS, None, None, runtime_gather_output=True)
    if groups.is_last_stage:
        logits_BSV: Tensor = out
        return logits_BSV
    dist.send(out.contiguous(), dst=groups.next_stage_rank)
    return None
