from pathlib import Path

import pytest
import tomllib

import mai.plan
from mai.errors import PlanError
from mai.plan.software import load_software, software_names

FOLDER = Path(mai.plan.__file__).parent / "software"


def test_there_is_mai_and_what_was_measured() -> None:
    assert {"mai", "megatron_2022", "megatron_2024", "bridge_2026", "nanotron"} <= set(software_names())


@pytest.mark.parametrize("name", software_names())
def test_every_number_of_its_pace_says_where_it_is_from(name: str) -> None:
    software = load_software(name)
    tables = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    bare = [key for table in ("pace", "hides") for key, value in tables[table].items() if not isinstance(value, dict)]
    assert bare in ([], ["sends_once_a_node"])
    assert software.describes


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(PlanError, match="megatron_2034: no such software; did you mean megatron_2024"):
        load_software("megatron_2034")
