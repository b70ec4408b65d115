"""The words of `parallel.stages`: how many layers each virtual stage holds, as text and as numbers.

The notation is Megatron-Core's pipeline_model_parallel_layout (megatron/core/transformer/
pipeline_parallel_layer_layout.py, parse_str_to_list): E is the embedding, t a layer, L the loss, | stands between
virtual stages, *n repeats one letter or a group in parentheses, a comma is only there for the eye:
`Et*3|(tt|)*29,tL` has 31 of them. What Megatron-Core reads in an odd way (a repeat of a repeat, parentheses within
parentheses) is refused here.

E comes first and L last, so the layers of each say all.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from mai.recipe.breach import shown

EVEN, BALANCED = "even", "balanced"

LONGEST = 100_000
"""Letters of a text with its repeats written out: more than any model has layers and virtual stages."""

_SINGLE = re.compile(r"([EtL|])(?:\*([0-9]+))?")
_GROUP = re.compile(r"\(([^()]+)\)\*([0-9]+)")


def layers_of_virtual_stages(stages: str, *, num_layers: int, num_virtual_stages: int) -> list[int]:
    """How many layers each holds, in the order of the forward pass; for a recipe that passed the rules."""
    if stages == EVEN:
        assert num_layers % num_virtual_stages == 0
        return [num_layers // num_virtual_stages] * num_virtual_stages
    if stages == BALANCED:
        return _balanced(num_layers, num_virtual_stages)
    return [each.count("t") for each in written_out(stages).split("|")]


def _balanced(num_layers: int, num_virtual_stages: int) -> list[int]:
    """Embedding and loss count as a layer each; where it does not divide, those in the middle hold one more.

    Those are neighbours, which are on different stages, so whole stages differ by one as well."""
    assert num_layers + 2 >= num_virtual_stages
    each, num_larger = divmod(num_layers + 2, num_virtual_stages)
    first_larger = (num_virtual_stages - num_larger) // 2
    sizes = [
        each + (first_larger <= virtual_stage < first_larger + num_larger)
        for virtual_stage in range(num_virtual_stages)
    ]
    sizes[0] -= 1
    sizes[-1] -= 1
    return sizes


def texts_of_virtual_stages(stages: str, *, num_layers: int, num_virtual_stages: int) -> list[str]:
    """One text each, without repeats; for a recipe that passed the rules."""
    texts = [
        "t" * layers
        for layers in layers_of_virtual_stages(stages, num_layers=num_layers, num_virtual_stages=num_virtual_stages)
    ]
    texts[0] = f"E{texts[0]}"
    texts[-1] = f"{texts[-1]}L"
    return texts


def as_text(layers: Sequence[int]) -> str:
    """The shortest way to write virtual stages with so many layers: `Ett|(t*4|)*2,ttL`."""
    if len(layers) == 1:
        return f"E{_letters(layers[0])}L"
    middle = "".join(_run(num_layers, times=len(list(run))) for num_layers, run in groupby(layers[1:-1]))
    return f"E{_letters(layers[0])}|{middle}{_letters(layers[-1])}L"


def _run(num_layers: int, *, times: int) -> str:
    text = f"{_letters(num_layers)}|"
    return min(text * times, f"({text})*{times},", key=len)


def _letters(num_layers: int) -> str:
    return "t" * num_layers if num_layers < 4 else f"t*{num_layers}"


def written_out(stages: str) -> str:
    """A text without commas, parentheses and repeats; ValueError says what hinders it."""
    text, out, place = stages.replace(",", ""), "", 0
    while place < len(text):
        group = _GROUP.match(text, place)
        item = group or _SINGLE.match(text, place)
        if item is None:
            raise ValueError(_what_is_wrong(text[place:]))
        letters = written_out(item[1]) if group else item[1]
        # A float, because int() refuses thousands of digits; judged before the text is made, which might fill memory.
        times = float(item[2] or 1)
        if times == 0:
            raise ValueError(f"{item[0]} stands for nothing; repeat at least once")
        if len(out) + len(letters) * times > LONGEST:
            raise ValueError(f"stands for more than {LONGEST} letters; no model has that many layers")
        out += letters * int(times)
        place = item.end()
    return out


def _what_is_wrong(rest: str) -> str:
    """Why no letter and no group of letters begins here."""
    if rest[0] == ")":
        return "a ) closes nothing"
    if rest[0] == "(":
        inside, closing, _ = rest[1:].partition(")")
        if not closing:
            return "a ( is never closed"
        if "(" in inside:
            return "parentheses stand within parentheses"
        return f"({inside}) needs a *n behind it" if inside else "there is nothing between ( and )"
    if rest[0] == "*":
        return "a * must stand between a letter, or a ), and a number"
    if rest[0] in "0123456789":
        return f"a number must follow a *, and {rest[0]} does not"
    return f"{shown(rest[0])} is none of E, t, L and |"
