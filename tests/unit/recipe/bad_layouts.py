"""Layouts that do not fit the model, the batch or the ranks, and what people are told."""

from tests.unit.recipe.bad import Bad
from tests.unit.recipe.samples import experts

BAD_LAYOUTS = {
    # Stages
    "uneven stages": Bad(
        overrides="parallel.pipeline=3",
        messages=(
            "model.num_layers=4, parallel.pipeline=3, parallel.stages=even: every stage must hold the same number of ",
            "layers; use parallel.pipeline one of 1, 2, 4, or model.num_layers=3 or 6, ",
            "or parallel.stages=balanced (Et|tt|tL)",
        ),
    ),
    "thirty layers on four stages": Bad(
        overrides="model.num_layers=30 parallel.pipeline=4",
        messages=(
            "model.num_layers=30, parallel.pipeline=4, parallel.stages=even: ",
            "use parallel.pipeline one of 1, 2, 3, 5, 6, 10, or model.num_layers=28 or 32, ",
            "or parallel.stages=balanced (Et*7|t*8|t*8|t*7L)",
        ),
    ),
    "uneven virtual stages": Bad(
        overrides="model.num_layers=12 parallel.pipeline=4 parallel.virtual_stages=2",
        messages=(
            "model.num_layers=12, parallel.pipeline=4, parallel.virtual_stages=2, parallel.stages=even: every virtual ",
            "stage must hold the same number of layers; use parallel.pipeline one of 2, 3, 6, or ",
            "parallel.virtual_stages one of 1, 3, or model.num_layers=8 or 16, ",
            "or parallel.stages=balanced (E|(tt|)*6,L)",
        ),
    ),
    "virtual stages of one stage": Bad(
        overrides="parallel.virtual_stages=2",
        messages=(
            "parallel.virtual_stages=2, parallel.pipeline=1: virtual stages of several stages are interleaved, ",
            "and there is one stage; use parallel.pipeline=2 or more, or parallel.virtual_stages=1",
        ),
    ),
    "a cut of one stage": Bad(
        overrides="parallel.stages=balanced",
        messages=(
            "parallel.stages=balanced, parallel.pipeline=1: one stage holds all; ",
            "use parallel.stages=even, or parallel.pipeline=2 or more",
        ),
    ),
    "more balanced virtual stages than layers": Bad(
        overrides="parallel.stages=balanced parallel.pipeline=4 parallel.virtual_stages=2",
        messages=(
            "parallel.virtual_stages=2, parallel.stages=balanced: 4 layers, the embedding and the loss do not fill 8 ",
            "virtual stages; use model.num_layers=6 or more, or parallel.pipeline=3 or less",
        ),
    ),
    "misspelt stages": Bad(
        overrides="parallel.stages=balancd parallel.pipeline=2",
        messages=("parallel.stages=balancd: must be even, balanced, or written out; did you mean balanced?",),
    ),
    "stages of unknown letters": Bad(
        overrides="parallel.stages=Ett|ttmL parallel.pipeline=2",
        messages=("=Ett|ttmL: m is none of E, t, L and |; use parallel.stages=balanced (Ett|ttL)",),
    ),
    "written stages for other stages": Bad(
        overrides="parallel.stages=Ett|t|tL parallel.pipeline=2",
        messages=(
            "parallel.pipeline=2, parallel.stages=Ett|t|tL: has 3 virtual stages, and the layout 2; ",
            "use parallel.stages=balanced (Ett|ttL)",
        ),
    ),
    "written stages of another model": Bad(
        overrides="parallel.stages=E(t*3|)*2,L parallel.pipeline=3",
        messages=(
            "parallel.stages=E(t*3|)*2,L, model.num_layers=4: has 6 layers (t), and the model 4; ",
            "use parallel.stages=balanced (Et|tt|tL)",
        ),
    ),
    "written stages without the loss": Bad(
        overrides="parallel.stages=Ett|tt parallel.pipeline=2",
        messages=("parallel.stages=Ett|tt: E must come once, first of all, and L once, last of all; use ",),
    ),
    "written stages that begin with a layer": Bad(
        overrides="parallel.stages=tE|tttL parallel.pipeline=2",
        messages=("parallel.stages=tE|tttL: E must come once, first of all, and L once, last of all; use ",),
    ),
    "written stage of nothing": Bad(
        overrides="parallel.stages=Ett||ttL parallel.pipeline=3",
        messages=("parallel.stages=Ett||ttL: virtual stage 2 of 3 is empty; use parallel.stages=balanced (Et|tt|tL)",),
    ),
    # Micro-batches
    "fewer micro-batches than stages": Bad(
        overrides="parallel.pipeline=4 parallel.data=4",
        messages=(
            "a step has 2 micro-batches for 4 pipeline stages, so some would always idle; ",
            "use train.batch_tokens=1024 or more, or parallel.pipeline=2 or less",
        ),
    ),
    "fewer micro-batches than interleaved stages": Bad(
        overrides="parallel.pipeline=2 parallel.virtual_stages=2 train.batch_tokens=64",
        messages=(
            "a step has 1 micro-batch for 2 pipeline stages, so some would always idle; use train.batch_tokens=128",
        ),
    ),
    "micro-batches that fill no interleaved group": Bad(
        overrides="parallel.pipeline=2 parallel.virtual_stages=2 train.batch_tokens=192 evaluate.sequences=63",
        messages=(
            "parallel.micro_batch_sequences=1, parallel.pipeline=2, parallel.virtual_stages=2: a step has 3 ",
            "micro-batches, and interleaved stages take 2 at a time; use train.batch_tokens=128 or 256, ",
            "or parallel.virtual_stages=1",
            "evaluate.sequences=63, parallel.micro_batch_sequences=1, parallel.pipeline=2, parallel.virtual_stages=2: ",
            "all copies together take 2 sequences at once (interleaved stages take 2 micro-batches at a time), ",
            "and none may be left over; use 62 or 64",
        ),
    ),
    # Sequences
    "sequence without early and late parts": Bad(
        overrides="parallel.context=4 data.sequence_length=60 train.batch_tokens=480",
        messages=(
            "data.sequence_length=60, parallel.context=4: every context rank takes an early and a late part, ",
            "so 8 must divide it; use 56 or 64",
        ),
    ),
    "parts of a sequence that tensor ranks do not cut": Bad(
        overrides="parallel.context=2 parallel.tensor=2 parallel.sequence=true data.sequence_length=60 "
        "train.batch_tokens=480",
        messages=(
            "data.sequence_length=60, parallel.context=2, parallel.tensor=2, parallel.sequence=true: every context ",
            "rank takes an early and a late part, and the 2 tensor ranks split each, so 8 must divide it; use 56 or 64",
        ),
    ),
    # Recomputation
    "recompute layers and more": Bad(
        overrides="parallel.recompute=layer,norms",
        messages=(
            "parallel.recompute=layer,norms: a layer includes the others; ",
            "use parallel.recompute=layer, or leave layer out",
        ),
    ),
    "recompute experts of a dense model": Bad(
        overrides="parallel.recompute=experts",
        messages=("parallel.recompute=experts, model.feed_forward.kind=dense: the model has no experts; ",),
    ),
    "recompute what is not there": Bad(
        overrides=experts() + " parallel.recompute=shared_experts,feed_forward",
        messages=(
            "model.feed_forward.shared_ffn_hidden_size=0: the model has no shared expert; leave shared_experts out",
            "model.feed_forward.num_dense_layers=0: every layer has experts instead; use experts, or leave feed_",
        ),
    ),
    "recompute the shared expert twice": Bad(
        overrides=experts(shared_ffn_hidden_size=32) + " parallel.recompute=experts,shared_experts",
        messages=("=experts,shared_experts: experts include the shared one; leave shared_experts out",),
    ),
    "recompute twice": Bad(
        overrides="parallel.recompute=norms,norms",
        messages=("parallel.recompute=norms,norms: norms is there more than once; keep one",),
    ),
    "recompute an unknown module": Bad(
        overrides="parallel.recompute=norms,attention",
        messages=("parallel.recompute[1]=attention: must be any of layer, attention_core, norms, feed_forward, ",),
    ),
    # Ranks
    "ranks that make no whole copy": Bad(
        overrides="parallel.tensor=2 parallel.pipeline=2",
        ranks=6,
        messages=("6 ranks: must be a multiple of 4 (parallel.tensor=2 x parallel.pipeline=2); start 4 or 8",),
    ),
    "fewer ranks than a copy": Bad(
        overrides="parallel.tensor=2 parallel.pipeline=2",
        ranks=3,
        messages=("3 ranks: must be a multiple of 4 (parallel.tensor=2 x parallel.pipeline=2); start 4",),
    ),
    "ranks that share no sequence": Bad(
        overrides="parallel.tensor=2 parallel.context=2",
        ranks=6,
        messages=(
            "must be a multiple of 4 (parallel.tensor=2 x parallel.context=2 x parallel.pipeline=1); start 4 or 8",
        ),
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
    "ranks that do not hold all experts": Bad(
        overrides=experts() + " parallel.expert=4 parallel.tensor=2 parallel.sequence=true",
        ranks=6,
        messages=(
            "6 ranks: must be a multiple of 4 (parallel.tensor=2 x parallel.pipeline=1, with a stage's ranks a ",
            "multiple of parallel.expert=4 x parallel.expert_tensor=1); start 4 or 8",
        ),
    ),
    "copies that do not hold all experts": Bad(
        overrides=experts() + " parallel.expert=4 parallel.data=6 train.batch_tokens=384 evaluate.sequences=60",
        messages=(
            "parallel.expert=4, parallel.expert_tensor=1, parallel.tensor=1, parallel.context=1, parallel.data=6: ",
            "the expert ranks are taken from the 6 tensor x context x data ranks of a stage, so ",
            "parallel.expert x parallel.expert_tensor must divide 6; use parallel.expert one of 1, 2, ",
            "or parallel.data=4 or 8",
        ),
    ),
    "sharding over a part of the copies": Bad(
        overrides="parallel.data=4 parallel.context=2 parallel.sharding_ranks=3",
        messages=(
            "parallel.sharding_ranks=3, parallel.context=2, parallel.data=4: must divide the 8 context x data ranks; ",
            "use parallel.sharding_ranks one of 1, 2, 4, 8, or none for all of them",
        ),
    ),
    "sharding of more copies than there are of an expert": Bad(
        overrides=experts() + " parallel.expert=4 parallel.data=8 parallel.sharding_ranks=2",
        messages=(
            "must divide the 8 context x data ranks, with as many copies of every expert; ",
            "use parallel.sharding_ranks one of 4, 8, or none for all of them",
        ),
    ),
}
