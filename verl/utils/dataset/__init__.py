"""Overlay of ``verl.utils.dataset``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.utils.dataset.rl_dataset import RLHFDataset  # noqa: E402  (needs __path__)
from verl.utils.dataset.rm_dataset import RMDataset  # noqa: E402
from verl.utils.dataset.sft_dataset import SFTDataset  # noqa: E402

__all__ = ["RLHFDataset", "RMDataset", "SFTDataset"]
