"""Layout -> process groups. Megatron-Core reads its own globals in some 210 places, so they are set here, once, and
the name `parallel_state` appears in no other file of ours."""

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from megatron.core import parallel_state

from mai.errors import RendezvousError
from mai.parallel.layout import Layout
from mai.parallel.place import Place


@dataclass(frozen=True, slots=True)
class Groups:
    """This rank's place in the layout; Megatron-Core keeps the process groups themselves."""

    tensor_rank: int
    pipeline_rank: int
    data_rank: int
    is_first_stage: bool
    is_last_stage: bool
    previous_stage_rank: int
    """Global rank that holds the stage before this one (on the first stage: the last one's)."""
    next_stage_rank: int
    last_stage_rank: int
    """Global rank whose losses and draws count: the last stage of the first copy, first tensor rank."""


def build_groups(layout: Layout, *, timeout_seconds: float) -> Groups:
    """Create all process groups of the layout; all ranks must call, after `init_process_group`."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=max(1, round(timeout_seconds / 60)),
    )
    assert parallel_state.get_data_parallel_world_size() == layout.data
    return Groups(
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        is_first_stage=parallel_state.is_pipeline_first_stage(),
        is_last_stage=parallel_state.is_pipeline_last_stage(),
        previous_stage_rank=parallel_state.get_pipeline_model_parallel_prev_rank(),
        next_stage_rank=parallel_state.get_pipeline_model_parallel_next_rank(),
        # Ranks run over tensor first, then data, then pipeline (Megatron's order "tp-cp-ep-dp-pp").
        last_stage_rank=layout.world_size - layout.tensor * layout.data,
    )


def destroy_groups() -> None:
    """Take down what `build_groups` made, so that the same processes can hold another layout; all ranks must call."""
    parallel_state.destroy_model_parallel()


def join_world(*, backend: str, place: Place, timeout_seconds: float) -> None:
    """Meet the other ranks; all ranks must call. Raises RendezvousError when they do not all come."""
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{place.master_address}:{place.master_port}",
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=timeout_seconds),
        )
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        raise RendezvousError(
            f"rank {place.rank} of {place.world_size} did not meet the others at {place.master_address} port "
            f"{place.master_port}: {str(error).splitlines()[0]}; check that all ranks were started and reach it"
        ) from error


def leave_world() -> None:
    """Close what `build_groups` and `join_world` opened; all ranks must call."""
    destroy_groups()
    dist.destroy_process_group()
