"""Packages the overlay: a folder of its own in site-packages, and a ``.pth`` line that puts it before upstream's verl.

``pip install .`` makes ``import verl`` this fork everywhere, Ray workers included; ``pip uninstall knapsack-rl`` gives
upstream's verl back. No file of upstream is touched.
"""

import runpy
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CARRIER = "knapsack_rl_overlay"
CARRIER_SOURCE = '''"""Puts the Knapsack RL overlay first on the path; imported by knapsack_rl.pth at start-up."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
'''


def core_requirements() -> list[str]:
    lines = (ROOT / "requirements" / "core.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


class BuildOverlay(build_py):
    """Adds the package that carries the overlay, and the ``.pth`` file that imports it at start-up."""

    def run(self) -> None:
        super().run()
        library = Path(self.build_lib)
        (library / CARRIER / "__init__.py").write_text(CARRIER_SOURCE)
        (library / "knapsack_rl.pth").write_text(f"import {CARRIER}\n")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        library = Path(self.build_lib)
        added = [library / CARRIER / "__init__.py", library / "knapsack_rl.pth"]
        return [*super().get_outputs(include_bytecode), *map(str, added)]


if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"Knapsack RL needs Python 3.10, 3.11 or 3.12, and this is {sys.version.split()[0]}.")

if {"editable_wheel", "develop"} & set(sys.argv):
    # It would link a package that lacks what BuildOverlay adds, and without a word.
    sys.exit("Knapsack RL has no editable installation: run from the checkout, or use `pip install .`.")

setup(
    name="knapsack-rl",
    version=runpy.run_path(str(ROOT / "knapsack_rl" / "version.py"))["__version__"],
    description="Knapsack RL: verl 0.5 with a trainer that decides how many rollouts each prompt gets",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=[f"{CARRIER}.{package}" for package in find_packages(str(ROOT), include=["verl", "verl.*"])],
    package_dir={f"{CARRIER}.verl": "verl"},
    package_data={"": ["*.yaml"]},
    install_requires=core_requirements(),
    cmdclass={"build_py": BuildOverlay},
)
