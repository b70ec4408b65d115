"""Fully sharded data parallelism (ZeRO-3, arXiv 1910.02054) by torch's FSDP2, in steps that a guard can stand between.

    between steps   a rank holds its rows of every parameter: weight, gradient and the optimizer's states, fp32
    forward         a unit (a layer, an end of the model) is gathered in the compute format, used, and freed
    backward        gathered again; its gradients are summed over the ranks in fp32, and every rank keeps its rows

Tensor and pipeline ranks have cut the parameters before. `optimizer_sharding.py` is the other way.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mai.engine.experts import Experts
from mai.engine.operations import choose, compute_dtype
from mai.engine.shard import WEIGHT, Block, Shard
from mai.engine.sharded_state import UpdateRules, blocks, buffer_shards
from mai.engine.sharding import Owned, Updates, global_norm, new_states
from mai.optimizer.optimizers import Optimizer, optimizer_of
from mai.optimizer.parameter_groups import GroupRule
from mai.recipe import Recipe


class FullSharding:
    """A `sharding.Sharding`; what each verb does stands there."""

    def __init__(
        self,
        modules: Sequence[GPTModel],
        rules: UpdateRules,
        recipe: Recipe,
        *,
        mesh: DeviceMesh,
        expert_mesh: DeviceMesh,
    ) -> None:
        """Shards the modules in place; all ranks must call.

        The meshes are those of dense weights and of experts: [shard], or [copy, shard] where copies are kept equal."""
        optimizer, self._sum_of_squares = optimizer_of(recipe.optimizer), choose(recipe).sum_of_squares
        self._rows: list[_Rows] = []
        self._pieces: list[_Piece] = []
        self.wrapped_stages: list[Any] = []
        self._buffers = buffer_shards(modules)
        for module in modules:
            named_blocks = list(_named_blocks(module))
            # By name: sharing them out puts other parameters in their places.
            named_rules = {name: rules[parameter] for name, parameter in module.named_parameters()}
            units = [(unit, expert_mesh if isinstance(unit, Experts) else mesh) for unit in _units(module)]
            sharded = _share_out(module, units, compute_dtype(recipe.precision))
            rows = {name: _rows(parameter, optimizer, named_rules[name]) for name, parameter in sharded.items()}
            self._rows += rows.values()
            self._pieces += [
                piece for name, start, block in named_blocks for piece in _meeting(rows[name], start, block)
            ]
            self.wrapped_stages.append(_Wrapped(module, [own.gradient for own in rows.values()]))
        self.updates = Updates(recipe, [rows.owned for rows in self._rows])

    def zero_gradients(self) -> None:
        torch._foreach_zero_(self._gradients)

    def finish_gradients(self) -> None:
        """FSDP2 has brought them where they belong."""
        self.updates.forget_frozen_gradients()

    def gradient_norm(self) -> float:
        counted = [piece.of(piece.rows.gradient) for piece in self._pieces if not piece.block.is_replica]
        return global_norm(
            counted, device=self._rows[0].gradient.device, group=None, sum_of_squares=self._sum_of_squares
        )

    def publish_main_weights(self) -> None:
        """Nothing to do: the next forward pass gathers what was written."""

    def shards(self) -> list[Shard]:
        return [piece.shard(piece.rows.tensors) for piece in self._pieces] + self._buffers

    def gradients(self) -> list[Shard]:
        return [piece.shard({"gradient": piece.rows.gradient}) for piece in self._pieces]

    @property
    def _gradients(self) -> list[Tensor]:
        return [rows.gradient for rows in self._rows]


class _Wrapped(MegatronModule):
    """A virtual stage as Megatron's schedules and its finalize_model_grads know it."""

    def __init__(self, module: GPTModel, gradients: list[Tensor]) -> None:
        super().__init__(config=module.config)
        self.module = module
        self._gradients = gradients
        # finalize_model_grads sums the gradients of norms over the tensor ranks. Told this, it sums the rows in place,
        # as they are; told nothing, it gathers all rows and leaves their sums in new gradients, which nobody reads.
        self.ddp_config = DistributedDataParallelConfig(use_megatron_fsdp=True)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.module(*arguments, **keywords)

    def no_sync(self) -> contextlib.nullcontext[None]:
        """Nothing to hold back: a rank has room for its own rows of the sums only."""
        return contextlib.nullcontext()

    def finish_grad_sync(self, *, force_all_reduce: bool) -> None:
        """Nothing to do: every backward pass sums its gradients over the ranks."""

    def scale_gradients(self, factor: Tensor) -> None:
        torch._foreach_mul_(self._gradients, factor)


@dataclass(frozen=True, slots=True)
class _Rows:
    """This rank's rows of one parameter; weight and gradient are FSDP2's own memory."""

    owned: Owned
    gradient: Tensor
    start: int
    """Where they begin in the flattened parameter."""
    copy: int
    """Which of the copies that are kept equal they belong to."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weight and states, by name."""
        return {WEIGHT: self.owned.weight.detach(), **self.owned.states}


@dataclass(frozen=True, slots=True)
class _Piece:
    """The part of some rows that lies in one block of a global tensor."""

    rows: _Rows
    first: int
    """Where it begins in the flattened rows."""
    block: Block
    start: int
    """Where it begins in the flattened block."""
    stop: int

    def of(self, state: Tensor) -> Tensor:
        """This piece of a state of the rows, flattened."""
        return state.view(-1)[self.first : self.first + self.stop - self.start]

    def shard(self, states: dict[str, Tensor]) -> Shard:
        return Shard(self.block, self.start, self.stop, {name: self.of(state) for name, state in states.items()})


def _named_blocks(module: GPTModel) -> Iterator[tuple[str, int, Block]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, start, block in blocks([module]):
        yield names[parameter], start, block


def _share_out(module: GPTModel, units: Iterable[tuple[Any, DeviceMesh]], dtype: torch.dtype) -> dict[str, DTensor]:
    """Shard the module in place, unit by unit; returns its parameters by name, of which each rank now holds rows."""
    marks = {name: dict(vars(parameter)) for name, parameter in module.named_parameters()}
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit, mesh in units:
        for parameter in unit.parameters():
            parameter.data = parameter.data.float()
        unit.register_forward_hook(_in_memory_of_its_own)
        # Freed after forward, always. FSDP2 would keep what the outermost unit holds for a backward pass; after an
        # evaluation there is none, and a checkpoint that is loaded then would not reach the next forward pass.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        # Plain sums: finalize_model_grads divides by the number of tokens, and gloo knows no other reduction.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(enable=True)
    sharded = dict(module.named_parameters())
    for name, parameter in sharded.items():
        # These parameters are new, without the marks that Megatron's layers had made (pytorch issue 136929).
        vars(parameter).update(marks[name])
    return sharded


def _in_memory_of_its_own(unit: Any, inputs: Any, output: Any) -> Any:
    """The output, copied if it is a view of something.

    Megatron transposes the embedding's output and the losses: a view where a micro-batch is one sequence. FSDP2 warns
    of views, since an operation on one in place would drop the hook that gathers the weights for the backward pass.
    """
    return output.clone() if isinstance(output, Tensor) and output._base is not None else output


def _units(module: GPTModel) -> list[Any]:
    """What is gathered at once, inner before outer; the model itself holds what no other unit does."""
    experts = [part for part in module.modules() if isinstance(part, Experts)]
    # The model itself holds both ends where one of them is used twice in a forward pass, or is a weight that the model
    # asks for outside of the end that holds it: for further tokens, and where the embedding is the output layer too.
    if module.mtp_process or module.share_embeddings_and_output_weights:
        further = module.mtp.layers if module.mtp_process else []
        return [*experts, *module.decoder.layers, *further, module]
    ends = [module.embedding] if module.pre_process else []
    ends += [module.output_layer] if module.post_process else []
    return [*experts, *module.decoder.layers, *ends, module]


@torch.no_grad()
def _rows(parameter: DTensor, optimizer: Optimizer, rule: GroupRule) -> _Rows:
    # The gradients are there from the start: one that no token reached counts as zero, as in the distributed optimizer.
    gradients: DTensor = torch.zeros_like(parameter)  # type: ignore[assignment]
    parameter.grad = gradients
    weight, gradient = torch.nn.Parameter(parameter.to_local()), gradients.to_local()
    weight.grad = gradient
    mesh, coordinate = parameter.device_mesh, parameter.device_mesh.get_coordinate()
    assert coordinate is not None
    # FSDP2 cuts as torch.chunk does: the same number of rows each, and what is left, maybe none, for the last ranks.
    rows_each = math.ceil(parameter.size(0) / mesh.size(-1))
    start = coordinate[-1] * rows_each * math.prod(parameter.shape[1:])
    owned = Owned(weight=weight, copy=None, states=new_states(weight, optimizer), rule=rule)
    return _Rows(owned, gradient, start, copy=coordinate[0] if mesh.ndim == 2 else 0)


def _meeting(rows: _Rows, block_start: int, block: Block) -> Iterator[_Piece]:
    """The piece, if there is one; the first copy answers for all."""
    first = max(rows.start, block_start)
    last = min(rows.start + rows.gradient.numel(), block_start + math.prod(block.shape))
    if first < last:
        block = replace(block, is_replica=block.is_replica or rows.copy > 0)
        yield _Piece(rows, first - rows.start, block, first - block_start, last - block_start)
