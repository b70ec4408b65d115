"""One batch through the virtual stages, micro-batch by micro-batch, by Megatron's schedule: with gradients or
without, of a model that trains or of one that does not.

Shapes: B sequences of this data-parallel rank, S tokens of a sequence, L of this context rank.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from mai.batch import Batch
from mai.engine.annotations import Annotations
from mai.engine.context_attention import own_columns, whole_rows
from mai.engine.device import Device
from mai.engine.groups import Groups
from mai.engine.language_model import cores_of
from mai.engine.multi_token import split_depths
from mai.engine.translate import schedule_function
from mai.errors import DataError, RecipeError
from mai.parallel.layout import Layout
from mai.recipe import Recipe

Said = dict[str, Any]
"""What a micro-batch said on the last stage."""
Finish = Callable[[Batch, Tensor], tuple[Tensor, Tensor, Said]]
"""A micro-batch and what the last virtual stage returned of it -> the sum to train on, how many targets count, and what
is said."""
MicroBatch = tuple[Batch, Annotations | None]


class Passes:
    """Runs batches; all ranks must call each verb, in the same order."""

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        groups: Groups,
        device: Device,
        *,
        virtual_stages: Sequence[GPTModel],
        wrapped_stages: Sequence[Any],
        max_length: int,
    ) -> None:
        """`virtual_stages`: this rank's; `wrapped_stages`: the same as Megatron's schedule calls them, wrapped where
        they train. `max_length`: positions that the model knows."""
        self._recipe, self._layout, self._groups, self._device = recipe, layout, groups, device
        self._virtual_stages, self._wrapped_stages, self._max_length = virtual_stages, list(wrapped_stages), max_length
        self._schedule = schedule_function(layout.schedule)

    def run(self, batch: Batch, finish: Finish, *, depths: int = 0, forward_only: bool) -> list[Said]:
        """What all micro-batches said, in order, on the last stage; elsewhere nothing. `depths` are those that train.

        Raises RecipeError where the batch has segments or positions and a part of the user's own cannot take them."""
        size = self._recipe.parallel.micro_batch_sequences
        micro_batches = [self._own(micro_batch) for micro_batch in self._prepared(batch, depths).split(size)]
        # Every virtual stage reads all micro-batches, at its own pace.
        readers = [iter(micro_batches) for _ in self._wrapped_stages]
        return self._schedule(  # type: ignore[no-any-return]
            forward_step_func=partial(_forward_step, finish=finish),
            data_iterator=readers if self._layout.schedule.is_interleaved else readers[0],
            model=self._wrapped_stages,
            num_microbatches=len(micro_batches),
            seq_length=batch.tokens_BS.size(1),
            micro_batch_size=size,
            forward_only=forward_only,
        )

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities of the targets, fp32 [B, S] on the CPU; the same on all model ranks of a copy.

        Whole logits are never there, but of one micro-batch under `kernels=reference`."""
        for virtual_stage in self._wrapped_stages:
            virtual_stage.eval()
        said = self.run(batch, _keep_losses, forward_only=True)
        group = self._groups.context_group
        if self._groups.is_last_stage:
            whole_BS = -whole_rows(torch.cat([each["losses"] for each in said]), group)
        else:
            whole_BS = torch.empty(batch.tokens_BS.shape, device=self._device.torch_device)
        whole_BS, stages = whole_BS.contiguous(), self._groups.pipeline_group
        dist.broadcast(whole_BS, src=dist.get_process_group_ranks(stages)[-1], group=stages)
        return whole_BS.cpu()

    def hindrances(self, batch: Batch) -> list[str]:
        """What in this rank's virtual stages cannot take what the batch says of its tokens: parts of the user's own."""
        if batch.segments_BS is None and batch.positions_BS is None:
            return []
        model, found = self._recipe.model, []
        cores_by_layer = [
            cores_of(layer) for virtual_stage in self._virtual_stages for layer in virtual_stage.decoder.layers
        ]
        takes_segments = all(core.takes_segments for cores in cores_by_layer for core in cores)
        if not all(cores_by_layer):
            found.append(f"model.layer={model.layer}: has no attention core of mai's, which they would reach")
        if batch.segments_BS is not None and not takes_segments:
            found.append(f"model.attention_core={model.attention_core}: takes no starts_BQ, where segments begin")
        return found

    def _prepared(self, batch: Batch, depths: int) -> Batch:
        if found := self.hindrances(batch):
            raise RecipeError(*found, "a batch with segments or positions came; docs/guides/your_own_part.md says how")
        positions_BS = batch.positions_BS
        if positions_BS is not None and not 0 <= int(positions_BS.min()) <= int(positions_BS.max()) < self._max_length:
            raise DataError(
                f"Batch.positions_BS: {int(positions_BS.min())} to {int(positions_BS.max())}; the model knows 0 to "
                f"{self._max_length - 1}"
            )
        return batch.with_numbered_segments().for_depths(depths)

    def _own(self, whole: Batch) -> MicroBatch:
        """This context rank's columns of a micro-batch, on its device."""
        rank, ranks = self._groups.context_rank, self._layout.context
        own = whole.each(lambda x: own_columns(x, rank=rank, ranks=ranks).to(self._device.torch_device))
        if own.weights_BS is None and own.segments_BS is None and own.positions_BS is None:
            return own, None
        is_cut = self._virtual_stages[0].config.sequence_parallel
        tensor_rank, sequence_ranks = (self._groups.tensor_rank, self._layout.tensor) if is_cut else (0, 1)
        return own, Annotations(own, tensor_rank=tensor_rank, sequence_ranks=sequence_ranks)


def _forward_step(data_iterator: Iterator[MicroBatch], model: GPTModel, *, finish: Finish) -> tuple[Tensor, Any]:
    """Megatron's forward_step_func: the stage's output, and what its last stage makes of it."""
    micro_batch, annotations = next(data_iterator)
    output = model(micro_batch.tokens_BS, None, None, labels=micro_batch.targets_BS, packed_seq_params=annotations)
    return output, partial(finish, micro_batch)


def _keep_losses(micro_batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor, Said]:
    token_losses_BL, _ = split_depths(losses)
    return token_losses_BL.sum(), micro_batch.num_counted(), {"losses": token_losses_BL.float()}
