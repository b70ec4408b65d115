"""Tokens to the ranks that hold their experts and back: Megatron's all-to-all dispatcher with our permutations.

Megatron's (transformer/moe/token_dispatcher.py, core 0.16.1, MoEAlltoAllTokenDispatcher) reads a map over all experts,
[T, E], where ours reads the picked ones, [T, K]; adds a token's outputs in no fixed order on a GPU and in the tensor's
dtype; and cuts and joins what other ranks sent with lists on the host, also where no other rank is. Its counts,
collectives and waits for the host are used.

Shapes: S positions and B sequences of this rank, T = S * B tokens, K picked experts, H features, N rows, E experts.
"""

from copy import copy

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from torch import Tensor

from mai.kernels.permutation import chunk_rows


class Dispatcher(MoEAlltoAllTokenDispatcher):
    """All ranks of the expert and expert-tensor groups must call each step."""

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        assert not config.moe_shared_expert_overlap, "the shared expert is not computed in here"
        # A fused permutation reads the counts of what came on the device: they are not sent to the host. Set in a copy,
        # because the config itself refuses it without Transformer Engine.
        config = copy(config)
        config.moe_permute_fusion = True
        super().__init__(num_local_experts, local_expert_indices, config=config, pg_collection=pg_collection)
        self.operations = config.operations
        # From one rank the rows come as they are wanted.
        self.is_sorting_chunks = num_local_experts > 1 and self.tp_size * self.ep_size > 1

    def dispatch_preprocess(self, hidden_SBH: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, H] and their weights [N], sorted by expert over all ranks."""
        self.hidden_shape = hidden_SBH.shape
        self.rows_TK, counts_E = self.operations.expert_rows(experts_TK, self.num_experts)
        # Of the map that it expects it takes the sum over tokens only: this is one row with that sum.
        tokens_per_expert = self.preprocess(counts_E[None])
        self.tokens_per_expert = self._maybe_dtoh_and_synchronize("before_permutation_1", tokens_per_expert)
        rows: tuple[Tensor, Tensor] = self.operations.permute(hidden_SBH.flatten(0, 1), weights_TK, self.rows_TK)
        return rows

    def dispatch_postprocess(self, rows_NH: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of this rank's experts, sorted by expert; how many each has, on the CPU; and their weights."""
        if self.tp_size > 1:
            rows_NH, weights_N = (self._gather(x) for x in (rows_NH, weights_N))
        if self.is_sorting_chunks:
            self.chunk_rows_N1 = chunk_rows(self.num_global_tokens_per_local_expert, rows_NH.size(0))
            rows_NH, weights_N = self.operations.permute(rows_NH, weights_N[:, None], self.chunk_rows_N1)
        tokens_per_expert = self._maybe_dtoh_and_synchronize("before_finish", self.tokens_per_expert)
        return rows_NH, tokens_per_expert, weights_N

    def combine_preprocess(self, rows_NH: Tensor) -> Tensor:
        """The experts' outputs in the order in which their tokens came."""
        if self.is_sorting_chunks:
            rows_NH = self.operations.unpermute(rows_NH, self.chunk_rows_N1)
        if self.tp_size > 1:
            # Each rank has a part of every sum.
            rows_NH = reduce_scatter_to_sequence_parallel_region(
                rows_NH.float(), group=self.tp_group, input_split_sizes=self.output_splits_tp.tolist()
            ).to(rows_NH.dtype)
        return rows_NH

    def combine_postprocess(self, rows_NH: Tensor) -> Tensor:
        """The sum of each token's experts [S, B, H]."""
        total_TH: Tensor = self.operations.unpermute(rows_NH, self.rows_TK)
        return total_TH.view(self.hidden_shape)

    def _gather(self, x: Tensor) -> Tensor:
        gathered: Tensor = gather_from_sequence_parallel_region(
            x, group=self.tp_group, output_split_sizes=self.output_splits_tp.tolist()
        )
        return gathered
