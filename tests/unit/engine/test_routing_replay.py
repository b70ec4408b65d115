"""A routing that one rank wrote down reaches every rank's tokens in every layout. S=8 positions, B=2 sequences."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mai.engine.routing_replay import Follower, OwnTokens, Recorder, own_micro_batches

SEQUENCES, POSITIONS, EXPERTS, TOPK = 4, 8, 6, 2


def choose(scores_TE: Tensor, topk: int, *_: Any) -> tuple[Tensor, Tensor]:
    values_TK, picks_TK = scores_TE.topk(topk, dim=1)
    return values_TK, picks_TK


def scores(*, micro_batch: int) -> Tensor:
    """Of the tokens [S * B] of a micro-batch of two sequences."""
    generator = torch.Generator().manual_seed(micro_batch)
    return torch.randn(POSITIONS * 2, EXPERTS, generator=generator)


@pytest.fixture
def recorded() -> Tensor:
    """[4 sequences, S, K], from a rank with micro-batches of two sequences."""
    recorder = Recorder()
    for micro_batch in range(2):
        recorder.get_replay_topk(scores(micro_batch=micro_batch), TOPK, None, None, choose)
    return recorder.written(micro_batch_sequences=2)


def test_the_record_is_by_sequence_and_position(recorded: Tensor) -> None:
    assert recorded.shape == (SEQUENCES, POSITIONS, TOPK)
    third_sequence = scores(micro_batch=1).view(POSITIONS, 2, EXPERTS)[:, 0]
    assert torch.equal(recorded[2], third_sequence.topk(TOPK).indices)


def test_a_rank_with_all_tokens_follows_exactly(recorded: Tensor) -> None:
    own = OwnTokens(sequences=range(SEQUENCES), positions_L=torch.arange(POSITIONS))
    follower = Follower(own_micro_batches(recorded, own, micro_batch_sequences=2))
    for micro_batch in range(2):
        other_scores = -scores(micro_batch=micro_batch)
        values, picks = follower.get_replay_topk(other_scores, TOPK, None, None, choose)
        assert torch.equal(picks, scores(micro_batch=micro_batch).topk(TOPK).indices)
        assert torch.equal(values, other_scores.gather(1, picks)), "the scores are its own"


def test_a_rank_with_some_sequences_and_positions_follows_for_those(recorded: Tensor) -> None:
    own = OwnTokens(sequences=range(2, 4), positions_L=torch.tensor([0, 1, 6, 7]))
    first, second = own_micro_batches(recorded, own, micro_batch_sequences=1)
    assert torch.equal(first, recorded[2, [0, 1, 6, 7]])
    assert torch.equal(second, recorded[3, [0, 1, 6, 7]])


def test_a_layer_that_is_computed_again_follows_twice(recorded: Tensor) -> None:
    """All micro-batches forward without gradients, then each again with them."""
    own = OwnTokens(sequences=range(SEQUENCES), positions_L=torch.arange(POSITIONS))
    follower = Follower(own_micro_batches(recorded, own, micro_batch_sequences=2))

    def follow(micro_batch: int) -> Tensor:
        return follower.get_replay_topk(scores(micro_batch=micro_batch), TOPK, None, None, choose)[1]

    with torch.no_grad():
        first = [follow(0), follow(1)]
    again = [follow(0), follow(1)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_layer_that_is_computed_again_is_written_down_once(recorded: Tensor) -> None:
    recorder = Recorder()
    with torch.no_grad():
        recorder.get_replay_topk(scores(micro_batch=1), TOPK, None, None, choose)
    for micro_batch in range(2):
        recorder.get_replay_topk(scores(micro_batch=micro_batch), TOPK, None, None, choose)
    assert torch.equal(recorder.written(micro_batch_sequences=2), recorded)


def test_one_replay_is_for_one_step(recorded: Tensor) -> None:
    own = OwnTokens(sequences=range(2), positions_L=torch.arange(POSITIONS))
    follower = Follower(own_micro_batches(recorded, own, micro_batch_sequences=2))
    follower.get_replay_topk(scores(micro_batch=0), TOPK, None, None, choose)
    with pytest.raises(AssertionError, match="one replay is for one forward and backward pass"):
        follower.get_replay_topk(scores(micro_batch=0), TOPK, None, None, choose)
