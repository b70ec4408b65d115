"""A core of attention of the user's own is held to what a core must do, before a model is built on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from mai.errors import RecipeError
from mai.recipe import ModelConfig
from recipes.debug.every_axis import latent_every_axis
from recipes.debug.tiny import tiny

pytestmark = pytest.mark.usefixtures("cpu_engine")

MODELS = {"grouped queries": tiny().model, "latent": latent_every_axis().model}
RIGHT = "attention.reference(query, key, value)"
WRONG = {
    "[1, B, H, D]": (f"{RIGHT}[:1]", "for queries (8, 2, "),
    "no tensor": ("None", "gives NoneType"),
    "sees all": ("attention.reference(query, key.flip(0), value.flip(0))", "sees what comes later"),
    "of the mean of all values": (
        f"{RIGHT} + value.mean(0, keepdim=True).repeat_interleave(query.size(2) // value.size(2), 2)",
        "sees what comes later",
    ),
    "queries are the first": (
        "attention.reference(query.repeat(len(key) // len(query) + 1, 1, 1, 1)[: len(key)], key, value)[: len(query)]",
        "takes its queries for the first of the positions",
    ),
    "detached": (f"{RIGHT}.detach()", "does not depend on its queries, or gives them no gradient"),
    "keys without a gradient": ("attention.reference(query, key.detach(), value)", "does not depend on its keys"),
    "values without a gradient": ("attention.reference(query, key, value.detach())", "does not depend on its values"),
}


def check(model: ModelConfig, body: str, folder: Path, *, dtype: str = "float32", device: str = "cpu") -> None:
    import torch

    from mai.engine.own_core import check_own_core

    file = folder / "core.py"
    file.write_text(
        f"import torch\nfrom mai.kernels import attention\n\ndef core(query, key, value):\n    return {body}\n"
    )
    own = replace(model, attention_core=f"{file}:core")
    check_own_core(own, dtype=getattr(torch, dtype), device=torch.device(device))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_right_core_passes(model: ModelConfig, dtype: str, tmp_path: Path) -> None:
    check(model, RIGHT, tmp_path, dtype=dtype)


@pytest.mark.parametrize(("body", "said"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_wrong_core_is_refused_with_the_reason(model: ModelConfig, body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check(model, body, tmp_path)
    assert str(caught.value).startswith(f"model.attention_core={tmp_path}/core.py:core: ")
    assert said in str(caught.value)


def test_what_a_core_raises_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"core\.py:5: ZeroDivisionError"):
        check(tiny().model, "1 / 0", tmp_path)


def test_a_model_without_memory_asks_nothing_of_a_core(tmp_path: Path) -> None:
    check(tiny().model, "None", tmp_path, device="meta")
