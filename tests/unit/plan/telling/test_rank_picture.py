"""Every rank's place in the picture is its place in the cluster."""

import pytest

from mai.hardware.cluster import FabricLevel
from mai.parallel.layout import Layout
from mai.plan.placement.rank_map import RankMap, rank_map
from mai.plan.telling.rank_picture import rank_picture
from tests.unit.plan.placement.test_topology import cluster
from tests.unit.plan.telling.test_pictures import shapes

LAYOUT = Layout(tensor=2, pipeline=3, data=7)  # stages of 14 ranks on nodes of four
LEAF = FabricLevel(nodes=2, oversubscription=1)


def told(found: RankMap) -> list[str]:
    """Words beside and inside the bars."""
    return [text["text"] for text in shapes(rank_picture(found), "text")]


def test_a_stage_is_as_wide_as_its_ranks_and_cut_at_the_end_of_each_leaf() -> None:
    picture = rank_picture(rank_map(LAYOUT, cluster(leaf=LEAF), gpus_booked=48))
    drawn = [(bar["text"], bar["class"], bar["width"]) for bar in shapes(picture, "rect")]
    rank = drawn[0][2] / 8  # the first leaf: two nodes of stage 0
    assert [(text.split(":")[0], style, round(width / rank)) for text, style, width in drawn] == [
        ("stage 0", "stage0", 8),
        ("stage 0", "stage0", 6),
        ("stage 1", "stage1", 2),
        ("stage 1", "stage1", 8),
        ("stage 1", "stage1", 4),
        ("stage 2", "stage2", 4),
        ("stage 2", "stage2", 8),
        # The last node that holds ranks is full by half; the spare one begins behind it.
        ("stage 2", "stage2", 2),
        ("spare", "bubble", 4),
    ]
    begins = [bar["x"] for bar in shapes(picture, "rect")]
    ends = [begin + width for begin, (_, _, width) in zip(begins, drawn, strict=True)]
    assert all(end <= begin + 0.1 for end, begin in zip(ends, begins[1:], strict=False)), "none over another"
    assert ends[-1] <= float(picture.partition('viewBox="0 0 ')[2].partition(" ")[0])
    assert drawn[1][0] == "stage 0: ranks 0-13, nodes 0-3"
    assert drawn[-1][0] == "spare: nodes 11"


def test_rows_are_named_by_their_leaves() -> None:
    assert [each for each in told(rank_map(LAYOUT, cluster(leaf=LEAF), gpus_booked=42)) if "leaf" in each] == [
        "leaf 0-5"
    ]
    longer = rank_map(Layout(tensor=4, pipeline=1, data=16), cluster(leaf=LEAF), gpus_booked=64)
    assert [each for each in told(longer) if "leaf" in each] == ["leaf 0-5", "leaf 6-7"]


@pytest.mark.parametrize(("data", "name"), [(480, "leaf 0-5"), (481, "pod 0-1")])
def test_where_leaves_are_too_many_to_see_pods_stand_for_them(data: int, name: str) -> None:
    made = cluster(leaf=LEAF, pod=FabricLevel(nodes=300, oversubscription=7))
    layout = Layout(tensor=4, pipeline=1, data=data)
    assert told(rank_map(layout, made, gpus_booked=layout.world_size))[0] == name


def test_a_cluster_without_anything_above_a_node_is_one_bar() -> None:
    assert told(rank_map(LAYOUT, cluster(), gpus_booked=42)) == ["all nodes", "0", "1", "2"]
