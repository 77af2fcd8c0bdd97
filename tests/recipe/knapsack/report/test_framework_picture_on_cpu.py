"""The picture of how a step works shows what the allocator really does."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from knapsack_rl import knapsack_allocate

PICTURE = Path(__file__).parents[4] / "images" / "framework.svg"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing():
    return ElementTree.parse(PICTURE).getroot()


def texts(drawing, kind):
    return [float(element.text) for element in drawing.iter(f"{SVG}text") if element.get("class") == kind]


def test_budgets_are_the_allocation_of_the_rates_beside_them(drawing):
    rates, budgets = texts(drawing, "rate"), texts(drawing, "budget")
    allocation = knapsack_allocate(np.array(rates), total_budget=8 * len(rates), n_low=2, n_up=128)
    assert budgets == allocation.budgets.tolist()


def test_bars_are_as_long_as_the_budgets(drawing):
    bars = [element for element in drawing.iter(f"{SVG}rect") if element.get("class") == "bar"]
    even = next(element for element in drawing.iter(f"{SVG}path") if element.get("class") == "even")
    start = float(bars[0].get("x"))
    per_rollout = (float(even.get("d").split("V")[0].removeprefix("M").split()[0]) - start) / 8
    assert [float(bar.get("width")) / per_rollout for bar in bars] == texts(drawing, "budget")
    assert {float(bar.get("x")) for bar in bars} == {start}
