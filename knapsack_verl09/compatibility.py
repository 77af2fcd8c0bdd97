"""Whether the verl that is installed is one that this plug-in fits: its version, and the parts of it that are used.

The parts are looked up in verl's source: importing verl's trainers takes seconds, and this runs before Ray starts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["USED_PARTS", "IncompatibleVerl", "check_verl", "installed_version"]

SUPPORTED_SERIES = "0.9"
INSTALL_COMMAND = "pip install 'knapsack-rl[verl09]'"

USED_PARTS = {
    "trainer/ppo/v1/trainer_base.py": (
        "register_trainer",
        "PPOTrainer.__init__",
        "PPOTrainer._build_replay_buffer",
        "PPOTrainer._compute_advantage",
        "PPOTrainer._compute_metrics",
        "PPOTrainer._fetch_one_gen_batch",
        "PPOTrainer._load_checkpoint",
        "PPOTrainer._save_checkpoint",
        "PPOTrainer._submit_batch_to_rollout",
        "PPOTrainer._validate",
        "PPOTrainer.fit",
    ),
    "trainer/ppo/v1/trainer_sync.py": ("PPOTrainerSync",),
    "trainer/ppo/v1/trainer_colocate_async.py": ("PPOTrainerColocateAsync",),
    "trainer/ppo/v1/replay_buffer.py": ("ReplayBuffer._clear_groups",),
    "trainer/ppo/v1/agent_loop_tq.py": ("AgentLoopWorkerTQ._run_prompt",),
}
"""What the plug-in extends or calls, by the file of verl that defines it."""
ROLLOUTS_OF_A_PROMPT = "__rollout_n__"
"""The field of a prompt in which verl's agent loop reads how many sessions to run."""


class IncompatibleVerl(ImportError):
    """The verl that is installed lacks something that the plug-in needs; the message names it in a line."""


def installed_version(verl_folder: Path) -> str:
    """Version of the verl in a folder."""
    return (verl_folder / "version" / "version").read_text().strip()


def check_verl(verl_folder: Path) -> None:
    """Refuse a verl that this plug-in does not fit.

    Args:
        verl_folder: the folder of the package ``verl``.

    Raises:
        IncompatibleVerl: its version is not 0.9.x, or it lacks a part that is used.
    """
    found = installed_version(verl_folder)
    if found.split(".")[:2] != SUPPORTED_SERIES.split("."):
        raise IncompatibleVerl(
            f"knapsack_verl09 extends verl {SUPPORTED_SERIES}.x, and verl {found} is installed in {verl_folder}. "
            f"Install the right one: {INSTALL_COMMAND}"
        )
    missing = [
        f"{part} in verl/{file}" for file, parts in USED_PARTS.items() for part in _missing(verl_folder / file, parts)
    ]
    if ROLLOUTS_OF_A_PROMPT not in _text(verl_folder / "trainer/ppo/v1/agent_loop_tq.py"):
        missing.append(f"{ROLLOUTS_OF_A_PROMPT} in verl/trainer/ppo/v1/agent_loop_tq.py")
    if missing:
        raise IncompatibleVerl(
            f"knapsack_verl09 does not fit verl {found} in {verl_folder}: not found: {', '.join(missing)}. "
            f"Install the version that it was tested with: {INSTALL_COMMAND}"
        )


def _missing(file: Path, parts: tuple[str, ...]) -> list[str]:
    defined = set(_definitions(ast.parse(_text(file))))
    return [part for part in parts if part not in defined]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, f"{prefix}{node.name}.")
