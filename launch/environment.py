"""Which rank of which job this process is, as the environment of its starter says. Pure: values in, values out.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and so does our own launcher. Under Slurm,
the tasks of a step take their place from the SLURM_* variables.
"""

import os
import re
from collections.abc import Mapping

from mai.errors import ExitCode, MaiError
from mai.parallel.place import VARIABLES, Place

_SLURM_NAMES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")

_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""torchrun sets it for each of its ranks."""

# Below the kernel's ephemeral range (32768 and up) and Slurm's usual SrunPortRange (60001 and up).
_FIRST_SLURM_PORT = 20_000
_NUM_SLURM_PORTS = 9_973  # a prime, so that the jobs and steps that run side by side fall on different ports


class RankEnvironmentError(MaiError):
    """The environment says that this process is a rank, but not, or not consistently, which one."""

    code = ExitCode.CONFIG


def this_place() -> Place | None:
    """`rank_from_environment` of this very process."""
    return rank_from_environment(os.environ)


def rank_from_environment(environ: Mapping[str, str]) -> Place | None:
    """This process's place in a job that somebody else started; None in a plain shell, where we start the ranks.

    An empty variable is one that is not set. torchrun's go before Slurm's, since torchrun may itself run in a step."""
    environ = {name: value for name, value in environ.items() if value}
    if _is_task_of_many(environ) and _TORCHRUN not in environ:
        place = _from_slurm(environ)
        _refuse_other_rank(environ, place)
        return place
    if any(name in environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        return _from_torchrun(environ)
    return None


def _refuse_other_rank(environ: Mapping[str, str], place: Place) -> None:
    """Variables of another starter that were exported before srun would give every task the same place."""
    own = {"RANK": place.rank, "WORLD_SIZE": place.world_size, "LOCAL_RANK": place.local_rank}
    others = {name: environ[name] for name, value in own.items() if environ.get(name, str(value)) != str(value)}
    if others:
        said = ", ".join(f"{name}={value}" for name, value in others.items())
        raise RankEnvironmentError(
            f"{said}, but srun says rank {place.rank} of {place.world_size}, local rank {place.local_rank}: unset "
            f"{', '.join(others)}, which a batch script or a shell exported; or, if they are meant, unset SLURM_STEP_ID"
        )


def _is_task_of_many(environ: Mapping[str, str]) -> bool:
    """Is this one of several tasks that srun started?

    Seen in Slurm 22.05: a batch shell has SLURM_PROCID=0, SLURM_LOCALID=0 and SLURM_NTASKS like a task, but no
    SLURM_STEP_*, which https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES promises to tasks.
    A step of one task is a shell of its own (`srun --pty bash`, or `srun mai train` on one node, and what sbatch
    inherits when called from there): there the ranks are ours to start.
    """
    return "SLURM_STEP_ID" in environ and environ.get("SLURM_STEP_NUM_TASKS") != "1"


def _from_torchrun(environ: Mapping[str, str]) -> Place:
    _require(environ, VARIABLES)
    return _checked(
        rank=_integer(environ, "RANK"),
        world_size=_integer(environ, "WORLD_SIZE"),
        local_rank=_integer(environ, "LOCAL_RANK"),
        master_address=environ["MASTER_ADDR"],
        master_port=_integer(environ, "MASTER_PORT"),
        names="RANK, LOCAL_RANK, WORLD_SIZE",
    )


def _from_slurm(environ: Mapping[str, str]) -> Place:
    """The ranks meet where MASTER_ADDR and MASTER_PORT say, else on the step's first node, where task 0 runs.

    Not at SLURM_LAUNCH_NODE_IPADDR: that is where srun was called, which may be a login node.
    """
    _require(environ, _SLURM_NAMES)
    world_size, job_tasks = _integer(environ, "SLURM_STEP_NUM_TASKS"), environ.get("SLURM_NTASKS")
    if job_tasks is not None and job_tasks != str(world_size):
        raise RankEnvironmentError(
            f"SLURM_STEP_NUM_TASKS={world_size}, but SLURM_NTASKS={job_tasks}: the SLURM_STEP_* variables come from "
            "another step, as when a job is submitted from inside one. Unset SLURM_STEP_ID, or start with srun"
        )
    return _checked(
        rank=_integer(environ, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_integer(environ, "SLURM_LOCALID"),
        master_address=environ.get("MASTER_ADDR") or _first_host(environ["SLURM_STEP_NODELIST"]),
        master_port=_integer(environ, "MASTER_PORT") if "MASTER_PORT" in environ else _slurm_port(environ),
        names="SLURM_PROCID, SLURM_LOCALID, SLURM_STEP_NUM_TASKS",
    )


def _slurm_port(environ: Mapping[str, str]) -> int:
    """The same on every task of a step, and another one for every other step that may share the node."""
    step = 1_000 * _integer(environ, "SLURM_JOB_ID") + _integer(environ, "SLURM_STEP_ID")
    return _FIRST_SLURM_PORT + step % _NUM_SLURM_PORTS


def _checked(
    *, rank: int, world_size: int, local_rank: int, master_address: str, master_port: int, names: str
) -> Place:
    # Ranks of one machine are numbered in the order of their ranks, so no local rank is above its rank.
    if not 0 <= local_rank <= rank < world_size:
        raise RankEnvironmentError(
            f"{names} contradict each other: rank {rank}, local rank {local_rank}, world size {world_size}; "
            "0 <= local rank <= rank < world size holds in every job. Unset them, or set all of them"
        )
    if not master_address or not 0 < master_port < 65_536:
        raise RankEnvironmentError(
            f"MASTER_ADDR={master_address} and MASTER_PORT={master_port} are no place to meet; give the address of "
            "rank 0's machine and a port from 1 to 65535"
        )
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        master_address=master_address,
        master_port=master_port,
    )


def _require(environ: Mapping[str, str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in environ]
    if missing:
        present = [name for name in names if name in environ]
        raise RankEnvironmentError(
            f"{', '.join(present)} set, but not {', '.join(missing)}: one rank of a job, but which? "
            "Start it with torchrun or srun, which set all of them, or unset them to start the ranks from here"
        )


def _integer(environ: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", environ[name]):
        raise RankEnvironmentError(f"{name}={environ[name]!r} is not a whole number; unset it or set it to one")
    return int(environ[name])


def _first_host(nodelist: str) -> str:
    """`gpu[003-128],login1` -> `gpu003`; several brackets each give their first number."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodelist)
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", first[0] if first else "")
