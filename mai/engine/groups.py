"""Layout -> process groups. Megatron-Core reads its own globals in some 210 places, so they are set here, once, and
the name `parallel_state` appears in no other file of ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.distributed.device_mesh import DeviceMesh

from mai.errors import RendezvousError
from mai.parallel.layout import Layout
from mai.parallel.place import Place


@dataclass(frozen=True, slots=True)
class Groups:
    """This rank's place in the layout; Megatron-Core keeps all the process groups, and reads them itself."""

    tensor_rank: int
    context_rank: int
    pipeline_rank: int
    data_rank: int
    sharding_copy: int
    """Which of the copies that hybrid sharding keeps equal this rank belongs to; 0 without it."""
    is_first_stage: bool
    is_last_stage: bool
    previous_stage_rank: int
    """Global rank that holds the stage before this one (on the first stage: the last one's)."""
    next_stage_rank: int
    last_stage_rank: int
    """Global rank whose losses and draws count: the last stage of the first copy, first tensor rank."""
    context_group: dist.ProcessGroup
    """Ranks that share this rank's sequences."""
    pipeline_group: dist.ProcessGroup
    """Ranks that hold this copy's stages, in order."""


def build_groups(layout: Layout, *, timeout_seconds: float) -> Groups:
    """Create all process groups of the layout; all ranks must call, after `init_process_group`."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        context_parallel_size=layout.context,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_stages if layout.schedule.is_interleaved else None,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.expert_tensor,
        num_distributed_optimizer_instances=layout.sharding_copies,
        create_gloo_process_groups=False,
        # Of a timedelta, so that fractions are obeyed.
        distributed_timeout_minutes=timeout_seconds / 60,
    )
    assert parallel_state.get_data_parallel_world_size() == layout.data
    return Groups(
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        context_rank=parallel_state.get_context_parallel_rank(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        sharding_copy=(
            parallel_state.get_inter_distributed_optimizer_instance_group().rank() if layout.sharding_copies > 1 else 0
        ),
        is_first_stage=parallel_state.is_pipeline_first_stage(),
        is_last_stage=parallel_state.is_pipeline_last_stage(),
        previous_stage_rank=parallel_state.get_pipeline_model_parallel_prev_rank(),
        next_stage_rank=parallel_state.get_pipeline_model_parallel_next_rank(),
        last_stage_rank=layout.rank_at(tensor=0, context=0, data=0, pipeline=layout.pipeline - 1),
        context_group=parallel_state.get_context_parallel_group(),
        pipeline_group=parallel_state.get_pipeline_model_parallel_group(),
    )


@contextmanager
def own_groups_only(rank: int) -> Iterator[None]:
    """Leave out the groups that this rank is not in, for a process that stands for one rank after the other of a job
    that does not run; in one that runs, all ranks must make all groups."""
    create_group = parallel_state.create_group
    lists_of_ranks = parallel_state.generate_masked_orthogonal_rank_groups

    def create_own(ranks: Sequence[int], *arguments: Any, **options: Any) -> Any:
        return create_group(ranks, *arguments, **options) if rank in ranks else None

    parallel_state.create_group = create_own
    parallel_state.generate_masked_orthogonal_rank_groups = lambda world_size, sizes, mask: _lists_once(
        lists_of_ranks, world_size, tuple(sizes), tuple(mask)
    )
    try:
        yield
    finally:
        parallel_state.create_group = create_group
        parallel_state.generate_masked_orthogonal_rank_groups = lists_of_ranks


@cache
def _lists_once(lists_of_ranks: Any, world_size: int, sizes: tuple[int, ...], mask: tuple[bool, ...]) -> Any:
    return lists_of_ranks(world_size, list(sizes), list(mask))


def sharding_mesh(layout: Layout, *, device_type: str, of_experts: bool) -> DeviceMesh:
    """The ranks that share out this rank's dense weights, or its experts: [shard], or [copy, shard] under hybrid
    sharding. All ranks must call, after `build_groups`."""
    if of_experts:
        whole = parallel_state.get_expert_data_parallel_group()
        within_copy = parallel_state.get_expert_data_parallel_group(partial_expert_data_parallel=True)
    else:
        whole = parallel_state.get_data_parallel_group(with_context_parallel=True)
        within_copy = parallel_state.get_data_parallel_group(with_context_parallel=True, partial_data_parallel=True)
    if layout.sharding_copies == 1:
        return DeviceMesh.from_group(whole, device_type)
    return DeviceMesh.from_group(
        # One for both: a copy of the model is a run of neighbouring ranks, whatever shares it out.
        [parallel_state.get_inter_distributed_optimizer_instance_group(), within_copy],
        device_type,
        mesh=torch.tensor(dist.get_process_group_ranks(whole)).view(layout.sharding_copies, -1),
        mesh_dim_names=("copy", "shard"),
    )


def destroy_groups() -> None:
    """Take down what `build_groups` made, so that the same processes can hold another layout; all ranks must call."""
    parallel_state.destroy_model_parallel()
    # Megatron-Core forgets its groups and leaves them open: some 60 threads of gloo for each layout.
    for group in [*dist.distributed_c10d._world.pg_map]:
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


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
