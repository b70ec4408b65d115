import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from mai.errors import ExitCode, PlanError
from mai.hardware.cluster import Cluster, cluster_names, load_cluster
from mai.hardware.gpu import Gpu, gpu_names, gpu_of_torch, load_gpu, the_one_called

OURS = """
gpu = "h100"
gpus_per_node = 8
nodes = 16
spare_nodes = 1

[scale_up]
gpus = 8
gb_per_second = { value = 450, source = "NVLink 4" }

[scale_out]
gb_per_second = 50.0

[storage]
write_gb_per_second = 100

[site]
carbon_grams_per_kilowatt_hour = 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ours.toml"


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def numbers(value: Any, within: str = "") -> Iterator[str]:
    """The path of every number that a dataclass holds, and of those in it."""
    for each in fields(value):
        held = getattr(value, each.name)
        if is_dataclass(held) and not isinstance(held, Gpu):
            yield from numbers(held, f"{within}{each.name}.")
        elif isinstance(held, int | float) and each.name != "spare_nodes":
            yield f"{within}{each.name}"


@pytest.mark.parametrize("name", gpu_names())
def test_every_number_of_a_gpu_has_a_source(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name
    assert set(numbers(gpu)) == gpu.sources.keys()
    assert all(source.strip() for source in gpu.sources.values())


@pytest.mark.parametrize("name", cluster_names())
def test_every_number_of_a_shipped_cluster_has_a_source(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == name
    assert set(numbers(cluster)) == cluster.sources.keys()
    assert all(source.strip() for source in cluster.sources.values())


def test_what_ships() -> None:
    racks, others = ["gb200_nvl72", "gb300_nvl72"], ["maia100", "mi300x", "mi355x"]
    assert cluster_names() == ["a100", "b200", *racks, "h100", "h100_llama3", "h200", *others]
    ampere, blackwell = (
        ["a100_40gb", "a100_80gb", "a100_pcie_40gb", "a100_pcie_80gb"],
        ["b200", "b300", "gb200", "gb300"],
    )
    hopper = ["gh200", "h100", "h100_nvl", "h100_pcie", "h200", "h200_nvl"]
    assert gpu_names() == [*ampere, *blackwell, *hopper, *others]


# name: dense TFLOP/s in bf16, fp8 and fp4, memory as sold, HBM TB/s, NVLink GB/s one way, TDP.
DATA_SHEETS = {
    "a100_80gb": (312, None, None, 80, 2.0, 300, 400),
    "a100_pcie_40gb": (312, None, None, 40, 1.555, None, 250),
    "a100_pcie_80gb": (312, None, None, 80, 1.935, None, 300),
    "gh200": (990, 1979, None, 96, 4.0, None, None),
    "h100": (989, 1979, None, 80, 3.35, 450, 700),
    "h100_nvl": (835, 1670, None, 94, 3.9, 300, 400),
    "h100_pcie": (756, 1513, None, 80, 2.0, None, 350),
    "h200": (989, 1979, None, 141, 4.8, 450, 700),
    "h200_nvl": (835, 1670, None, 141, 4.8, 450, 600),
    "b200": (2250, 4500, 9000, 180, 7.7, 900, 1000),
    "gb200": (2500, 5000, 10_000, 186, 8.0, 900, 1200),
    "b300": (2250, 4500, None, 288, 8.0, 900, None),
    "gb300": (2500, 5000, 15_000, 288, 8.0, 900, 1400),
    "mi300x": (1307, 2615, None, 192, 5.3, 448, 750),
    "mi355x": (2500, 5000, 10_100, 288, 8.0, 535.5, 1400),
    "maia100": (800, None, None, 64, 1.8, 450, 700),
}


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_gpus_are_what_their_data_sheets_say(name: str) -> None:
    gpu = load_gpu(name)
    rates = (gpu.bf16_tflops, gpu.fp8_tflops, gpu.fp4_tflops)
    assert (*rates, gpu.sold_memory_gb, gpu.hbm_tb_per_second, gpu.nvlink_gb_per_second, gpu.tdp_watts) == DATA_SHEETS[
        name
    ]


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [
        ("a100_80gb", 271, None),
        ("h100", 795, 1403),
        ("b200", 1745, 3432),
        ("gb200", 1822, 3616),
        ("mi300x", 668, None),
    ],
)
def test_the_fastest_products_are_those_measured(name: str, bf16: float, fp8: float | None) -> None:
    gpu = load_gpu(name)
    assert gpu.matmul_bf16_tflops == pytest.approx(bf16, abs=0.5)
    assert gpu.matmul_fp8_tflops == (None if fp8 is None else pytest.approx(fp8, abs=0.6))


@pytest.mark.parametrize("name", gpu_names())
def test_nothing_is_faster_than_its_peak_or_larger_than_sold(name: str) -> None:
    gpu = load_gpu(name)
    assert (gpu.matmul_bf16_tflops or 0) < gpu.bf16_tflops
    assert gpu.matmul_fp8_tflops is None or (gpu.fp8_tflops is not None and gpu.matmul_fp8_tflops < gpu.fp8_tflops)
    assert (gpu.usable_memory_gib or 0) < gpu.sold_memory_gb


@pytest.mark.parametrize("name", gpu_names())
def test_a_gpu_is_found_by_its_own_names_and_by_no_others(name: str) -> None:
    found = {torch_name: gpu_of_torch(torch_name) for each in gpu_names() for torch_name in load_gpu(each).torch_names}
    assert [torch_name for torch_name, gpu in found.items() if gpu == load_gpu(name)] == [*load_gpu(name).torch_names]
    assert load_gpu(name).torch_names or name == "maia100"  # which is no device of torch.cuda


@pytest.mark.parametrize(
    ("device", "bf16"),
    [
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB300", 2500),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 990),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_devices_that_share_letters_have_peaks_of_their_own(device: str, bf16: float) -> None:
    gpu = gpu_of_torch(device)
    assert gpu is not None
    assert gpu.bf16_tflops == bf16


@pytest.mark.parametrize("device", ["", "NVIDIA", "NVIDIA H100", "NVIDIA H200 MIG 1g.18gb", "NVIDIA H800", "B200"])
def test_a_device_that_no_file_names_is_unknown(device: str) -> None:
    assert gpu_of_torch(device) is None


def test_a_device_that_two_files_name_is_unknown() -> None:
    gpu = load_gpu("h100")
    assert the_one_called("NVIDIA H100 80GB HBM3", [gpu, load_gpu("h200")]) == gpu
    assert the_one_called("NVIDIA H100 80GB HBM3", [gpu, gpu]) is None


def test_a_node_of_h100_was_measured() -> None:
    assert load_gpu("h100").eight_gpu_node_watts == 6850
    assert all(load_gpu(name).eight_gpu_node_watts is None for name in gpu_names() if name != "h100")


@pytest.mark.parametrize(
    ("name", "gpus_per_node", "gpus_inside", "inside", "between"),
    [
        ("a100", 8, 8, 300, 25),
        ("h100", 8, 8, 450, 50),
        ("h100_llama3", 8, 8, 450, 50),
        ("h200", 8, 8, 450, 50),
        ("b200", 8, 8, 900, 50),
        ("gb200_nvl72", 4, 72, 900, 50),
        ("gb300_nvl72", 4, 72, 900, 100),
        ("mi300x", 8, 8, 448, 50),
        ("mi355x", 8, 8, 535.5, 50),
        ("maia100", 4, 4, 450, 150),
    ],
)
def test_links_of_the_shipped_clusters(
    name: str, gpus_per_node: int, gpus_inside: int, inside: float, between: float
) -> None:
    cluster = load_cluster(name)
    assert (cluster.gpus_per_node, cluster.scale_up.gpus) == (gpus_per_node, gpus_inside)
    assert (cluster.scale_up.gb_per_second, cluster.scale_out.gb_per_second) == (inside, between)


def test_the_price_of_an_h100_says_when_and_for_what() -> None:
    price = load_cluster("h100").price
    assert price is not None
    assert 1.70 <= (price.gpu_hour or 0) <= 5
    assert price.currency == "USD"
    assert "2026" in (price.gpu_hour_buys or "")
    assert all(load_cluster(name).price is None for name in cluster_names() if name != "h100")


def test_what_nobody_published_stays_none() -> None:
    cluster = load_cluster("mi300x")
    assert cluster.scale_up.latency_microseconds is None
    assert cluster.nodes is None
    assert (cluster.leaf, cluster.pod, cluster.price) == (None, None, None)
    assert cluster.storage.write_gb_per_second is None
    assert cluster.site.power_usage_effectiveness is None


def test_a_cluster_of_ones_own(file: Path) -> None:
    cluster = load_cluster(written(file, OURS))
    assert (cluster.name, cluster.gpu, cluster.nodes, cluster.spare_nodes) == ("ours", load_gpu("h100"), 16, 1)
    assert cluster.storage.write_gb_per_second == 100.0
    assert cluster.site.carbon_grams_per_kilowatt_hour == 0
    assert cluster.sources == {"scale_up.gb_per_second": "NVLink 4"}
    assert load_cluster(str(file)) == cluster


@pytest.mark.parametrize(("budget", "nodes"), [(8, 1), (15_000, 1875), (15_007, 1875)])
def test_a_budget_makes_whole_nodes(budget: int, nodes: int) -> None:
    assert load_cluster("h100").with_gpus(budget).nodes == nodes


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (15, "15 GPUs: too few for ours with gpus_per_node=8 and spare_nodes=1; ask for 16 or more"),
        (129, "129 GPUs: too many for ours with 16 nodes of 8"),
    ],
)
def test_a_budget_that_the_cluster_cannot_serve(file: Path, budget: int, reason: str) -> None:
    with pytest.raises(PlanError) as caught:
        load_cluster(written(file, OURS)).with_gpus(budget)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (("nodes = 16", "nodes = 1"), "spare_nodes=1: must be below nodes=1, which includes them"),
        (("gb_per_second = 50.0", "gb_per_second = 50.0\nrails = 3"), "scale_out.rails=3: must divide gpus_per_node=8"),
        (("gpus = 8", "gpus = 12"), "scale_up.gpus=12: must be a part or a multiple of gpus_per_node=8"),
        (
            ("[site]", "[leaf]\nnodes = 32\noversubscription = 1\n[pod]\nnodes = 16\noversubscription = 7\n[site]"),
            "leaf.nodes=32: must not be above pod.nodes=16",
        ),
        (
            ("[site]", '[price]\ncurrency = "EUR"\ngpu_hour = 2\n[site]'),
            "price.gpu_hour_buys: missing; say what price.gpu_hour is the price of",
        ),
        (
            ('gpu = "h100"', 'gpu = "h900"'),
            f"gpu=h900: no such GPU; did you mean h200? There are {', '.join(gpu_names())}",
        ),
    ],
)
def test_a_cluster_that_cannot_be(file: Path, change: tuple[str, str], violation: str) -> None:
    with pytest.raises(PlanError) as caught:
        load_cluster(written(file, OURS.replace(*change)))
    assert caught.value.violations == (f"{file}: {violation}",)
    assert caught.value.code is ExitCode.CONFIG


def test_all_that_is_wrong_is_named_at_once(file: Path) -> None:
    text = OURS.replace("gpus_per_node = 8", 'gpus_per_nodes = "eight"').replace("nodes = 16", "nodes = -16")
    with pytest.raises(PlanError) as caught:
        load_cluster(written(file, text.replace("gb_per_second = 50.0", "rails = 0")))
    assert caught.value.violations == (
        f"{file}: gpus_per_nodes: no such key; did you mean gpus_per_node?",
        f"{file}: gpus_per_node: missing",
        f"{file}: nodes=-16: must be above 0",
        f"{file}: scale_out.gb_per_second: missing",
        f"{file}: scale_out.rails=0: must be above 0",
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "h10",
            f"h10: no such cluster; did you mean h100? There are {', '.join(cluster_names())}. Your own",
        ),
        ("tpu", f"tpu: no such cluster; there are {', '.join(cluster_names())}. Your own is path/to/cluster.toml"),
        ("no/such", f"no/such: No such file or directory; name your own cluster.toml, or one of {cluster_names()[0]},"),
        ("none.toml", "none.toml: No such file or directory; name"),
    ],
)
def test_a_cluster_that_is_not_there(name: str, reason: str) -> None:
    with pytest.raises(PlanError) as caught:
        load_cluster(name)
    assert str(caught.value).startswith(reason)


def test_hardware_is_read_when_it_is_asked_for_and_needs_little() -> None:
    script = "import sys, mai.hardware.cluster; print(*{'pydantic', 'torch', 'numpy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_clusters_can_be_compared_and_kept_in_sets() -> None:
    clusters: set[Cluster] = {load_cluster("h100"), load_cluster("h100"), load_cluster("h200")}
    assert len(clusters) == 2
