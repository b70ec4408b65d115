"""Numbers as people read them; None is unknown."""

_UNKNOWN = "unknown"
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_DECIMAL_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
_TIMES = ((86_400, "days"), (3600, "hours"), (60, "minutes"))


def gib(num_bytes: float | None) -> str:
    """What PyTorch and the drivers count in, without the unit."""
    return _UNKNOWN if num_bytes is None else f"{num_bytes / 2**30:.2f}"


def disk_size(num_bytes: float) -> str:
    """What disks are sold in."""
    for size, unit in _DECIMAL_BYTES:
        if num_bytes >= size:
            return f"{_three_digits(num_bytes / size)} {unit}"
    return f"{num_bytes:,.0f} bytes"


def amount(number: float | None, unit: str) -> str:
    """Three digits and a word for the size: `14.3 million kWh`."""
    if number is None:
        return _UNKNOWN
    rounded = float(f"{number:.3g}")
    for size, word in _LARGE:
        if rounded >= size:
            return f"{_three_digits(number / size)} {word} {unit}"
    return f"{_three_digits(number)} {unit}"


def counted(number: int, noun: str) -> str:
    """`1 GPU`, `15,000 GPUs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def from_to(first: int, last: int) -> str:
    """`7`, `0-575`: numbers of ranks, nodes and other parts, as schedulers write them."""
    return str(first) if first == last else f"{first}-{last}"


def seconds(number: float, *, like: float | None = None) -> str:
    """In milliseconds where it, or the number beside which it stands, is below a tenth of a second."""
    if (number if like is None else like) < 0.1:
        return f"{1000 * number:.3f} ms"
    return f"{number:.3f} s" if number < 100 else f"{number:,.0f} s"


def is_nothing(number: float, *, like: float) -> bool:
    """Whether `seconds` would show zeros."""
    return number < (0.5e-6 if like < 0.1 else 0.5e-3)


def duration(number: float) -> str:
    """Seconds in the largest unit that is full."""
    for size, unit in _TIMES:
        if number >= size:
            return f"{_three_digits(number / size)} {unit}"
    return seconds(number)


def percent(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{100 * share:.1f}%"


def _three_digits(number: float) -> str:
    """With zeros at the end, so that numbers beside each other are equally precise."""
    if number == 0:
        return "0"
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}".rstrip(".")
