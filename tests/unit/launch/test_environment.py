"""Who am I? What torchrun and Slurm say, and what they only seem to say."""

import pytest

from launch.environment import Place, RankEnvironmentError, rank_from_environment
from mai.errors import ExitCode

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
# The following three are what Slurm 22.05 set, as far as it matters here.
SRUN_TASK = {
    "SLURM_JOB_ID": "41",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
}
BATCH_SHELL = {
    "ENVIRONMENT": "BATCH",
    "SLURM_JOB_ID": "41",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
}
SHELL_OF_ONE_TASK = {
    **SRUN_TASK,
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PTY_PORT": "39113",
}
LATER_INTERACTIVE_STEP = {**SHELL_OF_ONE_TASK, "SLURM_STEP_ID": "4294967290"}


def test_torchrun_says_which_rank() -> None:
    place = Place(rank=5, world_size=8, local_rank=1, master_address="10.0.0.1", master_port=29500)
    assert rank_from_environment(TORCHRUN) == place
    assert rank_from_environment(place.to_environment()) == place


def test_torchrun_inside_a_slurm_step_goes_first() -> None:
    started = TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}
    assert rank_from_environment(SRUN_TASK | started) == rank_from_environment(TORCHRUN)


def test_what_a_batch_script_exported_makes_no_task_another_rank() -> None:
    of_another = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    with pytest.raises(RankEnvironmentError, match=r"RANK=0, LOCAL_RANK=0, but srun says rank 3 of 4, local rank 1"):
        rank_from_environment(SRUN_TASK | of_another)
    of_itself = {"RANK": "3", "LOCAL_RANK": "1"}
    assert rank_from_environment(SRUN_TASK | of_itself) == rank_from_environment(SRUN_TASK)


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    emptied = {"MASTER_ADDR": "", "MASTER_PORT": "", "RANK": "", "WORLD_SIZE": ""}
    assert rank_from_environment(SRUN_TASK | emptied) == rank_from_environment(SRUN_TASK)
    assert rank_from_environment(emptied) is None


def test_a_task_of_srun_is_a_rank_and_meets_the_others_on_the_first_node() -> None:
    place = rank_from_environment(SRUN_TASK)
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.master_address) == (3, 4, 1, "n1")


def test_a_task_of_srun_meets_where_the_user_says() -> None:
    place = rank_from_environment(SRUN_TASK | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"})
    assert place is not None
    assert (place.master_address, place.master_port) == ("10.0.0.7", 1234)


def test_tasks_of_a_step_share_a_port_that_neighbouring_jobs_and_steps_do_not() -> None:
    tasks = [rank_from_environment(SRUN_TASK | {"SLURM_PROCID": rank, "SLURM_LOCALID": "0"}) for rank in "0123"]
    assert len({task.master_port for task in tasks if task}) == 1
    steps = [{"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)} for job in range(700, 760) for step in range(20)]
    ports = [place.master_port for step in steps if (place := rank_from_environment(SRUN_TASK | step))]
    assert len(set(ports)) > 0.9 * len(ports)
    assert 20_000 <= min(ports) <= max(ports) < 30_000


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("login", "login"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[003-128]", "gpu003"),
        ("gpu[003,007-9],cpu1", "gpu003"),
        ("rack[2-3]node[01-10]-ib,x", "rack2node01-ib"),
        ("node-a.example.org,node-b.example.org", "node-a.example.org"),
    ],
)
def test_the_first_node_of_a_list(nodelist: str, first: str) -> None:
    place = rank_from_environment(SRUN_TASK | {"SLURM_STEP_NODELIST": nodelist})
    assert place is not None
    assert place.master_address == first


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
        BATCH_SHELL,
        SHELL_OF_ONE_TASK,
        LATER_INTERACTIVE_STEP,
        # sbatch called from inside `srun --pty bash` hands the shell's SLURM_STEP_* on to the batch shell.
        SHELL_OF_ONE_TASK | BATCH_SHELL,
    ],
    ids=["plain", "meeting place only", "batch", "srun --pty", "salloc", "batch submitted from srun --pty"],
)
def test_a_shell_is_not_a_rank(environ: dict[str, str]) -> None:
    assert rank_from_environment(environ) is None


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RANK": "0"}, "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "8"}, "RANK, LOCAL_RANK"),
        ({"LOCAL_RANK": "0"}, "RANK, WORLD_SIZE"),
        (TORCHRUN | {"RANK": "8"}, "rank 8.*world size 8"),
        (TORCHRUN | {"LOCAL_RANK": "6"}, "local rank 6"),
        (TORCHRUN | {"WORLD_SIZE": "0", "RANK": "0", "LOCAL_RANK": "0"}, "world size 0"),
        (TORCHRUN | {"RANK": "first"}, "RANK='first'"),
        (TORCHRUN | {"RANK": "-1"}, "RANK='-1'"),
        (TORCHRUN | {"RANK": ""}, "set, but not RANK"),
        (TORCHRUN | {"WORLD_SIZE": "8.0"}, r"WORLD_SIZE='8\.0'"),
        (TORCHRUN | {"MASTER_PORT": "0"}, "MASTER_PORT=0"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        (TORCHRUN | {"MASTER_ADDR": ""}, "set, but not MASTER_ADDR"),
        (SRUN_TASK | {"SLURM_PROCID": "4"}, "rank 4"),
        (SRUN_TASK | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS"),
        ({name: value for name, value in SRUN_TASK.items() if name != "SLURM_STEP_NUM_TASKS"}, "SLURM_STEP_NUM_TASKS"),
        ({name: value for name, value in SRUN_TASK.items() if name != "SLURM_PROCID"}, "SLURM_PROCID"),
        (SRUN_TASK | BATCH_SHELL, "SLURM_STEP_NUM_TASKS=4, but SLURM_NTASKS=8"),
    ],
)
def test_half_a_place_is_a_mistake_that_names_its_variables(environ: dict[str, str], named: str) -> None:
    with pytest.raises(RankEnvironmentError, match=named) as raised:
        rank_from_environment(environ)
    assert raised.value.code is ExitCode.CONFIG
