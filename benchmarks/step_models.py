"""What benchmarks/step.py trains: recipes of one rank."""

from dataclasses import replace

from mai.model.families import llama
from mai.recipe import ModelConfig, PrecisionConfig, Recipe
from recipes.quickstart import quickstart


def quickstart_model() -> Recipe:
    """The quick start's, which is small: it shows what the host does."""
    return _alone(quickstart())


def layers_of_8b() -> Recipe:
    """Four layers of Llama 3 8B and a smaller vocabulary: it shows what the card does with a large model's layers."""
    return _large(replace(llama.SIZES["8b"], num_layers=4, vocab_size=32768), micro_batch_sequences=2)


def llama_1b() -> Recipe:
    """Llama 3.2 1B (meta-llama/Llama-3.2-1B, config.json)."""
    sizes = {"num_layers": 16, "hidden_size": 2048, "ffn_hidden_size": 8192, "num_heads": 32, "head_size": 64}
    return _large(replace(llama.SIZES["8b"], tied_embeddings=True, **sizes), micro_batch_sequences=2)


def llama_3b() -> Recipe:
    """Llama 3.2 3B (meta-llama/Llama-3.2-3B, config.json)."""
    sizes = {"num_layers": 28, "hidden_size": 3072, "ffn_hidden_size": 8192, "num_heads": 24}
    return _large(replace(llama.SIZES["8b"], tied_embeddings=True, **sizes), micro_batch_sequences=1)


MODELS = {"quickstart": quickstart_model, "layers_8b": layers_of_8b, "llama_1b": llama_1b, "llama_3b": llama_3b}


def _large(model: ModelConfig, *, micro_batch_sequences: int) -> Recipe:
    recipe = quickstart()
    return _alone(
        replace(
            recipe,
            model=model,
            data=replace(recipe.data, sequence_length=4096),
            train=replace(recipe.train, batch_tokens=4 * 4096),
            precision=PrecisionConfig(compute="bf16"),
        ),
        micro_batch_sequences=micro_batch_sequences,
    )


def _alone(recipe: Recipe, **fields: int) -> Recipe:
    return replace(recipe, parallel=replace(recipe.parallel, tensor=1, pipeline=1, data=1, **fields))
