"""The CPU adapter rewrites Megatron-Core's CUDA idioms, and nothing else in the process."""

import importlib.util
import linecache
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mai.engine import cpu_adapter, cpu_namespace
from mai.parallel.place import Place
from tests.ranks import on_ranks

ROOT = Path(__file__).parents[3]


def in_fresh_process(script: str) -> str:
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """A module of this source, imported as the adapter imports Megatron-Core's."""

    def load_source(source: str) -> ModuleType:
        path = tmp_path / "rewritten.py"
        path.write_text(source)
        loader = cpu_adapter._Loader("rewritten", str(path))
        spec = importlib.util.spec_from_loader("rewritten", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module

    return load_source


@pytest.mark.slow
def test_a_run_on_cuda_loads_neither_the_adapter_nor_its_namespace() -> None:
    said = in_fresh_process(
        "import sys\n"
        "before = list(sys.meta_path)\n"
        "from mai.engine import device\n"
        "device.prepare('cuda')\n"
        "import mai.train.rank\n"
        "assert 'megatron.core.parallel_state' in sys.modules\n"
        "print([name for name in sys.modules if name.startswith('mai.engine.cpu_')])\n"
        "print([finder for finder in sys.meta_path if type(finder).__module__.startswith('mai')])\n"
    )
    assert said == "[]\n[]\n"


@pytest.mark.slow
def test_torch_itself_is_untouched() -> None:
    said = in_fresh_process(
        "import torch, torch.distributed, torch._dynamo\n"  # the last wraps torch.manual_seed itself
        "places = [torch, torch.cuda, torch.Tensor, torch.distributed, torch.autograd, torch.nn.Module]\n"
        "before = [dict(vars(place)) for place in places]\n"
        "from mai.engine import device\n"
        "device.prepare('cpu')\n"
        "import mai.train.rank\n"
        "changed = [name for place, old in zip(places, before) for name in old if vars(place)[name] is not old[name]]\n"
        "print(changed)\n"
    )
    # What libraries set by themselves when they are imported is no doing of the adapter.
    assert set(said.strip("[]\n").replace("'", "").split(", ")) - {""} <= {"__warningregistry__"}


@pytest.mark.slow
def test_it_must_come_before_megatron_core() -> None:
    said = in_fresh_process(
        "import megatron.core.utils\n"
        "from mai.engine import cpu_adapter\n"
        "try:\n    cpu_adapter.install()\nexcept RuntimeError as error:\n    print(error)\n"
        "print(cpu_adapter.is_installed())\n"
    )
    assert said == "the CPU adapter must be installed before megatron.core is imported\nFalse\n"


@pytest.mark.slow
def test_a_process_is_prepared_for_one_device_only() -> None:
    said = in_fresh_process(
        "from mai.engine import device\n"
        "device.prepare('cpu')\n"
        "device.prepare('cpu')\n"
        "try:\n    device.prepare('cuda')\nexcept RuntimeError as error:\n    print(error)\n"
    )
    assert said == "this process was prepared for the CPU; start another one for CUDA\n"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("torch.cuda.current_device()", torch.device("cpu")),
        ("torch.cuda.is_available()", False),
        ("torch.cuda.synchronize()", None),
        ("torch.cuda.memory_allocated()", 0),
        ("torch.zeros(2, device='cuda').device", torch.device("cpu")),
        ("torch.zeros(2, device='cuda:1').device", torch.device("cpu")),
        ("torch.zeros(2).cuda().device", torch.device("cpu")),
        ("torch.zeros(2).cuda(torch.cuda.current_device(), non_blocking=True).device", torch.device("cpu")),
        ("torch.zeros(2).is_cuda", True),
        ("torch.zeros(2).record_stream(torch.cuda.current_stream())", None),
        ("torch.zeros(2, pin_memory=True).is_pinned()", False),
        ("'torch.cuda.FloatTensor'", "torch.FloatTensor"),
    ],
)
def test_cuda_idioms_mean_the_cpu(expression: str, value: object, load: Callable[[str], ModuleType]) -> None:
    assert load(f"import torch  # cuda\nvalue = {expression}\n").value == value


def test_names_of_torch_cuda_come_from_the_stand_in_and_types_from_torch(load: Callable[[str], ModuleType]) -> None:
    module = load(
        "import torch\nfrom torch.cuda import Stream\nkind = torch.cuda.FloatTensor\nEvent = torch.cuda.Event\n"
    )
    assert module.Stream is cpu_namespace.Stream
    assert module.Event is cpu_namespace.Event
    assert module.kind is torch.cuda.FloatTensor


@pytest.mark.parametrize(
    "source",
    [
        "text = 'the cuda device of cuda:0'",
        "text = 'cuda:first'",
        "text = 'torch.cuda.FloatTensor and more'",
        "cuda = 'of another'",
        "class A:\n    cuda = 1\nvalue = A().cuda\n",
    ],
)
def test_what_only_looks_like_cuda_is_left_alone(source: str) -> None:
    assert cpu_adapter.rewrites(source.encode()) == []


def test_every_place_is_listed_with_its_function() -> None:
    source = (
        b"import torch\n"
        b"class A:\n"
        b"    def method(self, tensor):\n"
        b"        torch.cuda.synchronize()\n"
        b"        return tensor.is_cuda\n"
        b"def function(device='cuda'):\n"
        b"    return torch.zeros(1, device=device).cuda()\n"
        b"stream = torch.cuda.current_stream()\n"
    )
    assert [(place.function, place.what) for place in cpu_adapter.rewrites(source)] == [
        ("A.method", "torch.cuda.synchronize"),
        ("A.method", "is_cuda"),
        ("function", "'cuda'"),
        ("function", "cuda()"),
        ("<module>", "torch.cuda.current_stream"),
    ]


def test_lines_keep_their_numbers(load: Callable[[str], ModuleType]) -> None:
    lines = [
        '"""A docstring."""',
        "from __future__ import annotations",
        "import torch",
        "",
        "def fail():",
        "    torch.cuda.synchronize()",
        "    raise ValueError('here')",
    ]
    module = load("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="here") as caught:
        module.fail()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    linecache.clearcache()
    assert (last.lineno, module.__doc__) == (7, "A docstring.")


def test_a_source_without_cuda_is_compiled_as_it_is(load: Callable[[str], ModuleType]) -> None:
    assert vars(load("value = 1\n")).keys().isdisjoint({cpu_adapter._ALIAS})


def test_the_bytecode_of_the_rewritten_source_is_kept_apart(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    load("import torch\nvalue = torch.cuda.is_available()\n")
    cached = [path.name for path in (tmp_path / "__pycache__").glob("*")]
    assert all(name.endswith(cpu_adapter._CACHE_TAG) for name in cached)


def uneven_collectives(place: Place) -> tuple[list[list[float]], list[float]]:
    """Runs on three ranks: parts of 1, 0 and 3 elements, gathered and summed."""
    import torch.distributed as dist

    from mai.engine.groups import join_world

    join_world(backend="gloo", place=place, timeout_seconds=60)
    sizes = [1, 0, 3]
    gathered = [torch.empty(size) for size in sizes]
    cpu_namespace.all_gather(gathered, torch.full((sizes[place.rank],), float(place.rank)), group=dist.group.WORLD)
    summed = torch.empty(sizes[place.rank])
    parts = [torch.full((size,), 10.0**place.rank) for size in sizes]
    cpu_namespace.reduce_scatter(summed, parts, group=dist.group.WORLD)
    return [part.tolist() for part in gathered], summed.tolist()


@pytest.mark.slow
def test_collectives_take_parts_of_different_lengths() -> None:
    answers = on_ranks(3, uneven_collectives)
    assert [gathered for gathered, _ in answers] == [[[0.0], [], [2.0, 2.0, 2.0]]] * 3
    assert [summed for _, summed in answers] == [[111.0], [], [111.0, 111.0, 111.0]]


def test_the_collectives_of_megatron_core_are_those(load: Callable[[str], ModuleType]) -> None:
    source = "import torch  # cuda\n\ndef gather(): return torch.distributed.all_gather, torch.distributed.all_reduce\n"
    assert load(source).gather() == (cpu_namespace.all_gather, torch.distributed.all_reduce)
