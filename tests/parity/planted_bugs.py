"""Bugs of composed parallelism as they come, each planted by patching the process that then forks the ranks.

    certificate = certify(bugs.transposed_shard, "parallel.tensor=2", folder=...)

Every function here is called in a process of its own, before the ranks are forked from it.
"""

import dataclasses
import importlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.jobs import run_mai
from tests.ranks import CONTEXT

Plant = Callable[[], None]

BAD_RANK = 1
SCALE = 1.01
LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """How one `mai certify` ended."""

    code: int
    stdout: str
    stderr: str
    certificate: dict[str, Any] | None

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """What differs in the first step in which anything does."""
        assert self.certificate is not None, self.stderr
        assert self.certificate["wrong"] is not None, self.stdout
        return list(self.certificate["wrong"]["findings"])

    @property
    def first_parameter(self) -> dict[str, Any]:
        return next(finding for finding in self.wrong if finding["name"])


def certify(plant: Plant, *words: str, folder: Path, recipe: str = "tiny") -> Outcome:
    """`mai certify` of the recipe with these overrides, in a process whose code has the bug."""
    log = folder / "said"
    arguments = ["certify", recipe, *words]
    process = CONTEXT.Process(target=run_mai, args=(arguments, str(log), {}, folder, plant), daemon=True)
    process.start()
    process.join(LONGEST_SECONDS)
    assert process.exitcode is not None, f"mai certify still runs after {LONGEST_SECONDS} s"
    said, errors = (log.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
    written = [json.loads(path.read_text()) for path in folder.glob("certificates/*/*/certificate.json")]
    assert len(written) <= 1
    return Outcome(process.exitcode, said, errors, written[0] if written else None)


def none() -> None:
    """The code as it is."""


def skipped_all_reduce() -> None:
    """The gradients of norms, which each tensor rank has of its part of the sequence, are not summed over the ranks."""
    module = importlib.import_module("megatron.core.distributed.finalize_model_grads")
    assert callable(module._allreduce_non_tensor_model_parallel_grads)
    module._allreduce_non_tensor_model_parallel_grads = lambda *_, **__: None


def scaled_gradient() -> None:
    """One data-parallel rank's gradients count 1 % more than the others'."""

    module = importlib.import_module("mai.engine.engine")
    share_out = module.share_out

    def share_out_and_scale(*arguments: Any, **named: Any) -> Any:
        sharding = share_out(*arguments, **named)
        if _is_bad_rank():
            for bucket in (
                bucket
                for wrapped in sharding.wrapped_stages
                for group in wrapped.bucket_groups
                for bucket in group.buckets
            ):
                # Megatron's own factor on what a bucket holds before it is summed over the ranks.
                bucket.gradient_scaling_factor *= SCALE
        return sharding

    module.share_out = share_out_and_scale


def transposed_shard() -> None:
    """One tensor rank's part of a matrix, which is square, lies on its side."""

    def transpose(model: torch.nn.Module) -> None:
        shard = dict(model.named_parameters())["decoder.layers.1.mlp.linear_fc2.weight"]
        assert shard.shape[0] == shard.shape[1]
        shard.data = shard.data.t().contiguous()

    _change_model_of_bad_rank(transpose)


def upside_down_in_the_first_draw() -> None:
    """One rank's matrices are upside down, in the first of all trials only: something that comes and goes."""

    def flip(model: torch.nn.Module) -> None:
        if not (marker := Path("flipped")).exists():
            marker.touch()
            for weight in model.parameters():
                weight.data = weight.data.flip(0).contiguous()

    _change_model_of_bad_rank(flip)


def stale_pipeline_input() -> None:
    """A stage computes with the input of the micro-batch before."""
    gpt_model = importlib.import_module("megatron.core.models.gpt.gpt_model").GPTModel
    set_input_tensor = gpt_model.set_input_tensor

    def set_last_one(self: Any, input_tensor: Any) -> None:
        tensor = input_tensor[0] if isinstance(input_tensor, list) else input_tensor
        if tensor is not None:
            # The value of the last one, with the gradient going where this one came from.
            last = self.__dict__.get("_last_input", tensor.detach())
            self.__dict__["_last_input"] = tensor.detach()
            tensor = tensor + (last - tensor).detach()
        set_input_tensor(self, [tensor] if isinstance(input_tensor, list) else tensor)

    gpt_model.set_input_tensor = set_last_one


def wrong_expert_rank() -> None:
    """Tokens are sent to the expert of the same number on the next expert rank."""
    router = importlib.import_module("mai.engine.router").ExpertRouter
    forward = router.forward

    def forward_to_next(self: Any, *arguments: Any) -> Any:
        weights_TK, experts_TK = forward(self, *arguments)
        ranks, experts = self.config.expert_model_parallel_size, self.config.num_moe_experts
        shift = experts // ranks if ranks > 1 else 0
        return weights_TK, (experts_TK + shift) % experts

    router.forward = forward_to_next


def lost_gradient_of_the_rotary_key() -> None:
    """What Megatron-Core 0.16.1 does without Transformer Engine (transformer/multi_latent_attention.py): the rotary
    key's gradient is not summed over the tensor ranks, each of which has its own heads' part of it."""
    attention = importlib.import_module("mai.engine.latent_attention")
    assert callable(attention.copy_to_tensor_model_parallel_region)
    attention.copy_to_tensor_model_parallel_region = lambda x, **_: x


def shifted_positions() -> None:
    """One context rank rotates its queries and keys as if they stood one place earlier."""
    positions = importlib.import_module("mai.engine.context_attention").Positions
    of_this_rank = positions._of_this_rank

    def of_bad_rank(self: Any, table_SD: Any, *arguments: Any) -> Any:
        return of_this_rank(self, table_SD.roll(1, 0) if _is_bad_rank() else table_SD, *arguments)

    positions._of_this_rank = of_bad_rank


def unshared_embedding() -> None:
    """The gradients of the embedding and of its copy on the last stage are not summed."""
    module = importlib.import_module("megatron.core.distributed.finalize_model_grads")
    assert callable(module._allreduce_word_embedding_grads)
    module._allreduce_word_embedding_grads = lambda *_, **__: None


def other_first_tokens() -> None:
    """What a rounding does that sends a token to another expert: all differs, on these tokens and not on others."""
    trial = importlib.import_module("mai.certify.trial")
    synthetic_sequences = trial.synthetic_sequences

    def other(vocab_size: int, sequence_length: int, seed: int) -> Any:
        is_other = seed == 0 and dist.get_world_size() > 1
        return synthetic_sequences(vocab_size, sequence_length, 99 if is_other else seed)

    trial.synthetic_sequences = other


def another_ranks_data() -> None:
    """All data-parallel ranks read the first one's sequences."""
    trial = importlib.import_module("mai.certify.trial")
    batch_positions = trial.batch_positions
    trial.batch_positions = lambda position, **named: batch_positions(position, **{**named, "data_rank": 0})


def micro_batches_in_another_order() -> None:
    """The last stage takes the micro-batches from the other end."""
    pretrain, batch = importlib.import_module("mai.objective.pretrain"), importlib.import_module("mai.batch").Batch
    batch_at = pretrain.Pretrain.batch

    def flipped(*arguments: Any) -> Any:
        right = batch_at(*arguments)
        is_last = dist.get_world_size() > 1 and dist.get_rank() == dist.get_world_size() - 1
        return batch(right.tokens_BS.flip(0), right.targets_BS.flip(0)) if is_last else right

    pretrain.Pretrain.batch = flipped


def all_tokens_counted_on_one_context_rank() -> None:
    """One context rank divides by its targets, whether they count or not."""
    batch = importlib.import_module("mai.batch").Batch
    num_counted = batch.num_counted

    def of_bad_rank(self: Any) -> Any:
        counted = num_counted(self)
        return torch.full_like(counted, self.targets_BS.numel()) if _is_bad_rank() else counted

    batch.num_counted = of_bad_rank


def mean_of_means() -> None:
    """Each micro-batch is divided by its own targets that count, and then by the number of micro-batches."""
    batch = importlib.import_module("mai.batch").Batch
    split = batch.split

    def split_and_weigh(self: Any, num_sequences: int) -> Any:
        parts = split(self, num_sequences)
        if self.weights_BS is None or dist.get_world_size() == 1:
            return parts
        mean = float(self.num_counted()) / len(parts)
        return [
            dataclasses.replace(part, weights_BS=part.weights_BS * mean / max(1.0, float(part.num_counted())))
            for part in parts
        ]

    batch.split = split_and_weigh


def border_ignored_on_one_context_rank() -> None:
    """One context rank's queries look back beyond their segment."""
    annotations = importlib.import_module("mai.engine.annotations").Annotations
    starts = annotations.starts

    def of_bad_rank(self: Any) -> Any:
        found = starts.fget(self)
        return torch.zeros_like(found) if found is not None and _is_bad_rank() else found

    annotations.starts = property(of_bad_rank)


def weights_that_stay() -> None:
    """The weight of a further target is that of the next one."""
    batch = importlib.import_module("mai.batch").Batch
    for_depths = batch.for_depths

    def unmoved(self: Any, depths: int) -> Any:
        right = for_depths(self, depths)
        if right.further_weights_BSD is None or self.weights_BS is None or dist.get_world_size() == 1:
            return right
        still = self.weights_BS[..., None].expand_as(right.further_weights_BSD) * (right.further_weights_BSD != 0)
        return dataclasses.replace(right, further_weights_BSD=still.contiguous())

    batch.for_depths = unmoved


def another_learning_rate() -> None:
    """One tensor rank updates its weights at a rate that is 1 % higher."""
    engine = importlib.import_module("mai.engine.engine").Engine
    apply = engine.apply

    def apply_faster(self: Any, gradients: Any, *, learning_rate: float) -> None:
        apply(self, gradients, learning_rate=learning_rate * (SCALE if dist.get_rank() == BAD_RANK else 1.0))

    engine.apply = apply_faster


def bf16_on_one_rank_only() -> None:
    """One tensor rank's gradients lose all but three bits of mantissa, where bf16 has eight."""

    def round_coarsely(gradient: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(gradient.float())
        return torch.ldexp((mantissa * 8).round() / 8, exponent).to(gradient.dtype)

    def coarsen(model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.register_hook(round_coarsely)

    _change_model_of_bad_rank(coarsen)


def bad_data() -> None:
    """One rank finds its data damaged."""
    from mai.errors import DataError

    def refuse(*_: Any, **__: Any) -> None:
        raise DataError("shard 7 is damaged")

    _instead_of_steps(refuse)


def killed_rank() -> None:
    """One rank is ended from outside."""
    _instead_of_steps(lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


PATIENCE_SECONDS = 10.0


def silent_rank() -> None:
    """One rank never calls the collective that the others wait in, who lose patience early."""
    trial = importlib.import_module("mai.certify.trial")
    trial._IMPATIENT = dataclasses.replace(trial._IMPATIENT, peer_timeout_seconds=PATIENCE_SECONDS)
    _instead_of_steps(lambda *_, **__: time.sleep(600))


def _is_bad_rank() -> bool:
    """Where there are others."""
    return dist.get_world_size() > 1 and dist.get_rank() == BAD_RANK


def _change_model_of_bad_rank(change: Callable[[torch.nn.Module], None]) -> None:
    """Where there are others: one rank alone is what all are compared with."""
    module = importlib.import_module("mai.engine.engine")
    build_model = module.build_model

    def build(*arguments: Any, **named: Any) -> Any:
        built = build_model(*arguments, **named)
        if _is_bad_rank():
            for chunk in built if isinstance(built, list) else [built]:
                change(chunk)
        return built

    module.build_model = build


def _instead_of_steps(action: Callable[..., None]) -> None:
    trial = importlib.import_module("mai.certify.trial")
    steps = trial._steps

    def act(*arguments: Any, **named: Any) -> None:
        (action if _is_bad_rank() else steps)(*arguments, **named)

    trial._steps = act
