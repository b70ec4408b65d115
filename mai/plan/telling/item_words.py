"""The items of a step and of a rank's memory, as people read them."""

WORDS = {
    "products": "matrix products",
    "attention": "attention",
    "memory": "between products",
    "tensor": "tensor ranks",
    "context": "context ranks",
    "expert": "tokens to experts",
    "shards": "shards of weights",
    "host": "waiting for the host",
    "recompute": "computed again",
    "pipeline": "between stages",
    "bubble": "bubble",
    "gradients": "sum of gradients",
    "parameters": "new weights",
    "optimizer": "optimizer",
    "step": "once a step",
}
"""The items of a step for people; of transfers, what nothing hides."""

MEMORY_ITEMS = (
    "weights",
    "gathered weights",
    "gradients",
    "optimizer",
    "buffers",
    "activations",
    "sent gradient",
    "embedding's gradient",
    "a layer's backward pass",
    "experts' rows",
    "loss",
    "outside the allocator",
)
"""The items of a rank's memory; each has the colour of its place here (plan_page.html), whatever else a page shows."""
