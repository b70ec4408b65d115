"""Rules of multi-token prediction."""

from collections.abc import Iterator

from mai.recipe.breach import Breach
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach

_PATH = "model.multi_token_depths"


def every_depth_has_a_token_to_predict(recipe: Recipe) -> Iterator[Breach]:
    length = recipe.data.sequence_length
    if recipe.model.multi_token_depths >= length:
        rule = f"the last depth would have no token to predict; use {_PATH}={length - 1} or less"
        yield breach(recipe, rule, _PATH, "data.sequence_length")


def further_tokens_need_mais_layer_and_loss(recipe: Recipe) -> Iterator[Breach]:
    """An own layer is made for a layer of the model by its number; an own loss speaks of the next token."""
    for path, own in {"model.layer": recipe.model.layer, "objective.loss": recipe.objective.loss}.items():
        if recipe.model.multi_token_depths and own is not None:
            rule = f"further tokens are predicted with mai's own; use {_PATH}=0, or {path}=none"
            yield breach(recipe, rule, _PATH, path)


def stages_do_not_share_a_tied_embedding_with_further_tokens(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core (models/gpt/gpt_model.py, GPTModel, core 0.16.1) then gives the last stage an output layer of its
    own beside the embedding, which nothing trains."""
    model = recipe.model
    if model.multi_token_depths and model.tied_embeddings and recipe.parallel.pipeline > 1:
        rule = (
            "Megatron-Core would leave a matrix untrained; use parallel.pipeline=1, model.tied_embeddings=false, or "
            f"{_PATH}=0"
        )
        yield breach(recipe, rule, _PATH, "model.tied_embeddings", "parallel.pipeline")
