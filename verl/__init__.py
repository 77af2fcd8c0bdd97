"""Knapsack RL: verl 0.5 with a trainer that decides how many rollouts each prompt gets.

This package is an overlay. It holds only the modules that differ from verl 0.5; every other ``verl.X`` resolves to the
verl that is installed, because ``__path__`` lists this folder first and the installed one second. Overlaid modules
reach the ones they replace through :mod:`verl.upstream`.
"""

import os
from importlib import import_module
from logging import WARNING
from pathlib import Path
from pkgutil import extend_path

REQUIRED_UPSTREAM = "0.5"
INSTALL_COMMAND = "pip install 'verl==0.5.0'"


def _find_upstream(candidates: list[str]) -> Path:
    """Return the folder of the installed verl among ``candidates``, the folders named verl on ``sys.path``.

    Raises:
        ImportError: verl is not installed, or the one installed is not 0.5.x.
    """
    installed = [Path(folder) for folder in candidates if not (Path(folder) / "upstream" / "__init__.py").exists()]
    installed = [folder for folder in installed if (folder / "version" / "version").exists()]
    if not installed:
        raise ImportError(
            f"Knapsack RL extends verl {REQUIRED_UPSTREAM}.x, and no verl is installed. Install it: {INSTALL_COMMAND}"
        )
    found = (installed[0] / "version" / "version").read_text().strip()
    if found.split(".")[:2] != REQUIRED_UPSTREAM.split("."):
        raise ImportError(
            f"Knapsack RL extends verl {REQUIRED_UPSTREAM}.x, and verl {found} is installed in {installed[0]}. "
            f"Install the right one: {INSTALL_COMMAND}"
        )
    return installed[0]


OVERLAY_FOLDER = Path(__file__).resolve().parent
UPSTREAM_FOLDER = _find_upstream(list(extend_path(__path__, __name__)))
__path__ = [str(OVERLAY_FOLDER), str(UPSTREAM_FOLDER)]
__version__ = (UPSTREAM_FOLDER / "version" / "version").read_text().strip()

from verl.protocol import DataProto  # noqa: E402  (needs __path__)
from verl.utils.device import is_npu_available  # noqa: E402
from verl.utils.logging_utils import set_basic_config  # noqa: E402

__all__ = ["DataProto", "__version__"]

set_basic_config(level=WARNING)

if os.getenv("VERL_USE_MODELSCOPE", "false").lower() == "true":
    import_module("modelscope.utils.hf_util").patch_hub()

if is_npu_available:
    import_module("verl.models.transformers.npu_patch")
