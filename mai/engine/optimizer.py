"""Megatron's distributed optimizer (ZeRO-1) over torch's fused AdamW, in three steps that a guard can stand between.

ZeRO-1 is used on one rank too, so that there is one path and one checkpoint format.
"""

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, ParamGroupOverride, ParamKey, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import ParamPredicate

from mai.engine.translate import optimizer_config
from mai.errors import EnvironmentMismatchError
from mai.optimizer.groups import decays
from mai.recipe import Recipe


def build_optimizer(model: DistributedDataParallel, recipe: Recipe) -> MegatronOptimizer:
    """All ranks must call. States are allocated at once, so that memory is known before the first step."""
    no_decay = ParamKey(predicate=ParamPredicate(name="no_decay", fn=lambda parameter: not decays(parameter.shape)))
    optimizer = get_megatron_optimizer(
        optimizer_config(recipe.optimizer, recipe.precision),
        [model],
        config_overrides={no_decay: ParamGroupOverride(wd_mult=0.0)},
        use_gloo_process_groups=False,
    )
    for part in optimizer.chained_optimizers:
        if not part.is_stub_optimizer:
            _refuse_foreign(part.optimizer)
            _prepare(part.optimizer)
    return optimizer


def _refuse_foreign(optimizer: torch.optim.Optimizer) -> None:
    # megatron/core/optimizer/__init__.py takes the FusedAdam of Transformer Engine or apex wherever one can be
    # imported; they count their steps elsewhere than the checkpoint looks.
    if type(optimizer) is not torch.optim.AdamW:
        raise EnvironmentMismatchError(
            f"Megatron-Core found {type(optimizer).__module__}.{type(optimizer).__name__} in this environment and "
            "would train with it, and mai trains with torch's AdamW so far; run in an environment without "
            "transformer_engine and apex (make setup makes one)"
        )


def _prepare(adamw: torch.optim.AdamW) -> None:
    for group in adamw.param_groups:
        # Megatron makes AdamW with torch's defaults, which on a CPU loop over the parameters in Python.
        group["fused"], group["foreach"] = True, False
        group["weight_decay"] *= group["wd_mult"]
        for parameter in group["params"]:
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Bring the reduced gradients to the fp32 shards and return their global L2 norm; all ranks must call.

    Not finite on one rank means not finite on all, because the norm is summed over all ranks. Squares are summed in
    fp64: Megatron's fp32 sum (megatron/core/optimizer/clip_grads.py) is off by 1e-5 for a million elements on a CPU, by
    another amount in each layout, and the clipping follows it."""
    optimizer.prepare_grads()
    gradients = [gradient for part in optimizer.chained_optimizers for gradient in part.get_main_grads_for_grad_norm()]
    norms = torch._foreach_norm(gradients, dtype=torch.float64) if gradients else []
    device = gradients[0].device if gradients else optimizer.get_loss_scale().device
    total = torch.stack(list(norms)).square().sum() if norms else torch.zeros((), dtype=torch.float64, device=device)
    dist.all_reduce(total, group=optimizer.get_grad_stats_parallel_group())
    return float(total.sqrt())


def update(optimizer: MegatronOptimizer, *, norm: float, clip_norm: float, learning_rate: float) -> None:
    """Clip, step and gather the new weights; all ranks must call, after `gradient_norm`."""
    for part in optimizer.chained_optimizers:
        for group in part.param_groups:
            group["lr"] = learning_rate
        if part.get_parameters():
            clip_grad_by_total_norm_fp32(part.get_parameters(), max_norm=clip_norm, total_norm=norm)
    optimizer.step_with_ready_grads()


def updates_done(optimizer: MegatronOptimizer) -> int:
    """Updates applied so far: AdamW's bias correction counts them."""
    for part in optimizer.chained_optimizers:
        if not part.is_stub_optimizer:
            for state in part.optimizer.state.values():
                return int(state["step"].item())
    return 0


def set_updates_done(optimizer: MegatronOptimizer, updates: int) -> None:
    for part in optimizer.chained_optimizers:
        if not part.is_stub_optimizer:
            for state in part.optimizer.state.values():
                state["step"].fill_(updates)


@torch.no_grad()
def publish_main_weights(optimizer: MegatronOptimizer) -> None:
    """After the fp32 weights were written from outside: cast and gather them into the model; all ranks must call."""
    for part in optimizer.chained_optimizers:
        if not part.is_stub_optimizer:
            part._copy_main_params_to_model_params()
            for chunk in part.model_chunks:
                chunk.start_param_sync()
