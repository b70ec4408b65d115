from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mai.errors import PlanError
from mai.hardware.toml_file import MAY_BE_ZERO, Findings, build, read_table


@dataclass(frozen=True, kw_only=True)
class Door:
    width_cm: float
    wood: str | None = None
    coats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shed:
    windows: int = field(default=0, metadata=MAY_BE_ZERO)
    height_cm: float | None = None
    door: Door | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shed.toml"


def built(file: Path, text: str) -> tuple[Shed | None, Findings]:
    file.write_text(text)
    findings = Findings()
    return build(Shed, read_table(file), findings), findings


def test_values_with_and_without_a_source(file: Path) -> None:
    text = 'windows = 2\n[door]\nwidth_cm = { value = 90, source = "ruler" }\nwood = "oak"\ncoats = ["red"]'
    shed, findings = built(file, text)
    assert shed == Shed(windows=2, door=Door(width_cm=90.0, wood="oak", coats=("red",)))
    assert findings == Findings(sources={"door.width_cm": "ruler"})


def test_what_is_not_there_keeps_its_default(file: Path) -> None:
    assert built(file, "windows = 0") == (Shed(windows=0, height_cm=None, door=None), Findings())


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("window = 1", "window: no such key; did you mean windows?"),
        ("roof = 1", "roof: no such key; there are windows, height_cm, door"),
        ('"a\\u0000" = 1', '"a\\u0000": no such key; there are windows, height_cm, door'),
        ("windows = true", "windows=true: must be a whole number"),
        ("windows = 2.0", "windows=2.0: must be a whole number"),
        ("windows = -1", "windows=-1: must be 0 or above"),
        ("height_cm = 0", "height_cm=0: must be above 0"),
        ('height_cm = "tall"', "height_cm=tall: must be a number"),
        ("height_cm = 1979-05-27", "height_cm=1979-05-27: must be a number"),
        ("height_cm = nan", f"height_cm=nan: must be finite and below {2**63}"),
        ("height_cm = inf", f"height_cm=inf: must be finite and below {2**63}"),
        (f"windows = {2**63}", f"windows={2**63}: must be finite and below {2**63}"),
        ("height_cm = { source = 'ruler' }", "height_cm.value: missing"),
        ("height_cm = { value = 1, source = ' ' }", "height_cm.source= : must be text"),
        ("height_cm = { value = 1, sauce = 'x' }", "height_cm.sauce: no such key; did you mean source?"),
        ("door = 90", "door=90: must be a table, [door]"),
        ("[door]", "door.width_cm: missing"),
        ("[door]\nwidth_cm = 90\nwood = 7", "door.wood=7: must be text"),
        ("[door]\nwidth_cm = 90\ncoats = 'red'", "door.coats=red: must be a list of texts"),
        ("[door]\nwidth_cm = 90\ncoats = ['red', 7]", "door.coats=['red', 7]: must be a list of texts"),
    ],
)
def test_a_mistake_is_named_with_its_key(file: Path, text: str, violation: str) -> None:
    assert built(file, text)[1].violations == [violation]


def test_what_cannot_be_built_is_none(file: Path) -> None:
    file.write_text("[door]\nwood = 'oak'")
    findings = Findings()
    assert build(Door, read_table(file)["door"], findings) is None
    assert findings.violations == ["width_cm: missing"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"windows = 1\nheight_cm 200\n",
            "not TOML: Expected '=' after a key in a key/value pair (at line 2",
        ),
        (b"windows = 1\nwindows = 2\n", "not TOML: Cannot overwrite a value (at line 2, column 12)"),
        (b"\xff\xfe", "not TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"[" * 10_000, "not TOML: "),
        (b"a = " + b"9" * 10_000, "not TOML: "),
    ],
    ids=["no equals sign", "twice", "not text", "too deep", "too long"],
)
def test_a_file_that_is_no_toml(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        read_table(file)
    assert str(caught.value).startswith(f"{file}: {reason}")
