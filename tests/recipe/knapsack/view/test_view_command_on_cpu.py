"""The command: static pages, what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from view_runs import Reader

from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.view_command import INTERRUPTED, main


def test_static_pages_link_to_each_other_and_to_nothing_else(run_folders, tmp_path, capsys):
    assert main([*map(str, run_folders.values()), "--static", str(tmp_path / "out"), "--static-pages", "150"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "out" / "index.html")
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert len(files) == 150 and "--static-pages" in printed.err
    kinds = {name.split("-")[0].split(".")[0] for name in files}
    assert kinds == {"index", "prompts", "prompt", "export"}
    for name, path in files.items():
        if name.endswith(".html"):
            links = [link.split("#")[0] for link in Reader(path.read_text()).links]
            assert set(links) <= set(files) and "Content-Security-Policy" in path.read_text()
            assert "parquet of" not in path.read_text(), "only a server exports rows"
    assert not Reader(files["index.html"].read_text()).tags.count("form")
    assert main([*map(str, run_folders.values()), "--static", str(tmp_path / "out"), "--static-pages", "9"]) == 0


def test_an_index_that_cannot_be_kept_is_said_in_one_line(run_folders, tmp_path, monkeypatch, capsys):
    def fail(self, progress=None):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(RunIndex, "update_history", fail)
    assert main([str(run_folders["knapsack"]), "--static", str(tmp_path / "out")]) == 2
    assert "disk I/O error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "is not a folder"),
        (["{run}", "{run}"], "given twice"),
        (["{run}", "--names", "a", "b"], "--names"),
        (["{run}", "--names", " "], "--names"),
        (["{run}", "--port", "99999"], "--port 99999"),
        (["{run}", "--static", "{tmp}/x", "--static-pages", "0"], "--static-pages 0"),
        (["{run}", "--static", "{run}/config.yaml"], "cannot be written to"),
        (["{run}", "--static", "{run}"], "holds other files"),
        (["{run}/history"], "is not the folder of a run"),
    ],
)
def test_what_the_command_does_not_accept_is_said_in_one_line(arguments, message, run_folders, tmp_path, capsys):
    places = {"tmp": tmp_path, "run": run_folders["knapsack"]}
    assert main([argument.format(**places) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(address, run_folders, capsys):
    port = address.rpartition(":")[2]
    assert main([str(run_folders["knapsack"]), "--port", port]) == 2
    assert f"--port {port} cannot be used" in capsys.readouterr().err


def started(folder: Path, temporary: Path, *arguments: str, ignored: Sequence[int] = ()) -> subprocess.Popen:
    """The command in a process of its own, which ignores some signals and keeps its temporary files in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "recipe.knapsack.view", str(folder), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored],
    )


def test_under_nohup_it_survives_a_lost_connection(run_folders, tmp_path):
    process = started(run_folders["knapsack"], tmp_path, "--port", "0", ignored=[signal.SIGHUP])
    try:
        address = process.stdout.readline().split()[0]
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert "knapsack" in urllib.request.urlopen(address, timeout=60).read().decode()
    finally:
        process.terminate()
    assert process.wait(timeout=60) == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_static_pages_that_are_interrupted_leave_no_index_behind(run_folders, tmp_path, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = started(run_folders["knapsack"], temporary, "--static", str(tmp_path / "pages"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "pages" / "index.html").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == INTERRUPTED and list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_serves_until_it_is_interrupted_and_leaves_nothing_behind(run_folders, tmp_path, number):
    process = started(run_folders["knapsack"], tmp_path, "--port", "0")
    try:
        address = process.stdout.readline().split()[0]
        assert "knapsack" in urllib.request.urlopen(address, timeout=60).read().decode()
        deadline = time.monotonic() + 60
        while "What is" not in urllib.request.urlopen(f"{address}prompts", timeout=60).read().decode():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=60)
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert list(tmp_path.iterdir()) == []
