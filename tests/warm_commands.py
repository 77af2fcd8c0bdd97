"""Python commands in processes of their own that need not import torch, Ray and transformers first.

`run_warm` does what ``subprocess.run([sys.executable, *command])`` does. A server that has imported the trainer forks
for every command; so a command has its own memory, environment, folder and streams, and costs no imports.
Settings that a library reads while it is imported are those of the server.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = ("verl.trainer.main_ppo", "datasets", "huggingface_hub", "pandas", "pyarrow.parquet")

_server: subprocess.Popen[str] | None = None


def run_warm(
    command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | str = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ...`` or ``python FILE ...`` to its end.

    Args:
        command: what stands behind ``python``: ``["-m", module, *arguments]`` or ``[file, *arguments]``.
        env: the whole environment; None = this process's.
    """
    server = _running_server()
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "command": [str(part) for part in command],
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd),
            "stdout": f"{folder}/stdout",
            "stderr": f"{folder}/stderr",
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the server of warm commands ended with {server.wait()}"
        streams = (Path(request[name]).read_text(errors="replace") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(request["command"], int(answer), *streams)


def _running_server() -> subprocess.Popen[str]:
    global _server
    if _server is None or _server.poll() is not None:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        )
        atexit.register(_server.stdin.close)
    return _server


def serve() -> None:
    """Import, then fork for every request on standard input and answer with the exit status."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    for module in IMPORTED:
        __import__(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


def _become(command: list[str], env: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """Turn this process into the command and end it."""
    for number, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    as_module = command[0] == "-m"
    sys.argv = command[1:] if as_module else command
    sys.path.insert(0, cwd if as_module else str(Path(command[0]).parent))
    if as_module:
        sys.modules.pop(command[1], None)  # a module that is run has not been imported before
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
