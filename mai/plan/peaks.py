"""What passes through memory besides what stays: the loss, and the backward pass of a layer."""

from mai.plan.architecture import Architecture, Experts, Layer, Network, Product
from mai.plan.setting import Setting


def stand_in_bytes(setting: Setting, products: tuple[Product, ...], *, tensor: int) -> dict[tuple[int, int], int]:
    """Of an empty tensor like each matrix, by its shape: one serves all matrices that are alike."""
    return {
        (product.inputs, product.outputs): product.num_parameters_on(tensor) * setting.element_bytes
        for product in products
    }


def loss_bytes(setting: Setting) -> int:
    """Last norm, output layer and cross entropy of a micro-batch, and of further depths before it, when most is there:
    in the cross entropy, or in the backward pass of the output layer."""
    cut, holds, architecture = setting.cut, setting.software.holds, setting.architecture
    of_hidden = architecture.hidden * cut.element_bytes
    own, whole = cut.own_tokens * of_hidden, cut.tokens * of_hidden
    gathered = whole if cut.sequence and not holds.gathers_once else 0
    entries = architecture.vocabulary // cut.tensor
    stand_in = 0
    if holds.stand_ins and not holds.stand_ins_stay:
        stand_in = architecture.output.num_parameters_on(cut.tensor) * cut.element_bytes
    if holds.logit_tokens is not None:
        # The gradient of the hidden state is there for every depth before the backward pass begins.
        logits = min(holds.logit_tokens, cut.tokens) * entries * holds.logit_bytes
        return (1 + architecture.depths) * (2 * own + gathered + whole) + max(logits, stand_in)
    logits = cut.tokens * entries
    waiting = architecture.depths * (logits * holds.waiting_logit_bytes + 2 * own + gathered)
    gradients = whole + (own if cut.sequence else 0)
    last = max(logits * holds.logit_bytes, logits * cut.element_bytes + gradients + stand_in)
    return waiting + 2 * own + gathered + last


def layer_backward_bytes(setting: Setting, layer: Layer) -> int:
    """Gradients of a layer's activations, less what it has let go of, when most is there: behind the activation of its
    network, or in the first matrix's backward pass."""
    cut, architecture = setting.cut, setting.architecture
    of_hidden = architecture.hidden * cut.element_bytes
    own, whole = cut.own_tokens * of_hidden, cut.tokens * of_hidden
    experts, network = layer.experts, layer.network
    stand_ins = setting.software.holds.stand_ins and not setting.software.holds.stand_ins_stay
    most = 0
    if network is not None:
        numbers = cut.tokens * cut.element_bytes // cut.tensor
        matrix = network.products[0].num_parameters_on(cut.tensor) * cut.element_bytes if stand_ins else 0
        most = own + _network_peak(network, numbers, of_input=whole, matrix=matrix)
    if experts is not None:
        rows = _rows(setting, experts)
        numbers = rows * cut.element_bytes // cut.expert_tensor
        of_input = rows * experts.network.products[0].inputs * cut.element_bytes
        most = max(most, own + _network_peak(experts.network, numbers, of_input=of_input, matrix=0))
    return most


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
    width = experts.network.products[0].inputs
    hidden = (2 + (experts.shared is not None)) * setting.architecture.hidden
    return (copies * _rows(setting, experts) * width + hidden * cut.own_tokens) * cut.element_bytes


def _rows(setting: Setting, experts: Experts) -> int:
    """Of a rank's experts, where most come together."""
    cut = setting.cut
    return round(cut.own_tokens * experts.per_token * cut.expert_tensor * setting.imbalance)


def _network_peak(network: Network, bytes_of_number: int, *, of_input: int, matrix: int) -> int:
    width = network.width * bytes_of_number
    inner = 2 * width if network.is_gated else width
    # Behind the activation: its gradient is there in and out, what the second matrix kept of it is gone.
    behind_activation = inner
    # Then what the first matrix gave is gone as well; its input's gradient and the stand-in of its own come.
    first_matrix = of_input + matrix - width
    return max(behind_activation, first_matrix)


def embedding_gradient_bytes(architecture: Architecture, setting: Setting) -> int:
    """Of the look-up: as large as the embedding, once the layers have let go of theirs."""
    return architecture.output.num_parameters_on(setting.cut.tensor) * setting.element_bytes
