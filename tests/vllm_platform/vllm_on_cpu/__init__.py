"""A vLLM platform for tests: the CUDA wheel of vLLM 0.10.2 runs on a machine without a GPU.

vLLM finds it through an entry point (``vllm_on_cpu-1.dist-info``) wherever the folder above is on ``PYTHONPATH``.

What is vLLM's own: scheduler, prefix cache, sampler, model, LoRA, tensor parallelism, executors, servers. What is not:
attention, which is plain PyTorch here (:mod:`.attention`), and sleeping, which fills with NaN what a GPU would free
(:mod:`.worker`), so that whatever reads it is noticed.
"""


def find_platform() -> str:
    """Return the qualified name of the platform's class, as vLLM's entry point asks for it."""
    return "vllm_on_cpu.platform.PlainTorchPlatform"


def inspect_models_in_this_process() -> None:
    """Let vLLM look at a model's class where it is asked to, as its other entry point.

    It starts a process for that, so that CUDA is not initialized in this one, which takes every engine 8 seconds.
    """
    from vllm.model_executor.models import registry

    def inspect_model_cls(model: registry._LazyRegisteredModel) -> registry._ModelInfo:
        return registry._ModelInfo.from_model_cls(model.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspect_model_cls
