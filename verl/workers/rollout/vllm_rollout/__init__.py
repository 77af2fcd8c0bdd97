"""Overlay of ``verl.workers.rollout.vllm_rollout``: this fork's rollout by vLLM; the rest is the installed verl's."""

import os  # noqa: F401  (upstream's name)
from importlib.metadata import PackageNotFoundError, version  # noqa: F401  (upstream's names)
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.third_party.vllm import get_version  # noqa: E402  (needs __path__)
from verl.third_party.vllm import package_name as vllm_package_name  # noqa: E402
from verl.third_party.vllm import package_version as vllm_package_version  # noqa: E402
from verl.workers.rollout.vllm_rollout.engine_worker import vLLMAsyncRollout  # noqa: E402
from verl.workers.rollout.vllm_rollout.reproducible_rollout import vLLMRollout  # noqa: E402

__all__ = ["get_version", "vLLMAsyncRollout", "vLLMRollout", "vllm_package_name", "vllm_package_version"]
