"""What a rank holds from step to step: weights, gradients' sums, the optimizer, and buffers beside them."""

from mai.parallel.stages import VirtualStage
from mai.plan.model.architecture import Layer, Product
from mai.plan.model.virtual_stage_activations import gather_buffer_bytes
from mai.plan.model.weights import Held, table_bytes
from mai.plan.setting.setting import Setting

_FP32 = 4
_MIB = 2**20


def state_bytes(setting: Setting, rank: Held, shards: tuple[float, float]) -> dict[str, int]:
    """Bytes of weights, sums of gradients, and the optimizer's fp32 weights and moments, over so many
    `Setting.shards`."""
    holds, (dense_shards, expert_shards) = setting.software.holds, shards
    shared_out = rank.dense / dense_shards + rank.experts / expert_shards
    if setting.parallel.sharding == "full":
        return {
            "gradients": round(holds.gradient_bytes * shared_out),
            "optimizer": round(setting.optimizer_bytes * shared_out),
        }
    # Where the model computes in fp32, its weights are the optimizer's.
    own_weight = _FP32 * (setting.element_bytes == _FP32)
    return {
        "weights": setting.element_bytes * rank.all,
        "gradients": (holds.gradient_bytes + holds.own_gradient_bytes) * rank.all,
        "optimizer": round((setting.optimizer_bytes - own_weight) * shared_out),
    }


def buffer_bytes(setting: Setting, virtual_stages: tuple[VirtualStage, ...]) -> int:
    """Bytes of stand-ins for gradients, fp8 copies of weights, gathered inputs, tables of positions and workspaces."""
    cut, holds, architecture = setting.cut, setting.software.holds, setting.architecture
    layers = layers_of(setting, virtual_stages)
    has_loss = any(each.has_loss for each in virtual_stages)
    buffers = holds.workspace_mib * _MIB
    if holds.position_tables:
        buffers += table_bytes(architecture, virtual_stages, length=cut.length)
    if any(layer.experts for layer in layers):
        buffers += holds.expert_workspace_mib * _MIB
    if holds.stand_ins_stay:
        buffers += _stand_in_bytes(setting, layers, has_loss=has_loss)
    if setting.precision in ("fp8", "fp4"):
        buffers += holds.fp8_weight_bytes * sum(num_numbers(setting, layer) for layer in layers)
    if holds.gathers_inputs:
        buffers += max(gather_buffer_bytes(architecture, each, cut) for each in virtual_stages)
    if holds.gathers_last_input and has_loss and cut.sequence:
        buffers += cut.tokens * architecture.hidden * cut.element_bytes
    return buffers


def layers_of(setting: Setting, virtual_stages: tuple[VirtualStage, ...]) -> list[Layer]:
    """The layers of these virtual stages, and of further depths behind the last."""
    architecture = setting.architecture
    layers = [architecture.layers[number] for each in virtual_stages for number in each.layers]
    has_loss = any(each.has_loss for each in virtual_stages)
    return layers + list(architecture.layers[-1:]) * (architecture.depths * has_loss)


def num_numbers(setting: Setting, layer: Layer) -> int:
    """How many numbers a layer's matrices have on a rank."""
    cut = setting.cut
    numbers = sum(product.num_parameters_on(cut.tensor) for product in _matrices(layer))
    if layer.experts is not None:
        numbers += layer.experts.num_parameters_on(expert=cut.expert, expert_tensor=cut.expert_tensor)
    return numbers


def _stand_in_bytes(setting: Setting, layers: list[Layer], *, has_loss: bool) -> int:
    """One serves all matrices of the same shape."""
    cut = setting.cut
    ranks: dict[Product, int] = {}
    for layer in set(layers):
        ranks |= dict.fromkeys(_matrices(layer), cut.tensor)
        if layer.experts is not None:
            ranks |= dict.fromkeys(layer.experts.network.products, cut.expert_tensor)
    if has_loss:
        ranks[setting.architecture.output] = cut.tensor
    sizes = {(product.inputs, product.outputs): product.num_parameters_on(of) for product, of in ranks.items()}
    return setting.element_bytes * sum(sizes.values())


def _matrices(layer: Layer) -> list[Product]:
    """Matrices of every token, without the router."""
    router = layer.experts.router if layer.experts is not None else None
    return [product for product in layer.products() if product is not router]
