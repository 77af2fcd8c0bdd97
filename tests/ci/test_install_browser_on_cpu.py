"""The script that gives the report's tests a browser: which it takes, when it installs, and that it never fails."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "install_browser.sh"
STARTS = "#!/bin/sh\necho Chromium 140\n"
DOES_NOT_START = "#!/bin/sh\necho 'install the snap' >&2\nexit 1\n"


@pytest.fixture
def machine(tmp_path):
    """A folder of programs that is all of the machine; add to it, then run the script."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "id").write_text("#!/bin/sh\necho 0\n")
    for name in ("bash", "sh", "rm", "cp", "chmod"):
        (programs / name).symlink_to(shutil.which(name))

    def run(user: int = 0, **added: str) -> subprocess.CompletedProcess[str]:
        for name, text in {"id": f"#!/bin/sh\necho {user}\n", **added}.items():
            program = programs / name.replace("_", "-")
            program.write_text(text)
            program.chmod(0o755)
        environment = {"PATH": str(programs)}
        command = [str(programs / "bash"), str(SCRIPT)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    run.programs = programs
    return run


def apt_get(programs: Path, chromium: str) -> str:
    """An apt-get that notes how it is called and installs, or removes, a program with the text ``chromium``."""
    source = programs.parent / "package"
    source.write_text(chromium)
    source.chmod(0o755)
    return (
        f'#!/bin/sh\necho "$@" >> {programs.parent}/asked\n'
        f'case "$*" in\n  *" install "*) cp {source} {programs}/chromium ;;\n'
        f'  *" remove "*) rm {programs}/chromium ;;\nesac\n'
    )


@pytest.mark.parametrize("name", ["chromium", "chromium_browser", "google_chrome"])
def test_a_browser_that_is_there_is_taken_and_nothing_is_installed(machine, name):
    result = machine(**{name: STARTS}, apt_get=apt_get(machine.programs, STARTS))
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout == f"The report is tested in {machine.programs / name.replace('_', '-')}\n"
    assert not (machine.programs.parent / "asked").exists()


def test_a_program_that_does_not_start_is_no_browser(machine):
    result = machine(chromium_browser=DOES_NOT_START, google_chrome=STARTS)
    assert result.stdout == f"The report is tested in {machine.programs / 'google-chrome'}\n"


def test_root_installs_one_where_there_is_none(machine):
    result = machine(apt_get=apt_get(machine.programs, STARTS))
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.splitlines()[-1] == f"The report is tested in {machine.programs / 'chromium'}"
    update, install = (machine.programs.parent / "asked").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --yes --no-install-recommends chromium")


@pytest.mark.parametrize(
    ("user", "apt", "reason"),
    [
        (0, None, "no apt-get to install it"),
        (1000, "#!/bin/sh\nexit 7\n", "only root can install it (apt-get install chromium)"),
        (0, "#!/bin/sh\nexit 100\n", "apt-get could not install it"),
        (0, '#!/bin/sh\ncase "$*" in *" install "*) exit 100 ;; esac\n', "apt-get could not install it"),
    ],
    ids=["no apt-get", "not root", "no network", "no such package"],
)
def test_where_it_cannot_it_says_so_in_one_line_and_ends_well(machine, user, apt, reason):
    result = machine(user, **({} if apt is None else {"apt_get": apt}))
    assert result.returncode == 0
    assert result.stderr == f"skipped: the report's tests in a browser: there is no Chromium here and {reason}\n"
    assert not (machine.programs / "chromium").exists()


def test_a_package_without_a_browser_is_removed_again_so_that_the_tests_are_skipped(machine):
    result = machine(apt_get=apt_get(machine.programs, DOES_NOT_START))
    assert result.returncode == 0
    assert result.stderr.endswith("and the one of apt-get does not start\n")
    assert not (machine.programs / "chromium").exists()


def test_it_looks_for_the_browsers_that_the_tests_look_for():
    of_script = re.search(r"for browser in ([^;]+);", SCRIPT.read_text())[1].split()
    report_tests = ROOT / "tests" / "recipe" / "knapsack" / "report" / "test_report_on_cpu.py"
    assignment = next(
        node
        for node in ast.parse(report_tests.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "BROWSERS"
    )
    assert tuple(of_script) == ast.literal_eval(assignment.value)
