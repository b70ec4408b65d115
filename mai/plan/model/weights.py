"""How many parameters a rank holds of its pipeline stage: dense ones, like all data and context ranks, and experts; and
the tables of positions beside them."""

from collections import Counter
from dataclasses import dataclass

from mai.parallel.stages import VirtualStage
from mai.plan.model.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Held:
    dense: int
    experts: int

    @property
    def all(self) -> int:
        return self.dense + self.experts


def held(
    architecture: Architecture,
    virtual_stages: tuple[VirtualStage, ...],
    *,
    tensor: int,
    expert: int,
    expert_tensor: int,
) -> Held:
    """What one rank holds of the stage that has these virtual stages."""
    layers = Counter(architecture.layers[number] for each in virtual_stages for number in each.layers)
    dense = sum(number * architecture.num_dense_parameters_on(tensor, layer) for layer, number in layers.items())
    has_embedding, has_loss = (
        any(each.has_embedding for each in virtual_stages),
        any(each.has_loss for each in virtual_stages),
    )
    if has_loss:
        dense += architecture.num_norm_parameters + architecture.depths * architecture.num_depth_parameters_on(tensor)
        layers[architecture.layers[-1]] += architecture.depths
    # The embedding stands once more at the end where the output layer is the same, or further depths look up tokens.
    is_at_end = has_loss and (architecture.is_tied or architecture.depths > 0)
    num_vocabularies = (has_embedding or is_at_end) + (has_loss and not architecture.is_tied)
    dense += num_vocabularies * architecture.output.num_parameters_on(tensor)
    dense += has_embedding * architecture.num_positions * architecture.hidden
    return Held(dense, architecture.num_expert_parameters(layers, expert=expert, expert_tensor=expert_tensor))


def table_bytes(architecture: Architecture, virtual_stages: tuple[VirtualStage, ...], *, length: int) -> int:
    """cos and sin of every position of a whole sequence, fp32, which each virtual stage holds for its layers, and
    each further depth for its own (mai/engine/layers.py, decoder_block)."""
    of_virtual_stages = [[architecture.layers[number] for number in each.layers] for each in virtual_stages]
    if any(each.has_loss for each in virtual_stages):
        of_virtual_stages += [list(architecture.layers[-1:])] * architecture.depths
    tables = [
        {layer.attention.has_window_table: layer.attention.turned_size for layer in layers if layer.attention.turns}
        for layers in of_virtual_stages
    ]
    return sum(2 * length * sum(of_virtual_stage.values()) * 4 for of_virtual_stage in tables)
