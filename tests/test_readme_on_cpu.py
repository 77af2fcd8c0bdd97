"""What README and docs say of the code is true of the code."""

from __future__ import annotations

import doctest
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import yaml
from documentation import PAGES, ROOT, anchors, prose
from omegaconf import OmegaConf

from knapsack_rl import (
    ExplorationConfig,
    Explorer,
    Outcomes,
    TrainingState,
    knapsack_allocate,
    resolve_value_function,
)
from knapsack_rl.config import DynamicSamplingConfig, ReviewConfig, SuccessRateConfig
from knapsack_rl.presets import PRESETS, preset_value
from knapsack_rl.value_checks import check_value
from recipe.knapsack.report.metric_table import with_metric_table

README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
METRICS = (ROOT / "docs/metrics.md").read_text()
RESULTS = (ROOT / "docs/results.md").read_text()
EXTENDING = (ROOT / "docs/extending.md").read_text()

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# --- The README -------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_begins_with_the_status():
    assert len(README.splitlines()) <= 180
    assert re.findall(r"^## (.+)$", README, re.MULTILINE)[0] == "Status"


def test_the_readme_leads_to_every_page():
    assert {f"docs/{page.name}" for page in PAGES if page.parent == ROOT / "docs"} <= set(links(ROOT / "README.md"))


def test_the_comparison_in_the_readme_is_that_of_the_results():
    def cells(text):
        return [
            [cell.strip(" *`") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
        ]

    worlds = RESULTS[RESULTS.index("<!-- worlds: begin -->") : RESULTS.index("<!-- worlds: end -->")]
    measured = {row[0]: row for row in cells(worlds)}
    claimed = cells(README[README.index("**Why.**") : README.index("**What speaks against it.**")])[2:]
    assert len(claimed) == 3
    for method, accuracy, difference, wins, cost in claimed:
        row = measured[method]
        assert [accuracy, difference, wins] == row[2:5]
        assert method == "GRPO" or cost == f"{row[9]} ({row[12]} worlds)"


def test_the_keys_that_matter_have_their_defaults():
    section = README[README.index("## The eight keys that matter") : README.index("## Where to read on")]
    keys = re.findall(r"^\| `([\w.]+)` \| (?:`([^`]*)`)? *\|", section, re.MULTILINE)
    assert len(keys) == 8
    table = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", CONFIGURATION, re.MULTILINE))
    assert {key: default for key, default in keys if default} == {key: table[key] for key, _ in keys if key in table}
    assert [key for key, default in keys if not default] == ["actor_rollout_ref.rollout.n"]


# --- Tables that the code has -----------------------------------------------------------------------------------------


def test_the_metric_table_is_that_of_the_code():
    assert with_metric_table(METRICS) == METRICS, "run: python -m recipe.knapsack.metric_table docs/metrics.md"


def test_every_exploration_key_is_in_the_configuration_table_with_its_default():
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer").exploration
    sections = [
        ("", ExplorationConfig),
        ("success_rate.", SuccessRateConfig),
        ("review.", ReviewConfig),
        ("dynamic_sampling.", DynamicSamplingConfig),
    ]
    for prefix, section in sections:
        for field in fields(section):
            if field.name in ("success_rate", "review", "dynamic_sampling"):
                continue
            key = f"exploration.{prefix}{field.name}"
            row = re.search(rf"^\| `{re.escape(key)}` \| `([^`]*)` \|", CONFIGURATION, re.MULTILINE)
            assert row, f"{key} is not in the table of docs/configuration.md"
            value = config[prefix.rstrip(".")][field.name] if prefix else config[field.name]
            default = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
            assert row.group(1) == default, f"{key}: the table says {row.group(1)}, the default is {default}"


def leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by their full keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_the_configuration_table_has_the_keys_that_are_not_upstreams_and_no_other():
    ours = yaml.safe_load((ROOT / "verl/trainer/config/knapsack_trainer.yaml").read_text())
    del ours["defaults"], ours["hydra"]
    with hydra.initialize_config_module("verl.upstream.trainer.config", version_base=None):
        upstreams = leaves(OmegaConf.to_container(hydra.compose("ppo_trainer"), resolve=False))
    added = {key: value for key, value in leaves(ours).items() if key not in upstreams}
    for key in PRESETS[added["exploration.preset"]]:
        assert added[key] == f"${{preset:{key}}}"
        added[key] = preset_value(added["exploration.preset"], key)
    assert {"exploration.n_up", "algorithm.adv_clip"} <= set(added) and "algorithm.adv_estimator" not in added
    table = dict(re.findall(r"^\| `(\w+\.[\w.]+)` \| `([^`]*)` \|", CONFIGURATION, re.MULTILINE))
    assert {key: yaml.safe_load(default) for key, default in table.items()} == added


# --- Links, paths and examples ----------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    """What a page links to and shows, but for the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(page))
    return [link or shown for link, shown in targets if "://" not in (link or shown)]


@each_page
def test_every_link_leads_to_a_file_and_an_anchor_that_exist(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@each_page
def test_every_file_of_the_project_that_a_page_names_exists(page):
    named = re.findall(
        r"`((?:knapsack_rl|verl|recipe|examples|tests|docs|images|requirements|\.ci)/[\w./-]*)", prose(page)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_every_command_of_a_recipe_exists(page):
    modules = set(re.findall(r"python3? -m (recipe\.[\w.]+)", " ".join(page.read_text().split())))
    # A package is a command by its `__main__`, which is what `python -m` runs of it.
    commands = {name: find_spec(name) for name in modules}
    lacking = [
        name
        for name, spec in commands.items()
        if spec is None or (spec.submodule_search_locations and find_spec(f"{name}.__main__") is None)
    ]
    assert lacking == []


@each_page
def test_every_python_session_gives_what_the_page_shows(page):
    sessions = [block for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if ">>>" in block]
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for session in sessions:
        runner.run(parser.get_doctest(session, {}, page.name, str(page), 0))
    assert runner.failures == 0


def python_block(text: str, begin: str) -> str:
    return re.search(rf"```python\n({re.escape(begin)}.*?)```", text, re.S)[1]


def test_the_value_function_of_the_documentation_can_be_used():
    names: dict[str, Any] = {}
    exec(python_block(EXTENDING, "# my_values.py"), names)
    budgets = knapsack_allocate([0.05, 0.5, 0.9], 24, value=names["solved_at_least_once"]).budgets
    assert budgets.sum() == 24 and budgets[0] > budgets[1] > budgets[2]


def test_the_value_function_of_beliefs_of_the_documentation_decides():
    names = {}
    exec(python_block(EXTENDING, "# my_beliefs.py"), names)
    value = resolve_value_function(names["more_for_the_uncertain"])
    beliefs = np.array([1.0, 10.0]), np.array([1.0, 10.0])
    check_value(value, 2, 128)
    budgets = knapsack_allocate(None, 24, value=value.for_state(TrainingState()), beliefs=beliefs).budgets
    assert budgets.sum() == 24 and budgets[0] > budgets[1]


def test_the_history_of_the_documentation_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Explorer(ExplorationConfig(), rollouts_per_prompt=2).plan(["a", "b"], epoch=0, step=1)
    success = np.array([True, False, True, True])
    names = {
        "plan": plan,
        "outcomes": Outcomes(plan.order, success * 1.0, success, success, np.ones(4)),
        "step": 1,
    }
    exec(python_block(EXTENDING, "from knapsack_rl.history"), names)
    assert names["read_history"]("runs/mine/history").to_pandas()["budget"].tolist() == [2, 2]
