"""The attention core inside Megatron's attention: positions, key-value cache, context ranks, sinks.

Shapes follow Megatron: S sequence, B batch, H heads, G key and value heads, D head size.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from mai.engine.annotations import Annotations
from mai.engine.context_attention import Positions, attend, with_segments
from mai.errors import RecipeError


class KeyValueCache:
    """Keys and values of the positions seen so far, for generation: [K, B, G, D] each."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.key is None else self.key.size(0)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append along the sequence; returns all keys and values."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key]), torch.cat([self.value, value])
        self.key, self.value = key, value
        return key, value


class CoreAttention(MegatronModule):
    """Causal attention of this rank's heads, of its part of the sequence to all that came before."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        tables: tuple[Tensor, Tensor] | None,
        has_sinks: bool,
        core: Callable[..., Tensor],
        **_: Any,
    ) -> None:
        """`tables`: cos and sin by position; None for a layer that knows no positions. `core`: a
        `context_attention.AttentionCore`, which takes `sinks_H` as well where there are sinks, and `starts_BQ` if it
        can keep segments apart."""
        super().__init__(config=config)
        self.tensor_group = pg_collection.tp
        self.context_group = pg_collection.cp if pg_collection.cp.size() > 1 else None
        self.positions = None if tables is None else Positions(tables, self.context_group)
        self.core = core
        self.takes_segments = "starts_BQ" in inspect.signature(core).parameters
        self.annotations: Annotations | None = None
        """What the micro-batch says that the layer is computing; see `language_model.hand_over`."""
        self._must_turn = tables is not None
        self.cache: KeyValueCache | None = None
        sinks_H = None
        if has_sinks:
            heads = config.num_attention_heads // pg_collection.tp.size()
            sinks_H = torch.nn.Parameter(
                torch.empty(heads, dtype=config.params_dtype, device=torch.get_default_device())
            )
            set_tensor_model_parallel_attributes(sinks_H, is_parallel=True, dim=0, stride=1)
        self.register_parameter("sinks", sinks_H)

    def take_tables(self, length: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin of so many positions; None where nothing is turned. [L, D], which go on where the cache ends, or
        [L, B, D] where the batch brings positions of its own."""
        self._must_turn = False
        if self.positions is None:
            return None
        own = None if self.annotations is None else self.annotations.tables(*self.positions.whole_tables)
        return own or self.positions.tables(length, start=0 if self.cache is None else self.cache.length)

    def rotate(self, x_SBHD: Tensor) -> Tensor:
        """Turn queries or keys by their positions."""
        tables = self.take_tables(x_SBHD.size(0))
        if tables is None:
            return x_SBHD
        turned_SBHD: Tensor = self.config.operations.rope(x_SBHD, *tables)
        return turned_SBHD

    def forward(
        self,
        query_SBHD: Tensor,
        key_SBGD: Tensor,
        value_SBGD: Tensor,
        attention_mask: None,
        /,
        packed_seq_params: Annotations | None = None,
        **_: Any,
    ) -> Tensor:
        """[S, B, H * D]; queries and keys come turned by their positions.

        RecipeError where nobody ever called `take_tables` or `rotate`: such a model would train without any order."""
        if self._must_turn:
            raise RecipeError(
                "model.layer: its attention calls mai's core with queries and keys that nobody turned by position; "
                "turn them with core_attention.rotate, or derive from GroupedQuerySelfAttention"
            )
        if self.cache is not None:
            key_SBGD, value_SBGD = self.cache.extend(key_SBGD, value_SBGD)
        core = self.core if self.sinks is None else partial(self.core, sinks_H=self.sinks)
        # As an argument where Megatron calls: recomputing the core alone, it knows whose turn it is.
        annotations = packed_seq_params or self.annotations
        starts_BL = None if annotations is None else annotations.starts
        if self.context_group is not None:
            return attend(query_SBHD, key_SBGD, value_SBGD, starts_BL, self.context_group, core=core).flatten(2)
        return with_segments(core, starts_BL)(query_SBHD, key_SBGD, value_SBGD).flatten(2)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The sinks, which tensor ranks share by heads."""
        assert metadata is not None
        return make_sharded_tensors_for_checkpoint(  # type: ignore[no-any-return]
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"sinks": 0},
            sharded_offsets,
            tp_group=self.tensor_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
