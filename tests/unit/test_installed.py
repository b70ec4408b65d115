"""`import mai` finds the package beside a clone that is named mai."""

import subprocess
import sys
from pathlib import Path

from tests.house.sources import ROOT


def test_mai_is_the_package_also_where_python_starts_beside_a_clone_of_that_name(tmp_path: Path) -> None:
    """The clone has no __init__.py of its own, so Python takes it for an empty namespace where nothing better comes:
    an editable install must be a path, and not a finder, which is asked last."""
    (tmp_path / "mai").symlink_to(ROOT)
    told = subprocess.run(
        [sys.executable, "-c", "import mai; print(mai.open_run.__module__)"],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("mai.")
