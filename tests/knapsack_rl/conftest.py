"""In the bare environment, a test that needs an optional package is skipped, and says which."""

import os

import pytest

OPTIONAL = ("matplotlib", "numba", "pyarrow", "wandb")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if os.environ.get("KNAPSACK_RL_BARE") and error.name in OPTIONAL:
            pytest.skip(f"needs {error.name}")
        raise
