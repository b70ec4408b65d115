"""Makes the operations of a micro-batch, of a recipe in a layout."""

from dataclasses import dataclass

from mai.parallel.layout import Layout
from mai.plan.communication.modules import Event
from mai.plan.communication.operation import Kind, Operation
from mai.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the operations of one micro-batch: of groups with more than one rank."""

    recipe: Recipe
    layout: Layout

    @property
    def dtype(self) -> str:
        return self.recipe.precision.format.torch

    @property
    def tokens(self) -> int:
        """A micro-batch's, on one context rank."""
        parallel = self.recipe.parallel
        return parallel.micro_batch_sequences * self.recipe.data.sequence_length // parallel.context

    @property
    def own_tokens(self) -> int:
        """A rank's share of these, between the matrices that tensor ranks share."""
        return self.tokens // self.layout.tensor if self.recipe.parallel.sequence else self.tokens

    def call(
        self,
        kind: Kind,
        family: str,
        num_ranks: int,
        elements: int,
        what: str,
        dtype: str = "",
        *,
        depends_on_routing: bool = False,
    ) -> tuple[Event, ...]:
        """Nothing, of a group of one rank."""
        if num_ranks == 1:
            return ()
        dtype = dtype or self.dtype
        return (Operation(kind, family, elements, dtype, what=what, depends_on_routing=depends_on_routing),)

    def tensor(self, kind: Kind, elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        return self.call(kind, "tensor", self.layout.tensor, elements, what, dtype)

    def context(self, kind: Kind, elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        return self.call(kind, "context", self.layout.context, elements, what, dtype)
