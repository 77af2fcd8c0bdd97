"""The quickstart, two steps long: all methods through the real trainer, then the table and the picture."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from training_process import SMALL_RUN

from knapsack_rl.step_parts import list_parts
from recipe.knapsack.tiny import quickstart

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]


def test_the_quickstart(warm_start, few_prompts, tmp_path, monkeypatch, capsys):
    small = tuple(
        replace(method, overrides=(*method.overrides, *SMALL_RUN, few_prompts, "trainer.test_freq=2"))
        for method in quickstart.METHODS
    )
    monkeypatch.setattr(quickstart, "METHODS", small)
    monkeypatch.setattr(quickstart, "make_warm_start", lambda folder, settings: shutil.copytree(warm_start, folder))
    output = tmp_path / "quickstart"
    quickstart.main(["--output", str(output), "--steps", "2"])
    _, header, grpo, knapsack, recommended, *_, picture, view = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["held-out", "accuracy"]
    assert grpo.startswith("GRPO (8 each) ") and knapsack.startswith("Knapsack-GRPO ")
    assert recommended.startswith("recommended ")
    assert picture == f"Picture: {output / 'quickstart.png'}"
    assert view.endswith(" ".join(str(output / method.folder) for method in small))
    assert all(list_parts(output / method.folder / "rollouts") for method in small), "the viewer has rollouts to show"
    assert (output / "quickstart.png").read_bytes().startswith(b"\x89PNG")
