"""What `mai check` tells of a recipe that keeps the rules: as values, and as people read them. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mai.model.flops import flops_per_token
from mai.model.shapes import num_active_parameters, num_parameters
from mai.optimizer.parameter_groups import check_names
from mai.parallel.layout import Layout, num_micro_batches
from mai.parallel.stages import all_virtual_stages
from mai.recipe import Recipe, describe, fingerprint, rules, to_dict
from mai.recipe.describe import changed
from mai.recipe.stage_text import as_text


def report(recipe: Recipe, ranks: int | None, *, gpus: int | None = None) -> dict[str, Any]:
    """Numbers that depend on the ranks are None where nobody has said how many. `gpus`: a budget for them.

    Raises RecipeError where `optimizer.groups` names no parameter of the model."""
    check_names(recipe)
    parallel = recipe.parallel
    world_size = ranks or (parallel.data and parallel.model_ranks * parallel.data)
    layout = Layout.of(parallel, world_size) if world_size else None
    return {
        "recipe": to_dict(recipe),
        "fingerprint": fingerprint(recipe),
        "changed": sorted(changed(recipe)),
        "parameters": num_parameters(recipe.model),
        "active_parameters": num_active_parameters(recipe.model),
        "flops_per_token": flops_per_token(recipe.model, recipe.data.sequence_length),
        "batch_sequences": recipe.batch_sequences,
        "layout": {
            "ranks": layout and layout.world_size,
            "spares": gpus and layout and gpus - layout.world_size,
            "multiple_of": rules.smallest_world(parallel),
            "tensor": parallel.tensor,
            "context": parallel.context,
            "pipeline": parallel.pipeline,
            "virtual_stages": parallel.virtual_stages,
            "stages": as_text(
                [len(virtual_stage.layers) for virtual_stage in all_virtual_stages(recipe.model.num_layers, parallel)]
            ),
            "data": layout and layout.data,
            "expert": parallel.expert,
            "expert_tensor": parallel.expert_tensor,
            "expert_data": layout and layout.expert_data,
            "micro_batches": layout and num_micro_batches(recipe, layout),
        },
    }


def lines(recipe: Recipe, found: Mapping[str, Any]) -> Iterator[str]:
    """The recipe with what differs from the defaults marked, then the numbers."""
    yield from describe.lines(recipe)
    layout = found["layout"]
    context = f" x context {layout['context']}" if layout["context"] > 1 else ""
    shape = f"tensor {layout['tensor']}{context} x pipeline {layout['pipeline']}"
    if layout["ranks"]:
        where = f"{layout['ranks']:,} ranks = {shape} x data {layout['data']}"
        where += "" if layout["spares"] is None else f"; {layout['spares']:,} spares"
        each = f", {layout['micro_batches']} micro-batches on each rank"
    else:
        where, each = f"any multiple of {layout['multiple_of']} ({shape}); --ranks checks one", ""
    active = f", {found['active_parameters']:,} of them active for a token" if recipe.model.experts else ""
    yield ""
    yield f"parameters   {found['parameters']:,}{active}"
    yield f"layout       {where}"
    if layout["pipeline"] > 1:
        dealt = f", dealt out to {layout['pipeline']} stages in turn, {layout['virtual_stages']} to each"
        yield f"stages       {layout['stages']}{dealt if layout['virtual_stages'] > 1 else ''}"
    if experts := recipe.model.experts:
        copies = f" x expert data {layout['expert_data']}" if layout["ranks"] else ""
        ranks = f"expert {layout['expert']} x expert tensor {layout['expert_tensor']}{copies}"
        yield f"experts      {experts.num_experts} a layer, {experts.experts_per_token} for each token; {ranks}"
    yield f"one step     {found['batch_sequences']} sequences of {recipe.data.sequence_length} tokens{each}"
    yield f"one token    {found['flops_per_token']:.3g} FLOP, forward and backward (causal attention counted half)"


def built_lines(built: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How many parameters the ranks that were built hold, by stage."""
    by_stage: dict[int, list[Mapping[str, Any]]] = {}
    for one in built:
        by_stage.setdefault(one["pipeline"], []).append(one)
    for stage, ranks in by_stage.items():
        held = sorted({one["num_parameters"] for one in ranks})
        each = " or ".join(f"{number:,}" for number in held)
        yield f"stage {stage:<5}  {each} parameters on a rank ({len(ranks)} built)"
    if built:
        yield f"built        {len(built)} ranks; all that each holds, and where it lies, is as mai/model/shapes.py says"
