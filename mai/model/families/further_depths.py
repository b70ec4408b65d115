"""Multi-token prediction in checkpoints: each further depth is one more layer behind the last, with copies of the
embedding and of the output layer (README_WEIGHTS.md of deepseek-ai/DeepSeek-V3). transformers passes over them and
writes none."""

from collections.abc import Callable, Iterator

from mai.model.families.shared_parts import ends, same, theirs
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Repeated, Rule, Source
from mai.model.shapes import depth_layer
from mai.recipe import ModelConfig

LayerRules = Callable[[ModelConfig, int, str, str], Iterator[Rule]]
"""Rules of a layer that is like this one of the model, by what our names and theirs begin with."""


def further_depths(config: HfConfig) -> int:
    """Checkpoints of one depth do not say what of it a second one would take."""
    config.must_be("num_nextn_predict_layers", [0, 1])
    return min(config.number("num_nextn_predict_layers", int), 1)


def ends_with_copies(model: ModelConfig) -> Iterator[Rule]:
    """Every depth has a copy of the embedding and of the output layer."""
    copies = {
        "embedding.word_embeddings.weight": "embed_tokens.weight",
        "output_layer.weight": "shared_head.head.weight",
    }
    for rule in ends(model):
        if (copy := copies.get(rule.target.name)) is None:
            yield rule
            continue
        further = [Source(theirs(model.num_layers + depth, copy)) for depth in range(model.multi_token_depths)]
        yield Rule(rule.target, Repeated((*rule.making.sources, *further)))


def further_depth(model: ModelConfig, depth: int, layer_rules: LayerRules) -> Iterator[Rule]:
    our, their = f"mtp.layers.{depth}.", theirs(model.num_layers + depth, "")
    yield from (same(f"{our}{name}.weight", f"{their}{name}.weight") for name in ("enorm", "hnorm", "eh_proj"))
    yield from layer_rules(model, model.num_layers - 1, f"{depth_layer(depth)}.", their)
    yield same(f"{our}final_layernorm.weight", f"{their}shared_head.norm.weight")
