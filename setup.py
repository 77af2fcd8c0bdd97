"""Packages three things: `knapsack_rl`, the method; the overlay for verl 0.5; `knapsack_verl09`, the plug-in for 0.9.

``pip install .`` gives ``import knapsack_rl``, which needs NumPy and SciPy. ``pip install '.[verl05]'`` adds what the
overlay needs, and ``import verl`` is then this fork everywhere, Ray workers included: the overlay lies in a folder of
its own in site-packages, and a ``.pth`` line puts it before upstream's verl where that is 0.5.x. ``pip uninstall
knapsack-rl`` gives upstream's verl back. No file of upstream is touched.
"""

import runpy
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CARRIER = "knapsack_rl_overlay"
CARRIER_SOURCE = '''"""Puts the Knapsack RL overlay first on the path, beside verl 0.5; imported at start-up."""

import os
import sys


def _installed_verl():
    for folder in [os.path.dirname(os.path.dirname(__file__)), *sys.path]:
        try:
            with open(os.path.join(folder, "verl", "version", "version")) as version:
                return version.read().strip()
        except OSError:
            continue
    return ""


if _installed_verl().startswith("0.5."):
    sys.path.insert(0, os.path.dirname(__file__))
'''


def requirements_in(file: str) -> list[str]:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
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


if {"editable_wheel", "develop"} & set(sys.argv):
    # It would link a package that lacks what BuildOverlay adds, and without a word.
    sys.exit("Knapsack RL has no editable installation: run from the checkout, or use `pip install .`.")

setup(
    name="knapsack-rl",
    version=runpy.run_path(str(ROOT / "knapsack_rl" / "version.py"))["__version__"],
    description="Knapsack RL: how many rollouts each prompt gets in RL for LLMs; with a trainer on verl 0.5",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(str(ROOT), include=["knapsack_rl", "knapsack_rl.*", "knapsack_verl09*"]),
        *(f"{CARRIER}.{package}" for package in find_packages(str(ROOT), include=["verl", "verl.*"])),
    ],
    package_dir={f"{CARRIER}.verl": "verl"},
    package_data={"": ["*.yaml", "py.typed"], "knapsack_verl09.config": ["*/*.yaml"]},
    install_requires=["numpy>=1.26", "scipy>=1.11"],
    extras_require={
        "verl05": requirements_in("core.txt"),
        "verl09": requirements_in("verl09.txt"),
        "history": ["pyarrow>=14"],
        "charts": ["matplotlib>=3.8", "wandb>=0.17"],
        "dynamic": ["numba>=0.59"],
    },
    cmdclass={"build_py": BuildOverlay},
)
