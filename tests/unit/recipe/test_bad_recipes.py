"""Bad recipes and what people are told: one table, by Python and by the command line's words."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mai.errors import ExitCode, RecipeError
from mai.recipe import Recipe, load, override


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What stands in a recipe's file, then on the command line, and every message that must come back."""

    edit: str = "base"
    overrides: str = ""
    ranks: int | None = None
    messages: tuple[str, ...]


BAD = {
    # The form of an override
    "no equals sign": Bad(
        overrides="train.steps", messages=("train.steps: write it as path=value, such as train.steps=50",)
    ),
    "no path": Bad(overrides="=3", messages=("=3: write it as path=value",)),
    "given twice": Bad(
        overrides="train.steps=5 train.steps=6", messages=("train.steps=6: given twice (also train.steps=5); keep one",)
    ),
    # Paths
    "misspelt name": Bad(
        overrides="parallel.tensr=3", messages=("parallel.tensr=3: no such field; did you mean parallel.tensor?",)
    ),
    "misspelt section": Bad(
        overrides="paralel.tensor=2", messages=("paralel.tensor=2: no such field; did you mean parallel.tensor?",)
    ),
    "no section": Bad(overrides="steps=5", messages=("steps=5: no such field; did you mean train.steps?",)),
    "no section, two candidates": Bad(
        overrides="every_steps=5",
        messages=("every_steps=5: no such field; did you mean checkpoint.every_steps or evaluate.every_steps?",),
    ),
    "below a field": Bad(
        overrides="train.steps.most=5", messages=("train.steps.most=5: no such field; did you mean train.steps?",)
    ),
    "like nothing": Bad(overrides="zzz=5", messages=("zzz=5: no such field; a path begins with name,",)),
    "a whole section": Bad(
        overrides="train=5",
        messages=("train=5: is a section; set one of its fields: train.batch_tokens, train.seed, train.steps",),
    ),
    "a section that comes in kinds": Bad(
        overrides="optimizer.schedule=cosine",
        messages=("optimizer.schedule=cosine: is a section; set one of its fields: optimizer.schedule.kind, ",),
    ),
    "a field of another kind": Bad(
        overrides="optimizer.schedule.decay_fraction=0.1",
        messages=(
            "optimizer.schedule.decay_fraction=0.1: optimizer.schedule.kind=cosine has no such field; ",
            "it belongs to optimizer.schedule.kind=warmup_stable_decay",
        ),
    ),
    # Types
    "text for a whole number": Bad(
        overrides="train.steps=many", messages=("train.steps=many: must be a whole number",)
    ),
    "fraction for a whole number": Bad(
        overrides="train.steps=1.7",
        messages=("train.steps=1.7: must be a whole number; the nearest valid value is 2",),
    ),
    "exponent for a whole number": Bad(
        overrides="train.seed=1e3",
        messages=("train.seed=1e3: must be a whole number; the nearest valid value is 1000",),
    ),
    "whole number beyond 64 bits": Bad(
        overrides=f"train.seed={10**30}", messages=("must be below 9223372036854775808",)
    ),
    "empty for a number": Bad(overrides="train.steps=", messages=("train.steps=: must be a whole number",)),
    "text for a number": Bad(
        overrides="optimizer.learning_rate=fast", messages=("optimizer.learning_rate=fast: must be a finite number",)
    ),
    "not a number": Bad(
        overrides="optimizer.epsilon=nan", messages=("optimizer.epsilon=nan: must be a finite number",)
    ),
    "infinite": Bad(
        overrides="optimizer.clip_norm=1e999", messages=("optimizer.clip_norm=1e999: must be a finite number",)
    ),
    "Python's True": Bad(
        overrides="parallel.sequence=True",
        messages=("parallel.sequence=True: must be true or false; the nearest valid value is true",),
    ),
    "yes": Bad(overrides="parallel.sequence=1", messages=("parallel.sequence=1: must be true or false",)),
    "Python's None": Bad(
        overrides="checkpoint.every_steps=None",
        messages=("checkpoint.every_steps=None: must be a whole number or none; the nearest valid value is none",),
    ),
    "none where a value must be": Bad(
        overrides="train.steps=none", messages=("train.steps=none: must be a whole number",)
    ),
    # Ranges and choices
    "below the range": Bad(
        overrides="train.steps=-1",
        messages=("train.steps=-1: must be at least 1; the nearest valid value is 1",),
    ),
    "zero": Bad(overrides="checkpoint.keep=0", messages=("checkpoint.keep=0: must be at least 1; the nearest valid",)),
    "below an optional range": Bad(
        overrides="parallel.data=0", messages=("parallel.data=0: must be at least 1; the nearest valid value is 1",)
    ),
    "sequence of one": Bad(
        overrides="data.sequence_length=1",
        messages=("data.sequence_length=1: must be at least 2; the nearest valid value is 2",),
    ),
    "at an open bound": Bad(
        overrides="data.held_out_fraction=1",
        messages=("data.held_out_fraction=1: must be above 0 and below 1; the default is 0.02",),
    ),
    "no default to name": Bad(
        overrides="optimizer.learning_rate=0", messages=("optimizer.learning_rate=0: must be above 0",)
    ),
    "above a closed bound": Bad(
        overrides="optimizer.schedule.final_fraction=2",
        messages=("optimizer.schedule.final_fraction=2: must be at least 0 and at most 1; the nearest",),
    ),
    "unknown choice": Bad(
        overrides="precision.compute=fp16",
        messages=("precision.compute=fp16: must be one of bf16, fp32; the nearest valid value is bf16",),
    ),
    "unknown kind": Bad(
        overrides="optimizer.schedule.kind=cosin",
        messages=("optimizer.schedule.kind=cosin: must be one of cosine, warmup_stable_decay",),
    ),
    "unknown item": Bad(
        overrides="observe.sinks=wandb,tensorboard",
        messages=("observe.sinks[1]=tensorboard: must be any of wandb",),
    ),
    "empty text": Bad(overrides="name=", messages=("name=: must not be empty",)),
    "empty list": Bad(overrides="data.documents=", messages=("data.documents=: must not be empty",)),
    # In Python
    "Python: out of range": Bad(
        edit="replace(base, train=TrainConfig(steps=0, batch_tokens=-3))",
        messages=(
            "train.steps=0: must be at least 1; the nearest valid value is 1",
            "train.batch_tokens=-3: must be at least 1; the nearest valid value is 1",
        ),
    ),
    "Python: True for a count": Bad(
        edit="replace(base, train=replace(base.train, steps=True))",
        messages=("train.steps=true: must be a whole number",),
    ),
    "Python: True for a number": Bad(
        edit="replace(base, optimizer=OptimizerConfig(learning_rate=True))",
        messages=("optimizer.learning_rate=true: must be a finite number",),
    ),
    "Python: 1 for a switch": Bad(
        edit="replace(base, parallel=ParallelConfig(sequence=1))",
        messages=("parallel.sequence=1: must be true or false",),
    ),
    "Python: not a number": Bad(
        edit="replace(base, model=replace(base.model, init_std=math.nan))",
        messages=("model.init_std=nan: must be",),
    ),
    "Python: infinite": Bad(
        edit="replace(base, optimizer=OptimizerConfig(learning_rate=math.inf))",
        messages=("optimizer.learning_rate=inf: must be a finite number",),
    ),
    "Python: text for a number": Bad(
        edit="replace(base, optimizer=OptimizerConfig(learning_rate='3e-4'))",
        messages=("optimizer.learning_rate=3e-4: must be a finite number",),
    ),
    "Python: misspelt field": Bad(
        edit="replace(base, parallel=ParallelConfig(tensr=2))",
        messages=("parallel.tensr=2: no such field; did you mean parallel.tensor?",),
    ),
    "Python: field left out": Bad(
        edit="replace(base, train=TrainConfig(steps=3))",
        messages=("train.batch_tokens: missing, and it has no default",),
    ),
    "Python: in a kind of section": Bad(
        edit="replace(base, optimizer=OptimizerConfig(learning_rate=1e-3, schedule=Cosine(warmup_steps=-3)))",
        messages=("optimizer.schedule.warmup_steps=-3: must be at least 0; the nearest valid value is 0",),
    ),
    "Python: a section's wrong class": Bad(
        edit="replace(base, train=base.model)", messages=("train: must be a TrainConfig, not ModelConfig",)
    ),
    "Python: a list for a tuple": Bad(
        edit="replace(base, data=replace(base.data, documents=['corpus']))",
        messages=("data.documents=corpus: must be a tuple",),
    ),
    "Python: a number among texts": Bad(
        edit="replace(base, data=replace(base.data, documents=('corpus', 3)))",
        messages=("data.documents[1]=3: must be",),
    ),
    # Rules between fields
    "heads not shared evenly": Bad(
        overrides="model.num_heads=6 model.num_kv_heads=4",
        messages=(
            "model.num_heads=6, model.num_kv_heads=4: the key-value heads must divide the heads; ",
            "use model.num_kv_heads one of 1, 2, 3, 6",
        ),
    ),
    "odd heads": Bad(overrides="model.head_size=15", messages=("model.head_size=15: must be even", "use 14 or 16")),
    "tensor ranks without a key-value head": Bad(
        overrides="parallel.tensor=4",
        messages=(
            "model.num_kv_heads=2, parallel.tensor=4: parallel.tensor must divide it; ",
            "use parallel.tensor one of 1, 2, or model.num_kv_heads=4",
        ),
    ),
    "tensor ranks divide nothing": Bad(
        overrides="parallel.tensor=3",
        messages=(
            "model.num_heads=4, parallel.tensor=3: parallel.tensor must divide it; use parallel.tensor one of 1, 2, ",
            "or model.num_heads=3 or 6",
            "model.num_kv_heads=2, parallel.tensor=3",
            "model.ffn_hidden_size=128, parallel.tensor=3",
            "model.vocab_size=512, parallel.tensor=3: ",
            "or model.vocab_size=510 or 513",
        ),
    ),
    "uneven stages": Bad(
        overrides="parallel.pipeline=3",
        messages=(
            "model.num_layers=4, parallel.pipeline=3: every stage must hold the same number of layers; ",
            "use parallel.pipeline one of 1, 2, 4, or model.num_layers=3 or 6",
        ),
    ),
    "sequence without tensor ranks": Bad(
        overrides="parallel.sequence=true",
        messages=(
            "parallel.sequence=true, parallel.tensor=1: the sequence is split over the tensor ranks; ",
            "use parallel.tensor=2 or more, or parallel.sequence=false",
        ),
    ),
    "uneven sequence": Bad(
        overrides="parallel.sequence=true parallel.tensor=2 data.sequence_length=63 train.batch_tokens=504",
        messages=("data.sequence_length=63, parallel.tensor=2, parallel.sequence=true", "use 62 or 64"),
    ),
    "part of a sequence in the batch": Bad(
        overrides="train.batch_tokens=100",
        messages=(
            "train.batch_tokens=100, data.sequence_length=64: must be a multiple of the sequence length; use 64 or 128",
        ),
    ),
    "batch smaller than a sequence": Bad(
        overrides="train.batch_tokens=63", messages=("must be a multiple of the sequence length; use 64",)
    ),
    "copies that get no equal share": Bad(
        overrides="parallel.data=3",
        messages=(
            "train.batch_tokens=512, data.sequence_length=64, parallel.micro_batch_sequences=1, parallel.data=3: ",
            "a step has 8 sequences, and all copies together take 3 at once; use train.batch_tokens=384 or 576",
            "evaluate.sequences=64, parallel.micro_batch_sequences=1, parallel.data=3: ",
            "all copies together take 3 sequences at once, and none may be left over; use 63 or 66",
        ),
    ),
    "micro-batches that do not fit": Bad(
        overrides="parallel.micro_batch_sequences=5",
        messages=(
            "a step has 8 sequences, and all copies together take 5 at once; use train.batch_tokens=320 or 640",
            "evaluate.sequences=64, parallel.micro_batch_sequences=5: all copies together take 5 sequences at once",
        ),
    ),
    "fewer micro-batches than stages": Bad(
        overrides="parallel.pipeline=4 parallel.data=4",
        messages=(
            "a step has 2 micro-batches for 4 pipeline stages, so some would always idle; ",
            "use train.batch_tokens=1024 or more, or parallel.pipeline=2 or less",
        ),
    ),
    "warm-up as long as the run": Bad(
        overrides="optimizer.schedule.warmup_steps=20",
        messages=(
            "optimizer.schedule.warmup_steps=20, train.steps=20: the warm-up must end before the run does; ",
            "use 19 or less",
        ),
    ),
    "warm-up into the decay": Bad(
        overrides="optimizer.schedule.kind=warmup_stable_decay optimizer.schedule.warmup_steps=17",
        messages=(
            "optimizer.schedule.warmup_steps=17, optimizer.schedule.decay_fraction=0.2: the decay takes the last 4 of ",
            "train.steps=20, and the warm-up must end before; use optimizer.schedule.warmup_steps=16 or less",
        ),
    ),
    "vocabulary smaller than the bytes": Bad(
        overrides="model.vocab_size=256 parallel.tensor=2",
        messages=("model.vocab_size=256, data.tokenizer=none: a byte-level tokenizer needs", "use 258 or more"),
    ),
    "empty entry": Bad(
        overrides="data.documents=a,,b", messages=("data.documents=a,,b: an entry is empty; take it out",)
    ),
    "double entry": Bad(
        overrides="data.documents=a,b,a", messages=("data.documents=a,b,a: a is there more than once; keep one",)
    ),
    # Ranks
    "ranks that make no whole copy": Bad(
        overrides="parallel.tensor=2 parallel.pipeline=2",
        ranks=6,
        messages=("6 ranks: must be a multiple of 4 (parallel.tensor=2 x parallel.pipeline=2); start 4 or 8",),
    ),
    "fewer ranks than one copy": Bad(
        overrides="parallel.tensor=2 parallel.pipeline=2",
        ranks=3,
        messages=("3 ranks: must be a multiple of 4 (parallel.tensor=2 x parallel.pipeline=2); start 4",),
    ),
    "other ranks than the recipe says": Bad(
        overrides="parallel.tensor=2 parallel.data=2",
        ranks=8,
        messages=(
            "8 ranks: parallel.tensor=2 x parallel.pipeline=1 x parallel.data=2 takes 4; start 4, ",
            "or set parallel.data=4",
        ),
    ),
    "ranks that get no equal share": Bad(
        ranks=3,
        messages=(
            "parallel.data=3: a step has 8 sequences, and all copies together take 3 at once",
            "evaluate.sequences=64, parallel.micro_batch_sequences=1, parallel.data=3: all copies together take 3",
        ),
    ),
    # All together
    "many at once": Bad(
        overrides="parallel.tensr=3 train.steps=-1 parallel.pipeline=3 model.head_size=15 precision.compute=fp8 oops",
        ranks=7,
        messages=(
            "oops: write it as path=value",
            "parallel.tensr=3: no such field; did you mean parallel.tensor?",
            "train.steps=-1: must be at least 1; the nearest valid value is 1",
            "precision.compute=fp8: must be one of bf16, fp32",
            "model.head_size=15: must be even",
            "model.num_layers=4, parallel.pipeline=3: every stage must hold the same number of layers",
        ),
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_recipe_is_told_everything_at_once(bad: Bad, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        override.apply(_recipe(bad.edit, tmp_path), bad.overrides.split(), world_size=bad.ranks)
    assert caught.value.code == ExitCode.CONFIG
    told = "\n".join(caught.value.violations)
    for message in bad.messages:
        assert message in told
    unexpected = [told for told in caught.value.violations if not any(message in told for message in bad.messages)]
    assert not unexpected


def test_the_table_has_at_least_forty_bad_recipes() -> None:
    assert len(BAD) >= 40


def _recipe(edit: str, folder: Path) -> Recipe:
    """Built by a recipe file, as a person's own would be."""
    file = folder / "mine.py"
    file.write_text(
        "import math\n"
        "from dataclasses import replace\n"
        "from mai.recipe import *\n"
        "from tests.unit.recipe.samples import small\n"
        "def mine() -> Recipe:\n"
        "    base = small()\n"
        f"    return {edit}\n"
    )
    return load.find(f"{file}:mine")()
