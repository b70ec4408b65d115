"""What a scheduler is told to keep together is what the predicted time reckons with."""

from mai.hardware.cluster import load_cluster
from mai.plan.placement.wanted import FamilyPlacement, Minimum, placement
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.recipe import load


def told(name: str, cluster_name: str, gpus: int) -> tuple[dict[str, FamilyPlacement], list[str]]:
    cluster = load_cluster(cluster_name)
    recipe = within(load.find(name)(), cluster, gpus)
    found = placement(setting_of(recipe, cluster, load_software("mai")))
    return {family.family: family for family in found.families}, found.sentences


def test_tensor_ranks_of_the_500b_must_share_a_node_and_stages_need_nothing() -> None:
    families, sentences = told("mai1_500b", "h100", 15_000)
    assert families["tensor"].minimum == Minimum("node", ranks=8)
    assert families["context"].minimum is None
    assert families["context"].preferred == families["context"].level == "leaf"
    assert families["pipeline"].minimum is None
    assert families["pipeline"].one_rail is True
    assert "tensor: all 8 ranks of a group must share a node" in sentences
    assert "context: 16 ranks in a row had better share a leaf" in sentences


def test_a_part_of_a_group_that_must_share_a_node_is_named() -> None:
    families, sentences = told("mai1_500b_moe", "h100", 15_000)
    assert families["data"].minimum == Minimum("node", ranks=2)
    assert "data: every 2 of the 232 ranks of a group must share a node" in sentences
    assert "data_with_context" not in families


def test_an_order_that_breaks_what_the_time_takes_for_granted_is_told() -> None:
    # Blocks of 16 ranks, two tensor groups each, do not divide a rack of 72.
    families, sentences = told("mai1_500b", "gb200_nvl72", 14_976)
    assert families["tensor"].minimum_holds is True
    assert families["context"].minimum_holds is False
    (context,) = [sentence for sentence in sentences if sentence.startswith("context")]
    assert context.endswith("must share an NVLink domain, which this order does not give to all of them")
