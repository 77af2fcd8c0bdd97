"""Which checkpoints count as whole, and what is tried when one is damaged."""

import logging

import pytest

from knapsack_rl.run_folder import read_json, write_atomically
from verl.utils.checkpoint_state import (
    CheckpointError,
    latest_usable_checkpoint,
    mark_complete,
    mark_incomplete,
    remove_superseded,
    step_of,
    whole_checkpoints,
)


def make_checkpoint(run_folder, step, complete=True, with_actor=True):
    folder = run_folder / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True) if with_actor else folder.mkdir(parents=True)
    if complete:
        mark_complete(folder)
    return folder


def steps(folders):
    return [step_of(folder) for folder in folders]


def test_whole_checkpoints_are_marked_or_tracked_and_hold_weights(tmp_path):
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 12, complete=False)
    make_checkpoint(tmp_path, 14, with_actor=False)
    (tmp_path / "global_step_old").mkdir()
    assert steps(whole_checkpoints(tmp_path)) == [10, 2]
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("12")
    assert steps(whole_checkpoints(tmp_path)) == [12, 10, 2]


@pytest.mark.parametrize("tracker", ["", "twelve"])
def test_a_half_written_tracker_does_not_hide_marked_checkpoints(tmp_path, tracker):
    make_checkpoint(tmp_path, 10)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    assert steps(whole_checkpoints(tmp_path)) == [10]


def test_falls_back_past_damaged_checkpoints_and_names_them(tmp_path, caplog):
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)
    with caplog.at_level(logging.WARNING):
        chosen = latest_usable_checkpoint(
            tmp_path, lambda folder, previous_step: "its status is truncated" if previous_step > 0 else None
        )
    assert step_of(chosen) == 2
    assert [("global_step_6" in line, "truncated" in line) for line in caplog.messages] == [(True, True), (False, True)]
    assert latest_usable_checkpoint(tmp_path / "nothing", lambda folder, previous_step: None) is None


def test_does_not_start_over_when_no_checkpoint_is_usable(tmp_path):
    make_checkpoint(tmp_path, 2)
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints.*resume_mode=disable"):
        latest_usable_checkpoint(tmp_path, lambda folder, previous_step: "damaged")


def test_state_is_replaced_whole(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, '{"epoch": 1}')
    write_atomically(path, '{"epoch": 2}')
    assert read_json(path) == {"epoch": 2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_state_is_named(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="state.json is damaged"):
        read_json(path)


def test_a_checkpoint_that_is_written_again_is_not_whole_until_it_is_marked(tmp_path):
    make_checkpoint(tmp_path, 2)
    folder = make_checkpoint(tmp_path, 4)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("4")
    mark_incomplete(folder)
    assert steps(whole_checkpoints(tmp_path)) == [2]
    mark_complete(folder)
    assert steps(whole_checkpoints(tmp_path)) == [4, 2]


def with_weights(run_folder, part="actor"):
    return sorted(step_of(folder.parent) for folder in run_folder.glob(f"global_step_*/{part}"))


def test_superseded_weights_are_removed_and_what_is_left_of_them_is_not_whole(tmp_path):
    for step in (2, 4, 6, 8):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 3, complete=False)
    remove_superseded(tmp_path, 8, {"actor": 2})
    assert with_weights(tmp_path) == [6, 8] == sorted(steps(whole_checkpoints(tmp_path)))


@pytest.mark.parametrize("keep", [None, 0, 3, 4])
def test_nothing_is_removed_while_there_are_not_more_than_to_keep(tmp_path, keep):
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)
    remove_superseded(tmp_path, 6, {"actor": keep})
    assert with_weights(tmp_path) == [2, 4, 6]


def test_checkpoints_after_the_step_that_a_run_was_resumed_at_are_left_alone(tmp_path):
    for step in (2, 4, 6, 20, 40):
        make_checkpoint(tmp_path, step)
    remove_superseded(tmp_path, 6, {"actor": 1})
    assert with_weights(tmp_path) == [6, 20, 40]


def test_actor_and_critic_are_kept_for_as_long_as_each_is_configured(tmp_path):
    for step in (2, 4, 6, 8):
        (make_checkpoint(tmp_path, step) / "critic").mkdir()
        remove_superseded(tmp_path, step, {"actor": 3, "critic": 1})
    assert with_weights(tmp_path, "actor") == [4, 6, 8]
    assert with_weights(tmp_path, "critic") == [8]
