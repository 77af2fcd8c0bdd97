"""Knapsack RL: verl 0.5 with a trainer that decides how many rollouts each prompt gets.

This package is an overlay. It holds only the modules that differ from verl 0.5; every other ``verl.X`` resolves to the
verl that is installed, because ``__path__`` lists this folder first and the installed one second. Overlaid modules
reach the ones they replace through :mod:`verl.upstream`.

Beside verl 0.9 it steps aside: ``import verl`` is then the installed verl, whatever is on the path, and
``knapsack_verl09`` is its plug-in.
"""

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from logging import WARNING
from pathlib import Path
from pkgutil import extend_path

REQUIRED_UPSTREAM = "0.5"
GIVES_WAY_TO = "0.9"
INSTALL_COMMAND = "pip install 'verl==0.5.0'"


def _find_upstream(candidates: list[str]) -> Path:
    """Return the folder of the installed verl among ``candidates``, the folders named verl on ``sys.path``.

    Raises:
        ImportError: verl is not installed, or the one installed is neither 0.5.x nor 0.9.x.
    """
    installed = [Path(folder) for folder in candidates if not (Path(folder) / "upstream" / "__init__.py").exists()]
    installed = [folder for folder in installed if (folder / "version" / "version").exists()]
    if not installed:
        raise ImportError(
            f"Knapsack RL extends verl {REQUIRED_UPSTREAM}.x, and no verl is installed. Install it: {INSTALL_COMMAND}"
        )
    found = _version_in(installed[0])
    if _series(found) not in (REQUIRED_UPSTREAM, GIVES_WAY_TO):
        raise ImportError(
            f"Knapsack RL extends verl {REQUIRED_UPSTREAM}.x, and verl {found} is installed in {installed[0]}. "
            f"Install the right one: {INSTALL_COMMAND}"
        )
    return installed[0]


def _version_in(folder: Path) -> str:
    return (folder / "version" / "version").read_text().strip()


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _give_way(folder: Path) -> None:
    """Make ``verl`` the package in ``folder``, as if this one were not on the path."""
    spec = spec_from_file_location(__name__, folder / "__init__.py", submodule_search_locations=[str(folder)])
    # The import system returns what stands under the name once this module has run.
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])


OVERLAY_FOLDER = Path(__file__).resolve().parent
UPSTREAM_FOLDER = _find_upstream(list(extend_path(__path__, __name__)))

if _series(_version_in(UPSTREAM_FOLDER)) == GIVES_WAY_TO:
    _give_way(UPSTREAM_FOLDER)
else:
    __path__ = [str(OVERLAY_FOLDER), str(UPSTREAM_FOLDER)]
    __version__ = _version_in(UPSTREAM_FOLDER)

    from verl.protocol import DataProto  # needs __path__
    from verl.utils.device import is_npu_available
    from verl.utils.logging_utils import set_basic_config

    __all__ = ["DataProto", "__version__"]

    set_basic_config(level=WARNING)

    if os.getenv("VERL_USE_MODELSCOPE", "false").lower() == "true":
        import_module("modelscope.utils.hf_util").patch_hub()

    if is_npu_available:
        import_module("verl.models.transformers.npu_patch")
