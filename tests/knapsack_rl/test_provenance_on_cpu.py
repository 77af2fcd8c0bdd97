"""A run tells which commit made it, where that can be known."""

import subprocess

from knapsack_rl.provenance import commit_of_checkout


def git(folder, *arguments):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_a_checkout_has_a_commit_and_says_whether_it_was_changed(tmp_path):
    assert commit_of_checkout(tmp_path) is None
    (tmp_path / "__init__.py").write_text("one = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = commit_of_checkout(tmp_path)
    assert len(commit) == 40
    (tmp_path / "__init__.py").write_text("one = 2\n")
    assert commit_of_checkout(tmp_path) == f"{commit}+changes"


def test_a_package_that_merely_lies_inside_a_checkout_is_not_of_its_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "tracked").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    installed = tmp_path / "venv" / "site-packages" / "knapsack_rl"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert commit_of_checkout(installed) is None
