"""What a framework of one generation does to memory and time, beside the model and the hardware: `Software`.

The same layout on the same GPUs took 1.96 times as long under the Megatron-Core of one year as under that of the next
(its optimisation log of DeepSeek-V3 on 256 GB200), so the software is an input of every plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mai.hardware.names import check_name, names_in
from mai.hardware.toml_file import MAY_BE_ZERO, NOT_A_KEY, Findings, build, read_table

_SHIPPED = Path(__file__).parent / "software"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holds:
    """Bytes that a rank holds besides what its layers keep."""

    gradient_bytes: int
    """What a parameter's gradient takes, summed over micro-batches."""
    own_gradient_bytes: int = field(default=0, metadata=MAY_BE_ZERO)
    """What a parameter's gradient of one micro-batch takes, where it stands beside the sum."""
    optimizer_bytes: int | None = None
    """What a parameter's fp32 weight and moments take before ranks share them; None: as the recipe's optimizer."""
    stand_ins: bool = False
    """Autograd gets an empty tensor in place of a matrix's gradient, which the product has already added to its sum."""
    stand_ins_stay: bool = False
    """One of every shape of matrix, for good; without, each as long as its own backward pass."""
    fp8_weight_bytes: int = field(default=0, metadata=MAY_BE_ZERO)
    """What the copies that products in fp8 read take for each number of a matrix, besides its weight."""
    logit_bytes: int
    """What a logit takes, with what the loss makes of it, when the loss needs most memory."""
    waiting_logit_bytes: int = field(default=0, metadata=MAY_BE_ZERO)
    """What a logit of a further depth takes, from its forward to its backward pass."""
    logit_tokens: int | None = None
    """As many tokens' logits exist at once; None for those of a whole micro-batch."""
    gathers_inputs: bool = False
    """A buffer for good takes what each matrix gathers of a sequence."""
    gathers_last_input: bool = False
    """The same of the output layer alone."""
    position_tables: bool = False
    """cos and sin of every position, which each virtual stage holds."""
    workspace_mib: int
    """The workspaces of cuBLAS in PyTorch's allocator: on Hopper and newer, unless the source says otherwise."""
    expert_workspace_mib: int = field(default=0, metadata=MAY_BE_ZERO)
    """As much besides where a product has a matrix for each expert."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeps:
    """What its layers keep for the backward pass besides what all do."""

    attention_scores: bool
    """Queries times keys and their softmax: without a fused attention."""
    dropout_masks: bool
    """A byte for each number that dropout looked at."""
    activation_inputs: bool = False
    """Both factors of what a gated network's second matrix reads: without a fused activation."""
    fp8_inputs: bool = False
    """What a product in fp8 reads is kept in fp8."""
    context_outputs: bool = False
    """What attention gave to other context ranks: once more than the projection behind it keeps."""
    router_inputs: bool = False
    """A copy in fp32 of what a router reads."""
    context_keys: bool = False
    """Keys and values of whole sequences, which context ranks gather; without, those of the rank's own part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast it drives a GPU. Shares are of what the GPU reached when it did nothing else."""

    product_share: float
    """What matrix products reach of the rate that the GPU sustains."""
    attention_share: float
    """The same of attention."""
    grouped_share: float
    """The same of experts' products."""
    traffic: float
    """Bytes of the operations between products, over those of mai's fused ones."""
    host_layer_microseconds: float = field(default=0.0, metadata=MAY_BE_ZERO)
    """The host's time to enqueue a dense layer's forward pass; the backward pass takes as long again."""
    host_expert_layer_microseconds: float = field(default=0.0, metadata=MAY_BE_ZERO)
    """That of a layer with experts."""
    host_collective_microseconds: float = field(default=0.0, metadata=MAY_BE_ZERO)
    """What each collective among tensor ranks adds to it."""
    gathers_quantised: bool = False
    """Tensor ranks gather what goes into a product in the product's own precision."""
    masks_windows: bool = False
    """A window, or a sink, is a mask over all keys: what it hides is computed as well."""
    masks_context: bool = False
    """Context ranks attend by rectangles: the block of each of their two parts on the diagonal is computed whole."""
    scatters_sends: bool = False
    """Each tensor rank sends its part of what goes to the next stage, also where all of them have the whole."""
    tensors_apart: bool = False
    """Gradients and weights go to other data-parallel ranks tensor by tensor, and not in large buckets."""
    sends_once_a_node: bool
    """A token that goes to several experts of one node crosses the network once."""
    step_milliseconds: float = field(default=0.0, metadata=MAY_BE_ZERO)
    """Once a step: data, logging, the norm of the gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hides:
    """The share of each transfer that runs beside computation, where there is enough to hide behind."""

    tensor: float = field(default=0.0, metadata=MAY_BE_ZERO)
    context: float = field(default=0.0, metadata=MAY_BE_ZERO)
    expert: float = field(default=0.0, metadata=MAY_BE_ZERO)
    pipeline: float = field(default=0.0, metadata=MAY_BE_ZERO)
    gradients: float = field(default=0.0, metadata=MAY_BE_ZERO)
    parameters: float = field(default=0.0, metadata=MAY_BE_ZERO)


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """One framework of one generation."""

    name: str = field(metadata=NOT_A_KEY)
    describes: str
    """In words, for people."""

    holds: Holds
    keeps: Keeps
    pace: Pace
    hides: Hides

    sources: Mapping[str, str] = field(default_factory=dict, metadata=NOT_A_KEY, repr=False, hash=False)
    """Where numbers come from, by the path of their key."""


def load_software(name: str) -> Software:
    """The one of this name; raises PlanError, with the names there are, when none has it."""
    check_name(name, "software", software_names())
    file = _SHIPPED / f"{name}.toml"
    findings = Findings()
    software = build(Software, read_table(file), findings, name=name, sources=findings.sources)
    assert software is not None, f"{file} ships with mai: {findings.violations}"
    return software


def software_names() -> list[str]:
    return names_in(_SHIPPED)
