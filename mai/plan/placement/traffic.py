"""Which bytes of a step leave a GPU, a node, a leaf, a pod: those of every rank, as its program sends them.

Of its input, with n ranks in the group, a rank sends (NVIDIA/nccl-tests at 03a204a, doc/PERFORMANCE.md):

    all-reduce       2 (n - 1) / n    to the next rank around a ring
    reduce-scatter     (n - 1) / n    to the next
    all-gather          n - 1         to the next: the input is one n-th of what is gathered
    broadcast           1             to the next; the rank before the root, where the chain ends, sends nothing
    all-to-all          1 / n         to each other one
    send                1             to its peer

A ring goes through a group in the order of its ranks. So it leaves every node of theirs once, as NCCL's rings do
(NVIDIA/nccl at 0f900e1, src/graph/connect.cc, connectRings); that NCCL cuts a message over several rings, each with a
way of its own inside the node, moves no byte more over the border. A tree sends as much in all, but elsewhere. Nor is
the fabric seen to sum anything itself (SHARP).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Operation, Program, operations
from mai.plan.communication.rank_families import families
from mai.plan.placement.topology import Level

Leaving = Mapping[str, Sequence[float]]
"""Bytes of a step that leave each part of a level, by the family of the groups that send them."""


def leaving(programs: Sequence[Program], layout: Layout, levels: Sequence[Level]) -> Sequence[Leaving]:
    """For each level, where rank r lies in its part r // gpus. `programs` has one for each pipeline stage."""
    groups_of = families(layout)
    sizes = {name: len(family.groups[0]) for name, family in groups_of.items()}
    sent = [_sent(program, sizes) for program in programs]
    used = sorted({name for of_stage in sent for name in of_stage})
    found = []
    for level in levels:
        out = {name: [0.0] * -(-layout.world_size // level.gpus) for name in used}
        for name in used:
            for group in groups_of[name].groups:
                calls = [sent[rank // layout.stage_ranks].get(name, _NOTHING) for rank in group]
                parts = [rank // level.gpus for rank in group]
                for part, num_bytes in zip(parts, _leaving(calls, parts), strict=True):
                    out[name][part] += num_bytes
        found.append(out)
    return found


@dataclass(slots=True)
class _Sent:
    """By a rank to others of its group, in a step."""

    to_next: float = 0.0
    to_each: float = 0.0
    broadcast: Counter[int] = field(default_factory=Counter)
    """By the root's place."""
    to: Counter[int] = field(default_factory=Counter)
    """By the peer's place."""

    def add(self, operation: Operation, ranks: int) -> None:
        num_bytes, peer = operation.num_bytes, operation.peer
        match operation.kind:
            case "all_reduce":
                self.to_next += num_bytes * 2 * (ranks - 1) / ranks
            case "reduce_scatter":
                self.to_next += num_bytes * (ranks - 1) / ranks
            case "all_gather":
                self.to_next += num_bytes * (ranks - 1)
            case "all_to_all":
                self.to_each += num_bytes / ranks
            case "broadcast":
                assert peer is not None
                self.broadcast[peer] += num_bytes
            case "send":
                assert peer is not None
                self.to[peer] += num_bytes


_NOTHING = _Sent()


def _sent(program: Program, sizes: Mapping[str, int]) -> Mapping[str, _Sent]:
    """By family, whose groups have so many ranks."""
    found: defaultdict[str, _Sent] = defaultdict(_Sent)
    for operation in operations(program):
        found[operation.group].add(operation, sizes[operation.group])
    return found


def _leaving(calls: Sequence[_Sent], parts: Sequence[int]) -> Iterator[float]:
    """What leaves its own part, of each rank of a group."""
    ranks, together = len(parts), Counter(parts)
    for place, (sent, own) in enumerate(zip(calls, parts, strict=True)):
        following = (place + 1) % ranks
        num_bytes = sent.to_each * (ranks - together[own])
        if parts[following] != own:
            num_bytes += sent.to_next + sum(sent.broadcast.values()) - sent.broadcast[following]
        yield num_bytes + sum(to for peer, to in sent.to.items() if parts[peer] != own)
