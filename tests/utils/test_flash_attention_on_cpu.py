"""A GPU without flash-attn: upstream's actor and critic import, and say what is missing when padding is removed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from verl.utils import flash_attention

pytestmark = pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")

# The modules look once, when they are imported, whether there is a GPU.
AS_ON_A_GPU = """
import sys
import verl.utils.device as device
device.is_cuda_available, device.get_device_name = True, lambda: "cuda"
from verl.utils import flash_attention
assert flash_attention.available_attention_implementation() == "sdpa"
flash_attention.import_actor_and_critic()
assert not [name for name in sys.modules if name.startswith("flash_attn")]
from verl.workers.actor.dp_actor import DataParallelPPOActor, unpad_input
from verl.workers.critic.dp_critic import DataParallelPPOCritic
unpad_input(None, None)
"""
BESIDE_FLASH_ATTENTION_4 = AS_ON_A_GPU.replace(
    """assert not [name for name in sys.modules if name.startswith("flash_attn")]""",
    """assert {name for name in sys.modules if name.startswith("flash_attn")} == {"flash_attn", "flash_attn.cute"}""",
)


@pytest.mark.slow
def test_the_actor_imports_and_names_what_is_missing_when_it_is_called():
    result = subprocess.run([sys.executable, "-c", AS_ON_A_GPU], capture_output=True, text=True, timeout=120)
    assert "ImportError: flash_attn.bert_padding.unpad_input" in result.stderr
    assert "use_remove_padding=false" in result.stderr


def install(folder: Path, *files: str) -> None:
    """Put an installation of the package into ``folder`` that consists of these files."""
    for file in files:
        (folder / "flash_attn" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "flash_attn" / file).touch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["__init__.py", "bert_padding.py", "flash_attn_interface.py"], True),
        (["cute/__init__.py", "cute/interface.py"], False),  # flash-attn-4, a namespace package
        (["__init__.py", "cute/__init__.py", "cute/bert_padding.py"], False),
        (["cute/__init__.py", "bert_padding.py"], True),
        ([], False),
    ],
)
def test_only_flash_attention_2_counts_as_installed(monkeypatch, tmp_path, files, expected):
    install(tmp_path, *files)
    monkeypatch.syspath_prepend(tmp_path)
    assert flash_attention.is_flash_attention_installed() is expected
    assert "flash_attn" not in sys.modules


def test_a_module_of_that_name_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "flash_attn.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert flash_attention.is_flash_attention_installed() is False


@pytest.mark.slow
def test_beside_flash_attention_4_the_actor_imports_too(tmp_path):
    install(tmp_path, "cute/__init__.py")
    imported = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import flash_attn.cute"
    code = f"{imported}\n{BESIDE_FLASH_ATTENTION_4}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "ImportError: flash_attn.bert_padding.unpad_input" in result.stderr


@pytest.mark.parametrize(
    ("device", "installed", "expected"),
    [("cuda", True, "flash_attention_2"), ("cuda", False, "sdpa"), ("cpu", True, "sdpa")],
)
def test_the_attention_implementation_is_what_the_machine_has(monkeypatch, device, installed, expected):
    monkeypatch.setattr(flash_attention, "get_device_name", lambda: device)
    monkeypatch.setattr(flash_attention, "is_flash_attention_installed", lambda: installed)
    assert flash_attention.available_attention_implementation() == expected
