"""Everything points downward: who may import whom, inside mai and from outside."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.house.sources import INSTALLED, ROOT, dotted, imported_names, imports, name, python_files, room, tree

GROUND = "errors log batch collectives"
SERVICES = "resilience checkpoint objective evaluate"
# room: (rooms of mai that it may import, packages from outside besides the standard library)
MAY_IMPORT = {
    # ground
    "errors": ("", ""),
    "command": ("errors log written_number", "click"),
    "exit_contract": ("errors", ""),
    "log": ("", ""),
    "run_folder": ("errors log", ""),
    "written_number": ("", ""),
    "workers": ("errors log", ""),
    "batch": ("errors log", "torch"),
    "collectives": ("errors log", "torch"),
    "kernels": ("", "torch triton"),
    "hardware": ("errors", "tomli"),
    # what a run is
    "recipe": ("errors log written_number", "pydantic"),
    # services that know only the recipe
    "parallel": ("errors log recipe", ""),
    "model": ("errors log recipe", ""),
    "plan": ("errors log exit_contract hardware recipe parallel model optimizer", ""),
    "optimizer": ("errors log recipe model kernels", ""),
    "resilience": (f"{GROUND} run_folder recipe", "torch"),
    "observe": ("errors log recipe batch run_folder", "torch rich wandb"),
    # the engine and the data
    "engine": (f"{GROUND} hardware recipe model parallel kernels optimizer", "torch megatron"),
    "data": ("errors log recipe parallel batch run_folder workers", "torch numpy tokenizers rich"),
    # services over the engine
    "checkpoint": (f"{GROUND} run_folder workers recipe parallel model engine", "torch safetensors pydantic"),
    "objective": (f"{GROUND} recipe engine", "torch numpy"),
    "evaluate": (f"{GROUND} recipe data engine", "torch numpy"),
    # the story
    "train": (f"{GROUND} run_folder recipe parallel model optimizer {SERVICES} observe engine data", "torch"),
    "check": ("errors log recipe parallel model optimizer engine", "torch"),
    "certify": (f"{GROUND} run_folder recipe parallel model optimizer objective engine data train", "torch numpy"),
    # beside the library
    "recipes": ("recipe model", ""),
    "launch": ("errors log run_folder recipe parallel", ""),
}
DOORS = {"cli", "cli_plan", "start", "__init__", "__main__"}
LIGHT = {"pydantic", "tomli"}
TORCH_FREE = {room for room, (_, outside) in MAY_IMPORT.items() if LIGHT.issuperset(outside.split())}

MAY_READ_ENVIRONMENT = {"mai/engine/device.py"}
# Registered by name: where Megatron-Core's own source is compiled from a rewritten syntax tree.
MAY_RUN_CODE = {("mai/engine/cpu_adapter.py", "compile")}
CODE_FROM_DATA_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
CODE_FROM_DATA_CALLS = {"eval", "exec", "compile", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}

FILES = python_files(*INSTALLED)


def test_every_room_has_a_row_in_the_table_and_every_row_a_room() -> None:
    rooms = {room(path) for path in FILES} - DOORS
    unknown, gone = rooms - MAY_IMPORT.keys(), MAY_IMPORT.keys() - rooms
    assert not unknown, f"{sorted(unknown)}: no row in MAY_IMPORT says which rooms are below"
    assert not gone, f"{sorted(gone)}: a row in MAY_IMPORT, but no such room"


def test_a_room_imports_only_the_rooms_below_it() -> None:
    wrong = [(name(path), full) for path in FILES for full in imports(path) if not _points_down(room(path), full)]
    assert not wrong, _lines("is a room that is not below this one (MAY_IMPORT)", wrong)


def test_a_room_imports_only_its_own_packages_from_outside() -> None:
    wrong = [(name(path), full) for path in FILES for full in imports(path) if not _is_known(room(path), full)]
    assert not wrong, _lines("is not among the packages of this room (MAY_IMPORT)", wrong)


def test_the_library_knows_no_caller() -> None:
    callers = {"launch", "recipes", "tests", "benchmarks"}
    inside = [path for path in python_files("mai") if room(path) not in DOORS]
    wrong = [(name(path), full) for path in inside for full in imports(path) if full.partition(".")[0] in callers]
    assert not wrong, _lines("is a caller; only the doors know launch and recipes", wrong)


def test_parallel_state_is_named_in_one_file() -> None:
    others = [path for path in FILES if name(path) != "mai/engine/groups.py"]
    wrong = [(name(path), used) for path in others for used in _names(path) if "parallel_state" in used.split(".")]
    assert not wrong, _lines("is Megatron's global state; take the group from mai/engine/groups.py", wrong)


def test_light_rooms_load_without_torch() -> None:
    files = [path for path in FILES if room(path) in TORCH_FREE]
    modules = [name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files]
    script = f"import sys, {', '.join(modules)}; print(*sorted({{'torch', 'numpy', 'megatron'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), f"{sorted(TORCH_FREE)} must stay light; something in them loads {result.stdout}"


def test_imports_stand_at_the_top() -> None:
    files = [p for p in FILES if room(p) not in DOORS and not name(p).startswith("mai/observe/sinks/")]
    wrong = [(name(path), full) for path in files for full in _imports_inside_functions(path)]
    assert not wrong, _lines("is imported inside a function; only doors and sinks may", wrong)


def test_the_environment_is_read_in_one_place() -> None:
    reads = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
    files = [path for path in FILES if room(path) != "launch" and name(path) not in MAY_READ_ENVIRONMENT]
    wrong = [(name(path), used) for path in files for used in reads & _names(path)]
    assert not wrong, _lines("is the environment; take the value as an argument", wrong)


def test_no_file_turns_data_into_code() -> None:
    wrong = [(name(path), used) for path in FILES for used in _code_from_data(path)]
    assert not set(wrong) - MAY_RUN_CODE, _lines("can run code that a file brings", sorted(set(wrong) - MAY_RUN_CODE))


def _points_down(room_name: str, full: str) -> bool:
    top, _, rest = full.partition(".")
    if top != "mai" or room_name in DOORS:
        return True
    return rest.partition(".")[0] in {room_name, *_row(room_name)[0].split()}


def _is_known(room_name: str, full: str) -> bool:
    top = full.partition(".")[0]
    if room_name in DOORS:
        return top != "megatron"
    return top in {*_row(room_name)[1].split(), *INSTALLED, *sys.stdlib_module_names}


def _row(room_name: str) -> tuple[str, str]:
    return MAY_IMPORT.get(room_name, ("", ""))


def _names(path: Path) -> set[str]:
    """Every dotted name that a file uses or imports."""
    return {dotted(node) for node in ast.walk(tree(path))} | set(imports(path))


def _imports_inside_functions(path: Path) -> set[str]:
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {full for function in functions for node in ast.walk(function) for full in imported_names(node)}


def _code_from_data(path: Path) -> set[str]:
    """Modules and calls of a file that can execute what they read."""
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    modules = {full for full in imports(path) if full.partition(".")[0] in CODE_FROM_DATA_MODULES}
    called = {dotted(call.func) for call in calls} & CODE_FROM_DATA_CALLS
    return modules | called | {"allow_pickle" for call in calls for word in call.keywords if word.arg == "allow_pickle"}


def _lines(reason: str, wrong: list[tuple[str, str]]) -> str:
    return "\n".join(f"{file}: {used} {reason}" for file, used in wrong)
