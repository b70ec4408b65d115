"""Which files a room has, and which tests are to notice when one of them is broken: the nearest and fastest first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]

LEFT_OUT = ("mai/kernels/gpu", "mai/kernels/cuda", "mai/kernels/apex.py", "mai/__main__.py", "mai/__init__.py")
"""What no test on a CPU can reach, and two doors of a line."""


@dataclass(frozen=True, slots=True)
class Room:
    tests: tuple[str, ...]
    """Paths for pytest, one process each."""
    paths: tuple[str, ...] = ()
    """Files and folders; none for the folder of mai with the room's name."""
    of_parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tests that reach one folder of the room alone, by that folder; after the others."""


ROOMS = {
    "recipe": Room(
        ("tests/unit/recipe", "tests/unit/optimizer", "tests/unit/test_cli_check.py", "tests/house/test_recipes.py")
    ),
    "parallel": Room(("tests/unit/parallel", "tests/unit/check", "tests/parity/test_layouts.py")),
    "model": Room(
        ("tests/unit/model", "tests/unit/check", "tests/parity/test_shapes.py", "tests/parity/test_families.py")
    ),
    "optimizer": Room(("tests/unit/optimizer", "tests/parity/test_layouts.py")),
    "resilience": Room(
        ("tests/unit/resilience", "tests/fault/test_local_launch.py", "tests/fault/test_train_signals.py")
    ),
    "observe": Room(("tests/unit/observe", "tests/parity/test_speed.py")),
    "run_folder": Room(
        ("tests/unit/test_run_folder.py", "tests/fault/test_local_launch.py", "tests/fault/test_train_checkpoints.py")
    ),
    "data": Room(("tests/unit/data", "tests/fault/test_train_data.py")),
    "hardware": Room(("tests/unit/hardware", "tests/unit/plan", "tests/parity/test_speed.py")),
    "plan": Room(
        (
            "tests/unit/plan",
            "tests/unit/test_cli_plan.py",
            "tests/house/test_docs.py",
        ),
        of_parts={"mai/plan/communication": ("tests/parity/test_programs_equal_engine.py",)},
    ),
    "kernels": Room(("tests/unit/kernels", "tests/unit/engine/test_self_test.py", "tests/parity/test_layouts.py")),
    "engine": Room(
        (
            "tests/unit/engine",
            "tests/parity/test_layouts.py",
            "tests/parity/test_generate.py",
            "tests/parity/test_experts.py",
            "tests/parity/test_latent_attention.py",
            "tests/parity/test_multi_token.py",
            "tests/parity/test_full_sharding.py",
            "tests/parity/test_reshard.py",
        )
    ),
    "checkpoint": Room(
        (
            "tests/unit/checkpoint",
            "tests/fault/test_durable_save.py",
            "tests/fault/test_train_checkpoints.py",
            "tests/parity/test_reshard.py",
            "tests/parity/test_start_from.py",
        )
    ),
    "objective": Room(("tests/parity/test_layouts.py", "tests/parity/test_called_modules.py")),
    "evaluate": Room(("tests/unit/evaluate", "tests/parity/test_layouts.py", "tests/parity/test_smollm2.py")),
    "train": Room(
        (
            "tests/unit/train",
            "tests/fault/test_train_signals.py",
            "tests/fault/test_train_checkpoints.py",
            "tests/fault/test_train_kernels.py",
            "tests/fault/test_train_ranks.py",
            "tests/parity/test_speed.py",
            "tests/parity/test_start_from.py",
            "tests/parity/test_resume.py",
            "tests/parity/test_generate.py",
        )
    ),
    "certify": Room(("tests/unit/certify", "tests/parity/test_certify.py")),
    "check": Room(("tests/unit/check", "tests/unit/test_cli_check.py")),
    "collectives": Room(
        ("tests/unit/train", "tests/fault/test_train_ranks.py", "tests/fault/test_train_kernels.py"),
        paths=("mai/collectives.py",),
    ),
    "launch": Room(("tests/unit/launch", "tests/fault/test_local_launch.py"), paths=("launch",)),
    "ground": Room(
        (
            "tests/unit/test_log.py",
            "tests/unit/test_workers.py",
            "tests/unit/test_batch.py",
            "tests/unit/test_exit_contract.py",
            "tests/unit/test_written_number.py",
            "tests/unit/launch",
            "tests/fault/test_local_launch.py",
        ),
        paths=(
            "mai/errors.py",
            "mai/exit_contract.py",
            "mai/log.py",
            "mai/workers.py",
            "mai/batch.py",
            "mai/written_number.py",
        ),
    ),
    "doors": Room(
        (
            "tests/unit/test_cli_check.py",
            "tests/unit/test_public_face.py",
            "tests/unit/test_cli_plan.py",
            "tests/fault/test_train_ranks.py",
            "tests/fault/test_train_signals.py",
            "tests/house/test_docs.py",
        ),
        paths=("mai/cli.py", "mai/cli_plan.py", "mai/command.py", "mai/start.py"),
    ),
}


def nearest_first(name: str, file: str) -> list[str]:
    """What is to notice when the room's file is broken: its own test and those of its folder, if there are any, then
    the room's, and those of its part of the room."""
    inside = Path(file).relative_to("mai") if file.startswith("mai/") else Path(file)
    folder = Path("tests/unit") / inside.parent
    own = [folder / f"test_{inside.stem}.py", folder] if len(inside.parts) > 1 else []
    nearest = [path.as_posix() for path in own if (ROOT / path).exists()]
    room = ROOMS[name]
    of_part = [tests for part, these in room.of_parts.items() if file.startswith(f"{part}/") for tests in these]
    return [*nearest, *(tests for tests in room.tests if tests not in nearest), *of_part]


def files_of(name: str) -> list[str]:
    """The room's Python files, as paths from the repository's root."""
    found: set[str] = set()
    for path in ROOMS[name].paths or (f"mai/{name}",):
        whole = ROOT / path
        files = [whole] if whole.is_file() else whole.rglob("*.py")
        found |= {file.relative_to(ROOT).as_posix() for file in files}
    return sorted(file for file in found if not file.startswith(LEFT_OUT))
