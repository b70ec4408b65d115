"""A run to stand in from a script: how leaving it, in every way, is told in its folder. In real processes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mai
from mai.checkpoint.save import PendingSave
from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.corpus import changed
from tests.ranks import on_ranks


def small(prepared: Recipe) -> Recipe:
    return changed(
        prepared,
        model={"num_layers": 1},
        parallel={"micro_batch_sequences": 1},
        train={"batch_tokens": 128, "steps": 12},
        evaluate={"sequences": 2},
    )


def leave_at_2(_: Place, recipe: Recipe, folder: Path) -> list[int]:
    with mai.open_run(recipe, folder, device="cpu") as run:
        for result in run.steps():
            if result.step == 2:
                break
    return [run.state.step, int(run.exit_code)]


def fail_at_2(_: Place, recipe: Recipe, folder: Path) -> str:
    try:
        with mai.open_run(recipe, folder, device="cpu") as run:
            for result in run.steps():
                if result.step == 2:
                    raise ValueError("a mistake in the script")
    except ValueError as error:
        return str(error)
    return ""


def fail_and_open_again(place: Place, recipe: Recipe, folder: Path) -> list[int]:
    fail_at_2(place, recipe, folder)
    return leave_at_2(place, recipe, folder)


def take_no_step(_: Place, recipe: Recipe, folder: Path) -> int:
    with mai.open_run(recipe, folder, device="cpu") as run:
        return run.state.step


def save_thrice_the_first_time_slowly(_: Place, recipe: Recipe, folder: Path) -> None:
    from mai.train import saver

    begin_save, slow = saver.begin_save, [0.3]

    def late(*given: Any) -> PendingSave:
        time.sleep(slow.pop() if slow else 0.0)
        return begin_save(*given)

    saver.begin_save = late
    with mai.open_run(changed(recipe, checkpoint={"every_steps": 4}), folder, device="cpu") as run:
        list(run.steps())


def in_a_process(work: Callable[..., object], prepared: Recipe, folder: Path) -> object:
    return on_ranks(1, work, small(prepared), folder)[0]


def committed(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_who_leaves_the_loop_early_leaves_a_checkpoint(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_a_process(leave_at_2, prepared, folder) == [2, 87]
    assert committed(folder) == ["step-0000000002"]
    terminal = RunFolder(folder).read_terminal(1)
    assert terminal is not None
    assert (terminal.code, terminal.step, terminal.last_committed_step) == (87, 2, 2)


def test_an_error_in_the_script_saves_nothing_and_lets_go_of_the_folder(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_a_process(fail_and_open_again, prepared, folder) == [2, 87]
    assert RunFolder(folder).last_attempt() == 2
    assert committed(folder) == ["step-0000000002"]


def test_an_error_in_the_script_leaves_word_of_where_it_happened(prepared: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert in_a_process(fail_at_2, prepared, folder.path) == "a mistake in the script"
    terminal, status = folder.read_terminal(1), folder.read_json("status.json")
    assert terminal is not None
    assert status is not None
    assert (terminal.code, terminal.step, terminal.last_committed_step) == (1, 2, None)
    assert 'raise ValueError("a mistake in the script")' in terminal.evidence
    assert (status["phase"], status["step"]) == ("crash", 2)
    assert committed(folder.path) == []


def test_an_event_says_how_long_its_own_save_took(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    in_a_process(save_thrice_the_first_time_slowly, prepared, folder)
    events = RunFolder(folder).read_events(1)
    first, *later = [event["seconds"] for event in events if event["kind"] == "checkpoint committed"]
    assert len(later) == 2
    assert first >= 0.3
    assert min(later) < first


def test_a_run_that_takes_no_step_saves_nothing(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_a_process(take_no_step, prepared, folder) == 0
    assert committed(folder) == []
