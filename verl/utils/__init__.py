"""Overlay of ``verl.utils``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.utils.config import omega_conf_to_dataclass  # noqa: E402  (needs __path__)
from verl.utils.tokenizer import hf_processor, hf_tokenizer  # noqa: E402

__all__ = ["hf_tokenizer", "hf_processor", "omega_conf_to_dataclass"]
