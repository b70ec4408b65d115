"""Numbers, times and events as people read them."""

from typing import Any

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# Control characters, halves of surrogate pairs (they do not encode), and what turns the direction of writing.
_UNPRINTABLE = (*range(32), *range(127, 160), *range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REPLACEMENTS = dict.fromkeys(_UNPRINTABLE, "\N{REPLACEMENT CHARACTER}")


def quantity(value: float, symbol: str) -> str:
    """Three significant digits and a prefix: quantity(41.2e9, "FLOP/s") is "41.2 GFLOP/s"."""
    number, prefix = _scaled(value)
    return f"{number} {prefix}{symbol}"


def count(value: float, things: str) -> str:
    """The same for things with a name: count(12_345, "tokens") is "12.3 k tokens"."""
    number, prefix = _scaled(value)
    return f"{number} {prefix} {things}" if prefix else f"{number} {things}"


def memory(num_bytes: float) -> str:
    """quantity in powers of 1024: memory(3 * 2**20) is "3.00 MiB"."""
    for power, name in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if num_bytes >= 0.9995 * 2**power:
            return f"{_three_digits(num_bytes / 2**power)} {name}"
    return f"{num_bytes / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """The two units that matter: 42 s, 3 min 20 s, 5 h 12 min, 9 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def printable(text: object) -> str:
    """Other people's text on one line, with nothing in it that moves a cursor or changes a colour."""
    return str(text).translate(_REPLACEMENTS)


def event_text(kind: str, fields: dict[str, Any]) -> str:
    """One line: event_text("save", {"step": 10}) is "save step=10"."""
    return printable(" ".join([kind.replace("_", " "), *(f"{name}={value}" for name, value in fields.items())]))


def _scaled(value: float) -> tuple[str, str]:
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:
            return _three_digits(value / size), prefix
    return (f"{value:.0f}" if value == int(value) else _three_digits(value)), ""


def _three_digits(value: float) -> str:
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
