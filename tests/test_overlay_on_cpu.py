"""The overlay on the installed verl: what is found where, what is refused, and the installed wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from training_process import TIME_LIMIT_SECONDS

import verl
import verl.upstream

ROOT = Path(__file__).parent.parent
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])


def test_overlaid_modules_come_from_here_and_all_others_from_upstream():
    import verl.trainer.ppo.core_algos as core_algos
    import verl.trainer.ppo.ray_trainer as ray_trainer

    assert Path(ray_trainer.__file__) == ROOT / "verl" / "trainer" / "ppo" / "ray_trainer.py"
    assert Path(core_algos.__file__).is_relative_to(verl.UPSTREAM_FOLDER)
    assert verl.__version__.startswith("0.5")


def test_an_overlaid_class_extends_the_one_it_replaces():
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.upstream.trainer.ppo import ray_trainer as upstream_ray_trainer

    assert issubclass(RayPPOTrainer, upstream_ray_trainer.RayPPOTrainer)
    assert Path(upstream_ray_trainer.__file__).is_relative_to(verl.UPSTREAM_FOLDER)


def test_a_class_that_is_not_overlaid_exists_once():
    from verl.protocol import DataProto
    from verl.upstream.trainer.ppo import ray_trainer as upstream_ray_trainer

    assert upstream_ray_trainer.DataProto is DataProto is verl.DataProto


@pytest.mark.parametrize("package", ["utils", "trainer.config", "workers.rollout", "utils.reward_score"])
def test_overlaid_packages_export_what_upstreams_export(package):
    from importlib import import_module

    upstream = import_module(f"verl.upstream.{package}")
    missing = [name for name in getattr(upstream, "__all__", ()) if not hasattr(import_module(f"verl.{package}"), name)]
    assert missing == []


def test_only_overlaid_modules_import_through_upstream():
    for source in ROOT.glob("verl/**/*.py"):
        for line in source.read_text().splitlines():
            if line.strip().startswith(("from verl.upstream", "import verl.upstream")):
                module = line.split()[1].removeprefix("verl.upstream").strip(".")
                if line.strip().startswith("from"):
                    imported = line.split("import")[1].split()[0].strip("(")
                    candidates = [module, f"{module}.{imported}".strip(".")]
                else:
                    candidates = [module]
                overlaid = [ROOT / "verl" / candidate.replace(".", "/") for candidate in candidates]
                assert any(path.is_dir() or path.with_suffix(".py").exists() for path in overlaid), f"{source}: {line}"


def run_python(code: str, *paths: Path, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=TIME_LIMIT_SECONDS,
    )


def test_without_verl_the_import_says_what_to_install(tmp_path):
    hidden = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; import verl"
    result = run_python(hidden, ROOT, cwd=tmp_path)
    assert "ImportError" in result.stderr
    assert "no verl is installed" in result.stderr and "pip install 'verl==0.5.0'" in result.stderr


def test_another_version_of_verl_is_refused_naming_both(tmp_path):
    version_file = tmp_path / "site" / "verl" / "version" / "version"
    version_file.parent.mkdir(parents=True)
    version_file.write_text("0.8.1\n")
    (tmp_path / "site" / "verl" / "__init__.py").touch()
    result = run_python("import verl", ROOT, tmp_path / "site", cwd=tmp_path)
    assert "ImportError" in result.stderr
    assert "0.5.x" in result.stderr and "verl 0.8.1 is installed" in result.stderr
    assert "pip install 'verl==0.5.0'" in result.stderr


@pytest.mark.parametrize("order", [1, -1], ids=["checkout_first", "installed_first"])
def test_the_overlay_gives_way_to_verl_09_wherever_it_is_on_the_path(tmp_path, order):
    installed = tmp_path / "site" / "verl"
    for module, text in {
        "__init__.py": "from verl.part import where\nfrom .part import where as same\nname = 'verl 0.9'\n",
        "part.py": "where = __file__\n",
        "version/version": "0.9.1\n",
        "trainer/__init__.py": "",
        "trainer/main_ppo.py": "if __name__ == '__main__':\n    import verl\n    print(verl.name)\n",
    }.items():
        (installed / module).parent.mkdir(parents=True, exist_ok=True)
        (installed / module).write_text(text)
    paths = [ROOT, tmp_path / "site"][::order]
    found = run_python("import verl; print(verl.name, verl.where, verl.same, verl.__file__)", *paths, cwd=ROOT)
    assert found.stdout.split() == ["verl", "0.9", *[str(installed / "part.py")] * 2, str(installed / "__init__.py")]
    run = "import runpy; runpy.run_module('verl.trainer.main_ppo', run_name='__main__')"
    assert run_python(run, *paths, cwd=ROOT).stdout.strip() == "verl 0.9"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("verl", "knapsack_rl", "knapsack_verl09", "setup.py", "pyproject.toml", "requirements", "README.md"):
        original = ROOT / name
        if original.is_dir():
            shutil.copytree(original, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif original.exists():
            shutil.copy(original, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source],
        check=True,
        timeout=TIME_LIMIT_SECONDS,
    )
    return next(folder.glob("*.whl"))


def test_an_editable_installation_is_refused_with_what_to_do_instead(source, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", build, tmp_path], capture_output=True, text=True, cwd=source, timeout=TIME_LIMIT_SECONDS
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "Knapsack RL has no editable installation: run from the checkout, or use `pip install .`."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def installation(tmp_path_factory) -> Path:
    """A virtual environment with a verl 0.5.0 of its own; everything else is seen in this one's environment."""
    folder = tmp_path_factory.mktemp("installation") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=TIME_LIMIT_SECONDS)
    own = next(folder.glob("lib/python3*/site-packages"))
    (own / "others.pth").write_text(f"{SITE_PACKAGES}\n")
    for part in (SITE_PACKAGES / "verl", *SITE_PACKAGES.glob("verl-0.5.0*.dist-info")):
        shutil.copytree(part, own / part.name)
    return folder


WHERE_IS_VERL = """
import verl.trainer.ppo.core_algos, verl.trainer.ppo.ray_trainer
print(verl.trainer.ppo.ray_trainer.__file__)
print(verl.trainer.ppo.core_algos.__file__)
"""
WHERE_IS_VERL_IN_A_WORKER = """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

@ray.remote
def where():
    import verl.trainer.ppo.ray_trainer as trainer
    return trainer.__file__

print(ray.get(where.remote()))
"""


def _output_of(python: Path, *command: str | Path, folder: Path) -> str:
    """What an installation prints that does not see this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, *command], capture_output=True, text=True, cwd=folder, env=environment, timeout=TIME_LIMIT_SECONDS
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@pytest.mark.slow
def test_the_wheel_installs_beside_upstream_and_uninstalls_without_a_trace(wheel, installation, tmp_path):
    python = installation / "bin" / "python"

    def run(*command: str | Path) -> list[str]:
        return _output_of(python, *command, folder=tmp_path).splitlines()

    upstream = next(installation.glob("lib/python3*/site-packages/verl"))
    before = {path: path.read_bytes() for path in upstream.rglob("*.py")}

    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    assert "site-packages/knapsack_rl/" in run("-c", "import knapsack_rl; print(knapsack_rl.__file__)")[-1]
    trainer, core_algos = run("-c", WHERE_IS_VERL)[-2:]
    assert "knapsack_rl_overlay/verl" in trainer and Path(core_algos).is_relative_to(upstream)
    assert "knapsack_rl_overlay/verl" in run("-c", WHERE_IS_VERL_IN_A_WORKER)[-1]
    composed = run("-m", "verl.trainer.main_ppo", "--cfg", "job", "--package", "exploration")
    assert "allocator: knapsack" in composed

    run("-m", "pip", "uninstall", "--quiet", "--yes", "knapsack-rl")
    trainer, core_algos = run("-c", WHERE_IS_VERL)[-2:]
    assert Path(trainer).is_relative_to(upstream) and Path(core_algos).is_relative_to(upstream)
    assert {path: path.read_bytes() for path in upstream.rglob("*.py")} == before
    assert not list(upstream.parent.glob("knapsack_rl*"))


@pytest.mark.slow
def test_the_installed_overlay_leaves_any_other_verl_alone(wheel, tmp_path):
    """With verl 0.9 installed, ``import verl`` is verl 0.9; without any, the method is there all the same."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=TIME_LIMIT_SECONDS)
    own = next(folder.glob("lib/python3*/site-packages"))
    (own / "others.pth").write_text(f"{_numpy_alone(tmp_path)}\n")
    python = folder / "bin" / "python"

    def run(*command: str | Path) -> str:
        return _output_of(python, *command, folder=tmp_path)

    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    allocate = "import knapsack_rl; print(knapsack_rl.knapsack_allocate([0.0, 0.9] + [1.0] * 6, 64).budgets.tolist())"
    assert run("-c", allocate) == "[29, 23, 2, 2, 2, 2, 2, 2]"
    version = own / "verl" / "version" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("0.9.1\n")
    (own / "verl" / "__init__.py").write_text("name = 'verl 0.9'\n")
    assert run("-c", "import verl; print(verl.name)") == "verl 0.9"
    assert (own / "knapsack_verl09" / "config" / "exploration" / "knapsack.yaml").is_file()
    assert run("-c", allocate) == "[29, 23, 2, 2, 2, 2, 2, 2]"


def _numpy_alone(folder: Path) -> Path:
    """A folder in which this environment's NumPy and SciPy can be imported, and no verl."""
    alone = folder / "numpy_alone"
    alone.mkdir()
    for name in ("numpy", "numpy.libs", "scipy", "scipy.libs"):
        if (SITE_PACKAGES / name).exists():
            (alone / name).symlink_to(SITE_PACKAGES / name)
    return alone
