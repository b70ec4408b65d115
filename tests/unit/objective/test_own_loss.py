"""A loss of the user's own is held to what the engine needs of it, before a model is built."""

from pathlib import Path

import pytest

from mai.errors import RecipeError

pytestmark = pytest.mark.usefixtures("cpu_engine")

WRONG = {
    "detached": ("losses.detach().sum()", "does not hang on the token losses"),
    "made new": ("torch.tensor(3.0, requires_grad=True)", "does not hang on the token losses"),
    "times nothing": ("(0 * losses).sum()", "does not hang on the token losses"),
    "a number": ("losses.sum().item()", "returned float"),
    "not summed": ("losses", "returned Tensor of shape (2, 6)"),
    "raises": ("losses.summ()", "mine.py:4: AttributeError"),
}


def named(body: str, folder: Path) -> str:
    file = folder / "mine.py"
    file.write_text(f"import torch\n\ndef loss(losses, batch):\n    return {body}\n")
    return f"{file}:loss"


@pytest.mark.parametrize(("body", "said"), WRONG.values(), ids=WRONG)
def test_a_loss_that_would_train_nothing_is_refused_before_the_first_step(body: str, said: str, tmp_path: Path) -> None:
    from mai.objective.own_loss import own_loss

    text = named(body, tmp_path)
    with pytest.raises(RecipeError) as caught:
        own_loss(text)
    assert str(caught.value).startswith(f"objective.loss={text}: ")
    assert said in str(caught.value)


def test_a_loss_that_detaches_itself_later_is_refused_then(tmp_path: Path) -> None:
    import torch

    from mai.batch import Batch
    from mai.objective.own_loss import own_loss

    loss = own_loss(named("losses.sum() if losses.shape == (2, 6) else losses.detach().sum()", tmp_path))
    tokens_BS = torch.zeros(1, 3, dtype=torch.long)
    batch = Batch(tokens_BS=tokens_BS, targets_BS=tokens_BS)
    assert loss(torch.ones(1, 3), batch) == 3, "an evaluation has no gradient to ask for"
    with pytest.raises(RecipeError, match="does not hang on the token losses"):
        loss(torch.ones(1, 3, requires_grad=True), batch)


def test_a_right_loss_is_called_as_it_is(tmp_path: Path) -> None:
    import torch

    from mai.batch import Batch
    from mai.objective.own_loss import own_loss

    tokens_BS = torch.zeros(1, 3, dtype=torch.long)
    loss = own_loss(named("2 * losses.sum()", tmp_path))
    assert loss(torch.ones(1, 3), Batch(tokens_BS=tokens_BS, targets_BS=tokens_BS)) == 6
