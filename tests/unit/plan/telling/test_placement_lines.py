"""What a terminal shows of a small plan's placement."""

from mai.plan.placement.map_and_traffic import BusiestPart, FamilyBytes, LevelTraffic, Traffic
from mai.plan.placement.rank_map import LevelNodes, LevelParts, Nodes, RankMap, StageRanks
from mai.plan.placement.topology import Level
from mai.plan.telling.placement_lines import map_lines, traffic_lines


def place(nodes: tuple[int, int], leaves: tuple[int, int]) -> Nodes:
    return Nodes(*nodes, parts=[LevelParts("leaf", *leaves)])


def test_a_stage_is_a_row_from_its_first_rank_to_its_last() -> None:
    found = RankMap(
        gpus_per_node=4,
        rails=None,
        nodes=5,
        levels=[LevelNodes("leaf", 2)],
        stages=[StageRanks(0, 0, 9, place((0, 2), (0, 1))), StageRanks(1, 10, 19, place((2, 4), (1, 2)))],
        spares=place((5, 5), (2, 2)),
    )
    assert list(map_lines(found)) == [
        "where ranks lie  ranks  nodes  leaves",
        "stage 0            0-9    0-2     0-1",
        "stage 1          10-19    2-4     1-2",
        "spares                      5       2",
    ]


def level(name: str, share: float, capacity_share: float | None, **families: int) -> LevelTraffic:
    return LevelTraffic(
        level=Level(name, 1),
        num_bytes=sum(families.values()),
        share=share,
        families=[FamilyBytes(family, num_bytes) for family, num_bytes in families.items()],
        busiest=BusiestPart(
            part=0,
            num_bytes=10**9,
            gb_per_second=2.0,
            capacity_gb_per_second=None,
            capacity_share=capacity_share,
        ),
    )


def test_families_stand_in_order_of_size_and_traces_together() -> None:
    levels = [
        level("gpu", 1.0, None, pipeline=4 * 10**9, tensor=9 * 10**9, world=8, data=16),
        level("node", 0.3, 0.125, pipeline=4 * 10**9, tensor=0, world=4, data=0),
    ]
    assert list(traffic_lines(Traffic(levels=levels, even_router=True, unstated=["leaf", "pod"]))) == [
        "sent in a step, out of      a GPU     a node",
        "tensor                    9.00 GB          0",
        "pipeline                  4.00 GB    4.00 GB",
        "others                   24 bytes    4 bytes",
        "all                       13.0 GB    4.00 GB",
        "of all that is sent        100.0%      30.0%",
        "the busiest               1.00 GB    1.00 GB",
        "over the whole step     2.00 GB/s  2.00 GB/s",
        "of its links                           12.5%",
        "  links: one way, less what switches hold back, if the bytes were spread evenly over the step",
        "  experts: a router that spreads tokens evenly, which no router does",
        "  not told: the cluster states no leaf, no pod",
    ]
