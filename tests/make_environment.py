"""The environment in which a test calls make, whoever called the test."""

from __future__ import annotations

import os

# A make that runs the tests hands these on; a make below it would print its folder and take over the settings.
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKEFILES")


def environment_without_make(*settings: str) -> dict[str, str]:
    """``os.environ`` without what a calling make left in it, and without the named settings of the Makefile."""
    return {name: value for name, value in os.environ.items() if name not in (*OF_MAKE, *settings)}
