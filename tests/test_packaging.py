"""What is installed, and under which names."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import keras_sgdr

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def folders_with_code(top: str, package: str) -> set[str]:
    inits = (ROOT / top).rglob("__init__.py")
    return {".".join([package, *init.parent.relative_to(ROOT / top).parts]) for init in inits}


def test_packages_are_the_folders_that_hold_code():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(
        folders_with_code("keras_sgdr", "keras_sgdr") | folders_with_code("cli", "keras_sgdr_cli")
    )


def test_no_top_level_package_called_cli_is_installed():
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('cli') is not None)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(sys.prefix)).returncode == 0


def test_version_is_the_distributions():
    assert keras_sgdr.__version__ == metadata.version("keras-sgdr")


def test_command_is_installed():
    (entry,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "keras-sgdr"]
    assert entry.value == "keras_sgdr_cli.main:main"


@pytest.mark.parametrize(
    ("reason", "code"), [("jax is not installed: pip install it", 0), ("it was too slow", 1), (None, 0)]
)
def test_ci_fails_on_a_skip_whose_reason_it_does_not_know(tmp_path, reason, code):
    mark = f"@pytest.mark.skip(reason={reason!r})\n" if reason else ""
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n{mark}def test_it():\n    pass\n")
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--junitxml={report}", "test_it.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, str(ROOT / ".ci" / "check_skips.py"), str(report), "jax is not", "torch is not"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert (f"test_it: {reason}" in done.stderr.replace("test_it.test_it", "test_it")) == bool(code)
