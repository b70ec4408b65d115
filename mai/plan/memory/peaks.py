"""What passes through memory besides what stays and what is kept: the loss, and a layer forward and backward."""

from mai.plan.memory.kept import input_bytes, kept_of_layer
from mai.plan.model.architecture import Experts, Layer, Network
from mai.plan.setting.setting import Setting


def loss_bytes(setting: Setting) -> int:
    """Last norm, output layer and cross entropy of a micro-batch, and of further depths before it, when most is there:
    in the cross entropy, or in the backward pass of the output layer."""
    cut, holds, architecture = setting.cut, setting.software.holds, setting.architecture
    own, whole = input_bytes(setting), cut.tokens * architecture.hidden * cut.element_bytes
    logits = cut.tokens * (architecture.vocabulary // cut.tensor)
    stand_in = 0
    if holds.stand_ins and not holds.stand_ins_stay:
        stand_in = architecture.output.num_parameters_on(cut.tensor) * cut.element_bytes
    if holds.logit_tokens is not None and setting.parallel.sharding == "full":
        # All logits are kept (`kept_of_part`).
        return whole + (own if cut.sequence else 0)
    if holds.logit_tokens is not None:
        # What the last norm gives, and gathers; the rest is kept (`kept_of_part`).
        gathered = own + whole if cut.sequence else own
        chunk = min(holds.logit_tokens, cut.tokens) * (architecture.vocabulary // cut.tensor) * holds.logit_bytes
        return max(gathered + chunk, stand_in)
    waiting = architecture.depths * (logits * holds.waiting_logit_bytes + 2 * own)
    gradients = whole + (own if cut.sequence else 0)
    return waiting + 2 * own + max(logits * holds.logit_bytes, logits * cut.element_bytes + gradients + stand_in)


def backward_bytes(setting: Setting, layer: Layer) -> int:
    """What passes in a layer's backward pass, with what is computed again for it."""
    recompute, backward = setting.parallel.recompute, _gradient_bytes(setting, layer)
    again = kept_of_layer(setting, layer) - kept_of_layer(setting, layer, recompute)
    # The attention comes when its network has let go.
    return max(backward, again) if recompute == ("attention_core",) else backward + again


def expert_forward_bytes(setting: Setting, layer: Layer) -> int:
    """Copies of the rows that experts get, besides the one that is kept, when most are there: what was sent and what
    came in its order of ranks wait until the layer ends (megatron/core/transformer/moe/moe_layer.py, MoELayer.forward,
    holds them), while what the experts gave is put back into that order; and hidden states of the shared expert, of the
    sum and of the layer."""
    experts, cut = layer.experts, setting.cut
    if experts is None:
        return 0
    ranks, own_experts = cut.expert * cut.expert_tensor, experts.number // cut.expert
    copies = 1 if ranks == 1 else 3 if own_experts == 1 else 4
    rows = _rows(setting, experts) * experts.network.products[0].inputs * cut.element_bytes
    return copies * rows + (2 + (experts.shared is not None)) * input_bytes(setting)


def embedding_gradient_bytes(setting: Setting) -> int:
    """The gradient of the look-up: as large as the embedding."""
    return setting.architecture.output.num_parameters_on(setting.cut.tensor) * setting.element_bytes


def _gradient_bytes(setting: Setting, layer: Layer) -> int:
    """Activations' gradients, less what the layer has let go of, when most is there: behind the activation of its
    network, or in the first matrix's backward pass."""
    cut, holds, own = setting.cut, setting.software.holds, input_bytes(setting)
    experts, network = layer.experts, layer.network
    most = 0
    if network is not None:
        number = cut.tokens * cut.element_bytes // cut.tensor
        whole = cut.tokens * setting.architecture.hidden * cut.element_bytes
        matrix = network.products[0].num_parameters_on(cut.tensor) * cut.element_bytes
        has_stand_in = holds.stand_ins and not holds.stand_ins_stay
        most = own + _network_bytes(network, number, beside_first_matrix=whole + has_stand_in * matrix)
    if experts is not None:
        rows = _rows(setting, experts) * cut.element_bytes
        number, of_input = rows // cut.expert_tensor, rows * experts.network.products[0].inputs
        most = max(most, own + _network_bytes(experts.network, number, beside_first_matrix=of_input))
    return most


def _network_bytes(network: Network, number: int, *, beside_first_matrix: int) -> int:
    """`number`: bytes of all tokens' numbers of one kind."""
    width = network.width * number
    # Behind the activation its gradient is there on both sides, and what the second matrix kept of it is gone. Then
    # what the first matrix gave is gone as well.
    return max(2 * width if network.is_gated else width, beside_first_matrix - width)


def _rows(setting: Setting, experts: Experts) -> int:
    """Rows of a rank's experts, where most come together."""
    cut = setting.cut
    return round(cut.own_tokens * experts.per_token * cut.expert_tensor * cut.imbalance)
