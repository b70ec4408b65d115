"""Rules between the fields of one model and its run, broken, and what people are told."""

from tests.house.sources import ROOT
from tests.unit.recipe.bad import Bad

BAD_RULES = {
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
    "seven heads on two tensor ranks": Bad(
        overrides="model.num_heads=7 model.num_kv_heads=7 parallel.tensor=2",
        messages=(
            "model.num_heads=7, parallel.tensor=2: parallel.tensor must divide it; use parallel.tensor 1, ",
            "or model.num_heads=6 or 8",
            "model.num_kv_heads=7, parallel.tensor=2",
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
    "function that says no function": Bad(
        overrides="model.layer=layer", messages=("model.layer=layer: write path/to/file.py:function",)
    ),
    "function in no file": Bad(
        overrides="model.attention_core=nowhere.py:core",
        messages=(
            "model.attention_core=nowhere.py:core: nowhere.py: No such file or directory; write path/to/file.py",
        ),
    ),
    "function that its file lacks": Bad(
        overrides=f"objective.loss={ROOT}/recipes/debug/tiny.py:tinny",
        messages=("/recipes/debug/tiny.py: has no tinny; it has tiny",),
    ),
}
