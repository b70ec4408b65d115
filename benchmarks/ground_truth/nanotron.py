"""Rows of nanotron's sweep as Settings, cut as nanotron cuts a model: by what its blocks cost.

What nanotron refuses or cannot build is no Setting: fewer micro-batches than stages less one (src/nanotron/parallel/
pipeline_parallel/engine.py, OneForwardOneBackwardPipelineEngine), and a stage without a block.
"""

from dataclasses import replace

from benchmarks.ground_truth.rows import Row, UnusableError, read
from benchmarks.ground_truth.settings import setting_of
from mai.plan.model.architecture import Architecture
from mai.plan.setting.setting import Setting
from mai.recipe.stage_text import as_text


def nanotron_setting_of(row: Row) -> Setting:
    """Raises UnusableError."""
    # Failed layouts lack columns. Nothing is recomputed unless asked for (src/nanotron/config/parallelism_config.py).
    setting = setting_of({**dict.fromkeys(next(read()), ""), **row, "recompute": "none"})
    pipeline = setting.parallel.pipeline
    if setting.num_micro_batches < pipeline - 1:
        raise UnusableError(f"{setting.num_micro_batches} micro-batches are too few for {pipeline} stages")
    if pipeline == 1:
        return setting
    stages = as_text(_layers_of_stages(setting.architecture, pipeline))
    return replace(setting, parallel=replace(setting.parallel, stages=stages))


def _layers_of_stages(architecture: Architecture, pipeline: int) -> list[int]:
    """Blocks go to a stage until their cost is above its share, the one that goes above it included (src/nanotron/
    models/base.py, build_model; a block costs its parameters, the embedding, norm and loss nothing)."""
    of_layer = sum(product.num_parameters for product in architecture.layers[0].products())
    # Embedding, layers, norm, output layer, its cast to fp32, loss.
    costs = [0, *[of_layer] * len(architecture.layers), 0, architecture.output.num_parameters, 0, 0]
    stages, spent, stage = [], 0, 0
    for cost in costs:
        stages.append(stage)
        spent += cost
        stage += spent > sum(costs) * (stage + 1) / pipeline
    if set(stages) < set(range(pipeline)):
        raise UnusableError("a stage holds nothing")
    return [stages[1 : 1 + len(architecture.layers)].count(stage) for stage in range(pipeline)]
