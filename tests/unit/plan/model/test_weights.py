"""A rank holds the parameters that `mai check --build` finds it to hold."""

import math

import pytest

from mai.check.boxes import held as held_boxes
from mai.parallel.layout import Layout
from mai.parallel.stages import virtual_stages_of
from mai.plan.model.architecture import of_model
from mai.plan.model.weights import held
from mai.recipe import load


@pytest.mark.parametrize("recipe_name", load.names())
def test_every_stage_of_a_recipe_holds_what_its_boxes_say(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    parallel, model = recipe.parallel, recipe.model
    layout = Layout.of(parallel, parallel.model_ranks * (parallel.data or parallel.expert * parallel.expert_tensor))
    for stage in range(layout.pipeline):
        found = held(
            of_model(model),
            virtual_stages_of(model.num_layers, parallel, stage),
            tensor=layout.tensor,
            expert=layout.expert,
            expert_tensor=layout.expert_tensor,
        )
        boxes = {True: 0, False: 0}
        for parameter, of_rank in held_boxes(recipe, layout, layout.rank_at(tensor=0, data=0, pipeline=stage)):
            if not parameter.name.endswith("expert_bias"):  # a buffer
                boxes[parameter.is_expert] += sum(math.prod(box.shape) for box in of_rank)
        assert (found.dense, found.experts) == (boxes[False], boxes[True]), f"stage {stage}"
