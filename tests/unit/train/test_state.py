from mai.train.state import TrainState
from recipes.debug.tiny import tiny


def test_a_step_consumes_one_batch() -> None:
    recipe = tiny()
    state = TrainState().advanced(recipe)
    assert state == TrainState(step=1, position=recipe.batch_sequences, tokens=recipe.train.batch_tokens)
    assert state.advanced(recipe).position == 2 * recipe.batch_sequences
