"""How many parameters a rank holds of its pipeline stage: dense ones, like all data and context ranks, and experts; and
the tables of positions beside them."""

from collections import Counter
from dataclasses import dataclass

from mai.parallel.stages import Part
from mai.plan.model.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Held:
    dense: int
    experts: int

    @property
    def all(self) -> int:
        return self.dense + self.experts


def held(architecture: Architecture, parts: tuple[Part, ...], *, tensor: int, expert: int, expert_tensor: int) -> Held:
    """Of one rank of the stage that has these parts of the model."""
    layers = Counter(architecture.layers[number] for part in parts for number in part.layers)
    dense = sum(number * architecture.num_dense_parameters_on(tensor, layer) for layer, number in layers.items())
    has_embedding, has_loss = any(part.has_embedding for part in parts), any(part.has_loss for part in parts)
    if has_loss:
        dense += architecture.num_norm_parameters + architecture.depths * architecture.num_depth_parameters_on(tensor)
        layers[architecture.layers[-1]] += architecture.depths
    # The embedding stands once more at the end where the output layer is the same, or further depths look up tokens.
    is_at_end = has_loss and (architecture.is_tied or architecture.depths > 0)
    num_vocabularies = (has_embedding or is_at_end) + (has_loss and not architecture.is_tied)
    dense += num_vocabularies * architecture.output.num_parameters_on(tensor)
    dense += has_embedding * architecture.num_positions * architecture.hidden
    return Held(dense, architecture.num_expert_parameters(layers, expert=expert, expert_tensor=expert_tensor))


def table_bytes(architecture: Architecture, parts: tuple[Part, ...], *, length: int) -> int:
    """cos and sin of every position of a whole sequence, fp32, which each part of the model holds for its layers, and
    each further depth for its own (mai/engine/layers.py, decoder_block)."""
    of_parts = [[architecture.layers[number] for number in part.layers] for part in parts]
    if any(part.has_loss for part in parts):
        of_parts += [list(architecture.layers[-1:])] * architecture.depths
    sizes = [[layer.attention.turned_size for layer in layers if layer.attention.turns] for layers in of_parts]
    return sum(2 * length * max(of_part, default=0) * 4 for of_part in sizes)
