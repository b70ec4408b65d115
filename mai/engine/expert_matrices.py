"""One matrix of a network, of every expert that this rank holds: computed at once, cut by expert-tensor ranks."""

from functools import partial
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


class GroupedLinear(MegatronModule):
    """The experts' matrices stand one below the other, [experts x outputs, inputs], as their biases do.

    Not [experts, outputs, inputs]: FSDP2 shares out the first dim, often over more ranks than there are experts here;
    and biases, as all that has one dim, do not decay."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        cut_dim: int,
        num_parts: int = 1,
        num_local_experts: int,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        """`cut_dim`: which dim of a matrix expert-tensor ranks cut; 0 cuts each of `num_parts`, gate and up."""
        super().__init__(config=config)
        self._groups = pg_collection
        self._num_experts = num_local_experts
        ranks = pg_collection.expt_tp.size()
        rows, columns = (output_size // ranks, input_size) if cut_dim == 0 else (output_size, input_size // ranks)
        self.weight = self._parameter(num_local_experts * rows, columns, cut_dim=cut_dim, num_parts=num_parts)
        self.bias = None
        if config.add_bias_linear:
            cut = {"cut_dim": 0, "num_parts": num_parts} if cut_dim == 0 else {"cut_dim": -1, "num_parts": 1}
            self.bias = self._parameter(num_local_experts * rows, **cut)

    def _parameter(self, *shape: int, cut_dim: int, num_parts: int) -> torch.nn.Parameter:
        parameter = torch.nn.Parameter(
            torch.empty(shape, dtype=self.config.params_dtype, device=torch.get_default_device())
        )
        # What is not marked as cut counts in the gradient norm on the first tensor rank only (tensor_parallel/
        # layers.py, param_is_not_tensor_parallel_duplicate). The second bias of an expert is not cut, and other
        # tensor ranks hold those of other experts.
        set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=cut_dim, stride=num_parts)
        # `allreduce` means: a dense weight, held alike by all data-parallel ranks. Megatron-Core's own matrices
        # (tensor_parallel/layers.py, core 0.16.1) clear it only where several ranks share out the experts. With one,
        # but with another number of tensor ranks for experts than for the rest, their gradients then lack the tensor
        # ranks' sum, and the gradient norm counts them once for each.
        parameter.allreduce = False  # type: ignore[attr-defined]
        return parameter

    def forward(self, x_NI: Tensor, counts_E: Tensor, bias_weight_N: Tensor | None = None) -> Tensor:
        """Tokens by expert, and how many each has, on the host; `bias_weight_N`: times a token's bias, if given."""
        out_NO = self._product(x_NI, counts_E)
        if self.bias is None:
            return out_NO
        # Expert by expert: an index of all tokens would have a gradient that adds in another order every time.
        counts = counts_E.tolist()
        pairs = zip(out_NO.split(counts), self.by_expert(self.bias), strict=True)
        if bias_weight_N is None:
            return torch.cat([out + bias for out, bias in pairs])
        weights = bias_weight_N[:, None].split(counts)
        return torch.cat(
            [out + (bias * weight).to(out.dtype) for (out, bias), weight in zip(pairs, weights, strict=True)]
        )

    def _product(self, x_NI: Tensor, counts_E: Tensor) -> Tensor:
        operations = self.config.operations
        weight_EOI = self.by_expert(self.weight)
        main_grad = getattr(self.weight, "main_grad", None)
        if operations.weight_gradient is None or main_grad is None:
            return operations.grouped_linear(x_NI, weight_EOI, counts_E)  # type: ignore[no-any-return]
        # What Megatron's matrices say (tensor_parallel/layers.py), so that the hook of its data-parallel wrapper does
        # not add what autograd hands it.
        self.weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        return operations.grouped_linear(  # type: ignore[no-any-return]
            x_NI,
            weight_EOI,
            counts_E,
            sum_EOI=self.by_expert(main_grad),
            add_gradient=operations.weight_gradient,
        )

    def by_expert(self, stacked: Tensor) -> Tensor:
        """A view of what stands one below the other: [experts, ...]."""
        return stacked.view(self._num_experts, -1, *stacked.shape[1:])

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, ShardedTensorFactory]:
        """What makes each parameter's boxes in the tensor of all experts, [experts, ...]."""
        found = {}
        for name, parameter in self.named_parameters():
            dim, num_parts = parameter.partition_dim, parameter.partition_stride
            replica_id = (0, self._groups.expt_tp.rank() if dim < 0 else 0, self._groups.expt_dp.rank())
            boxes = partial(self._boxes, sharded_offsets=sharded_offsets, dim=dim, num_parts=num_parts)
            found[f"{prefix}{name}"] = ShardedTensorFactory(
                f"{prefix}{name}", parameter.detach(), boxes, torch.cat, replica_id
            )
        return found

    def _boxes(
        self,
        key: str,
        stacked: Tensor,
        replica_id: tuple[int, int, int],
        _: slice | None,
        *,
        sharded_offsets: tuple[Any, ...],
        dim: int,
        num_parts: int,
    ) -> list[ShardedTensor]:
        """In the order in which they stand one below the other: of an expert, then of its parts."""
        experts, cut, expert_dim = self._groups.ep, self._groups.expt_tp, len(sharded_offsets)
        boxes = []
        for expert, whole in enumerate(self.by_expert(stacked), start=experts.rank() * self._num_experts):
            for index, part in enumerate(whole.chunk(num_parts)):
                offsets = [*sharded_offsets, (expert_dim, expert, experts.size() * self._num_experts)]
                if dim >= 0:
                    offsets.append((expert_dim + 1 + dim, index * cut.size() + cut.rank(), num_parts * cut.size()))
                boxes.append(
                    ShardedTensor.from_rank_offsets(
                        key, part, *offsets, replica_id=replica_id, prepend_axis_num=expert_dim + 1
                    )
                )
        return boxes
