"""A run to stand in from a script: how leaving it, in every way, is told in its folder. In real processes."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mai
from mai.checkpoint.save import PendingSave
from mai.errors import MaiError, RecipeError, UsageError
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


def log_and_fail_before_update(_: Place, recipe: Recipe, folder: Path) -> str:
    def look(gradients: Any) -> None:
        run.log({"mine": gradients.step})
        if gradients.step == 3:
            raise ValueError("a mistake before the update")

    try:
        with mai.open_run(recipe, folder, device="cpu") as run:
            list(run.steps(before_update=look))
    except ValueError as error:
        return str(error)
    return ""


def go_on_after_an_error_of_a_step(_: Place, recipe: Recipe, folder: Path) -> list[str]:
    """What is refused after the end."""

    def look(_: Any) -> None:
        run.log({"before": 1})
        raise ValueError("a mistake before the update")

    with mai.open_run(recipe, folder, device="cpu") as run:
        with contextlib.suppress(ValueError):
            list(run.steps(before_update=look))
        run.log({"after": 2})
    return [refusal(lambda: run.log({"late": 3})), refusal(lambda: list(run.steps()))]


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


def leave_at_2_and_run_dry(place: Place, recipe: Recipe, folder: Path) -> None:
    from mai.train.run import running

    leave_at_2(place, recipe, folder)
    with running(recipe, RunFolder(folder), place=place, device="cpu", dry_run=True) as run:
        assert list(run.steps()) == []


def finish_and_run_dry(place: Place, recipe: Recipe, folder: Path) -> None:
    from mai.train.run import running

    for dry_run in (False, True):
        with running(recipe, RunFolder(folder), place=place, device="cpu", dry_run=dry_run) as run:
            list(run.steps())


def open_it(_: Place, recipe: Recipe, folder: Path) -> list[str]:
    """What is wrong with it."""
    try:
        with mai.open_run(recipe, folder, device="cpu"):
            return []
    except RecipeError as error:
        return list(error.violations)


def fail_to_describe(_: Place, recipe: Recipe, folder: Path) -> list[str]:
    """Names of threads that are left."""
    from mai.train.recorder import Recorder

    def refuse(*_: Any) -> str:
        raise OSError("the disk is full")

    before = set(threading.enumerate())
    Recorder._describe = refuse  # type: ignore[method-assign]
    with contextlib.suppress(OSError, MaiError), mai.open_run(recipe, folder, device="cpu"):
        pass
    return [thread.name for thread in threading.enumerate() if thread not in before]


def save_beside_training(_: Place, recipe: Recipe, folder: Path) -> list[int]:
    """Which saves were begun, where `poll` waits for none."""
    from mai.train import saver

    begin_save, begun = saver.begin_save, list[int]()

    def note(shards: Any, progress: Any, context: Any) -> PendingSave:
        begun.append(progress.step)
        return begin_save(shards, progress, context)

    saver.begin_save = note
    polls = itertools.count()
    # A step later than it was begun.
    saver.Saver.poll = lambda self: self.finish() if next(polls) % 4 == 0 else None  # type: ignore[method-assign]
    with mai.open_run(changed(recipe, checkpoint={"every_steps": 4}), folder, device="cpu") as run:
        list(run.steps())
    return begun


def in_a_process(work: Callable[..., object], prepared: Recipe, folder: Path) -> Any:
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
    assert [event["code"] for event in RunFolder(folder).read_events(1) if event["kind"] == "ended"] == [87]


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
    assert (terminal.code, terminal.phase, terminal.step, terminal.last_committed_step) == (1, "training", 2, None)
    assert 'raise ValueError("a mistake in the script")' in terminal.evidence
    assert (status["phase"], status["step"], status["ended"]) == ("training", 2, "CRASH (1)")
    last = list(folder.read_events(1))[-1]
    assert (last["kind"], last["code"], last["name"], last["step"]) == ("ended", 1, "CRASH", 2)
    assert committed(folder.path) == []


def test_what_the_failing_step_logged_is_kept(prepared: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert in_a_process(log_and_fail_before_update, prepared, folder.path) == "a mistake before the update"
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["logged"] for line in lines if line["step"] == 3 and "logged" in line] == [{"mine": 3.0}]


def test_what_a_step_logged_whose_error_was_caught_is_kept_and_nothing_is_taken_after_the_end(
    prepared: Recipe, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    refused = in_a_process(go_on_after_an_error_of_a_step, prepared, folder.path)
    ended = "the run has ended; call it inside of the `with` block"
    assert refused == [f"run.log: {ended}", f"run.steps: {ended}"]
    (line,) = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert (line["step"], line["logged"]) == (1, {"before": 1.0, "after": 2.0})


def test_a_dry_run_of_an_unfinished_run_does_not_call_it_complete(prepared: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    in_a_process(leave_at_2_and_run_dry, prepared, folder.path)
    terminal, status = folder.read_terminal(2), folder.read_json("status.json")
    assert terminal is not None
    assert status is not None
    assert (terminal.code, terminal.phase, terminal.step) == (0, "dry run", 2)
    assert (status["phase"], status["step"]) == ("dry run", 2)


def test_a_dry_run_of_a_complete_run_leaves_it_complete(prepared: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    in_a_process(finish_and_run_dry, prepared, folder.path)
    status = folder.read_json("status.json")
    assert status is not None
    assert (status["phase"], status["step"], status["ended"]) == ("complete", 12, "COMPLETE (0)")


def test_checkpoints_that_nobody_accounts_for_are_left_alone(prepared: Recipe, tmp_path: Path) -> None:
    theirs = tmp_path / "run/checkpoints/.tmp-mine"
    theirs.mkdir(parents=True)
    (told,) = in_a_process(open_it, prepared, tmp_path / "run")
    assert "no recipe.json beside it says what they were trained by" in told
    assert theirs.is_dir()


def test_a_run_that_cannot_be_built_leaves_no_watcher_behind(prepared: Recipe, tmp_path: Path) -> None:
    assert in_a_process(fail_to_describe, prepared, tmp_path / "run") == []


def test_a_save_that_is_under_way_is_not_begun_again_and_the_end_waits_for_it(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_a_process(save_beside_training, prepared, folder) == [4, 8, 12]
    assert committed(folder)[-1] == "step-0000000012"
    terminal = RunFolder(folder).read_terminal(1)
    assert terminal is not None
    assert terminal.last_committed_step == 12


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
