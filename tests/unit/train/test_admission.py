"""Whose fault wrong kernels are."""

from collections.abc import Sequence

import pytest

from mai.errors import BadNodeError, EnvironmentMismatchError, ExitCode, OutOfMemoryError
from mai.train.admission import Report, judge

WRONG = ["swiglu: off by 3.0e-01 where 1.6e-02 is allowed, at odd sizes"]


def of(host: str, wrong: Sequence[str] = ()) -> Report:
    return Report(host=host, wrong=wrong)


def test_ranks_that_agree_with_plain_torch_go_on() -> None:
    judge([of("node-a"), of("node-b")])


def test_what_some_ranks_get_wrong_is_their_nodes_fault() -> None:
    with pytest.raises(BadNodeError) as caught:
        judge([of("node-a"), of("node-b", WRONG), of("node-b"), of("node-c", WRONG)])
    assert caught.value.code == 215
    first, *ranks = str(caught.value).splitlines()
    assert first == "a bad node: 2 of 4 ranks compute something else than plain torch; leave out node-b, node-c:"
    assert ranks == [f"rank 1 on node-b: {WRONG[0]}", f"rank 3 on node-c: {WRONG[0]}"]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_what_all_ranks_get_wrong_is_the_build_s_fault(num_ranks: int) -> None:
    with pytest.raises(EnvironmentMismatchError) as caught:
        judge([of("node-a", WRONG)] * num_ranks)
    assert caught.value.code == 83
    assert WRONG[0] in str(caught.value)
    assert "kernels=reference" in str(caught.value)


def test_a_rank_that_could_not_find_out_tells_why_and_nobody_is_blamed() -> None:
    kept = Report(host="node-b", code=ExitCode.OUT_OF_MEMORY, message="out of memory: 80 GiB are in use")
    with pytest.raises(OutOfMemoryError, match=r"^rank 1 on node-b: out of memory: 80 GiB are in use$"):
        judge([of("node-a", WRONG), kept])
