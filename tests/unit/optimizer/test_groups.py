from mai.model.shapes import parameters
from mai.optimizer.groups import decays
from recipes.debug.tiny import tiny


def test_matrices_decay_and_norms_do_not() -> None:
    kept = {parameter.name for parameter in parameters(tiny().model) if not decays(parameter.shape)}
    assert kept == {"decoder.final_layernorm.weight"} | {
        f"decoder.layers.{layer}.{norm}_layernorm.weight" for layer in range(4) for norm in ("input", "pre_mlp")
    }


def test_a_vector_does_not_decay_and_a_matrix_of_one_row_does() -> None:
    assert not decays((8,))
    assert decays((1, 8))
