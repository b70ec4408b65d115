"""A routing that one rank wrote down reaches every rank's tokens in every layout. S=8 positions, B=2 sequences."""

import pytest
import torch
from torch import Tensor

from mai.engine.routing_replay import Follower, OwnTokens, Recorder, own_micro_batches

SEQUENCES, POSITIONS, EXPERTS, TOPK = 4, 8, 6, 2


def picks(*, micro_batch: int) -> Tensor:
    """Of the tokens [S * B] of a micro-batch of two sequences."""
    generator = torch.Generator().manual_seed(micro_batch)
    return torch.randn(POSITIONS * 2, EXPERTS, generator=generator).topk(TOPK).indices


@pytest.fixture
def recorded() -> Tensor:
    """[4 sequences, S, K], from a rank with micro-batches of two sequences."""
    recorder = Recorder()
    for micro_batch in range(2):
        recorder.followed(picks(micro_batch=micro_batch))
    return recorder.written(micro_batch_sequences=2)


def test_the_record_is_by_sequence_and_position(recorded: Tensor) -> None:
    assert recorded.shape == (SEQUENCES, POSITIONS, TOPK)
    third_sequence = picks(micro_batch=1).view(POSITIONS, 2, TOPK)[:, 0]
    assert torch.equal(recorded[2], third_sequence)


def test_a_rank_with_all_tokens_follows_exactly(recorded: Tensor) -> None:
    own = OwnTokens(sequences=range(SEQUENCES), positions_L=torch.arange(POSITIONS))
    follower = Follower(own_micro_batches(recorded, own, micro_batch_sequences=2))
    for micro_batch in range(2):
        own_picks = (picks(micro_batch=micro_batch) + 1) % EXPERTS
        assert torch.equal(follower.followed(own_picks), picks(micro_batch=micro_batch))


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
        return follower.followed(picks(micro_batch=micro_batch))

    with torch.no_grad():
        first = [follow(0), follow(1)]
    again = [follow(0), follow(1)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_layer_that_is_computed_again_is_written_down_once(recorded: Tensor) -> None:
    recorder = Recorder()
    with torch.no_grad():
        recorder.followed(picks(micro_batch=1))
    for micro_batch in range(2):
        recorder.followed(picks(micro_batch=micro_batch))
    assert torch.equal(recorder.written(micro_batch_sequences=2), recorded)


def test_one_replay_is_for_one_step(recorded: Tensor) -> None:
    own = OwnTokens(sequences=range(2), positions_L=torch.arange(POSITIONS))
    follower = Follower(own_micro_batches(recorded, own, micro_batch_sequences=2))
    follower.followed(picks(micro_batch=0))
    with pytest.raises(AssertionError, match="one replay is for one forward and backward pass"):
        follower.followed(picks(micro_batch=0))
