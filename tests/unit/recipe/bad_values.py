"""Bad words, paths, types and ranges, and what people are told."""

from tests.unit.recipe.bad import Bad

BAD_VALUES = {
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
    "a thousandth for a whole number": Bad(
        overrides="train.steps=1.5k train.seed=1e-3",
        messages=("train.seed=1e-3: must be a whole number",),
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
    "Python's None for a file": Bad(
        overrides="data.tokenizer=None",
        messages=("data.tokenizer=None: must be text or none; the nearest valid value is none",),
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
}
