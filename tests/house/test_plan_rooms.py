"""Everything points downward inside the planner too: what computes below, what tells of it on top."""

from pathlib import Path

from tests.house.sources import ROOT, imports, name, python_files

PLAN = ROOT / "mai" / "plan"
# room of mai/plan, a folder or a file: rooms of it that it may import, each of them above this one
MAY_IMPORT = {
    # ground
    "published": "",
    "quantities": "",
    "software": "",
    "model": "",
    "cost": "",
    # one step of one setting
    "setting": "model software",
    "time": "model published setting software",
    "memory": "model setting time",
    # every rank's calls
    "communication": "",
    "proof": "communication published",
    "placement": "communication published setting time",
    # a run, and a choice
    "goodput": "published quantities",
    "scheduler": "cost goodput memory placement published setting time",
    "search": "memory model setting time",
    # the answer
    "report": "cost goodput memory model placement proof published scheduler search setting software time",
    "telling": "goodput memory placement proof quantities report scheduler search time",
}

FILES = [path for path in python_files("mai/plan") if path != PLAN / "__init__.py"]


def test_every_room_of_the_planner_has_a_row_and_every_row_a_room() -> None:
    rooms = {_room(path) for path in FILES}
    assert rooms == MAY_IMPORT.keys()


def test_a_room_of_the_planner_imports_only_what_its_row_allows() -> None:
    wrong = [(name(path), full) for path in FILES for full in imports(path) if not _points_down(_room(path), full)]
    assert not wrong, "\n".join(f"{file}: {full} is in a room that is not below this one" for file, full in wrong)


def test_rooms_of_the_planner_stand_on_rooms_above_them_in_the_table() -> None:
    """So the table has no circle."""
    order = list(MAY_IMPORT)
    rows = [(room, below) for room, row in MAY_IMPORT.items() for below in row.split()]
    assert not [(room, below) for room, below in rows if below not in order[: order.index(room)]]


def _room(path: Path) -> str:
    """`time` for mai/plan/time/rates.py, `cost` for mai/plan/cost.py."""
    return path.relative_to(PLAN).parts[0].removesuffix(".py")


def _imported_room(full: str) -> str:
    """Empty where it is no part of the planner."""
    return full.removeprefix("mai.plan.").partition(".")[0] if full.startswith("mai.plan.") else ""


def _points_down(room: str, full: str) -> bool:
    return _imported_room(full) in {"", room, *MAY_IMPORT.get(room, "").split()}
