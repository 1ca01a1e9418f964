"""Builds the package, installs the wheel away from its sources, and runs the fast tests, on each supported Python.

pip install nox
nox                                       # every session; a Python that is not on this machine is left out
nox -s tests-3.12 -- tests/schedules      # some of the tests, with any options of pytest
nox -s oldest                             # the oldest Keras, TensorFlow and Python that pyproject.toml allows
"""

import re
import shutil
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST, BELOW = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
PYTHONS = [f"3.{minor}" for minor in range(int(OLDEST), int(BELOW))]
# What compares the sources with other files has nothing to compare where there are no sources.
OF_THE_SOURCES = (
    "tests/test_import_rules.py",
    "tests/test_packaging.py",
    "tests/test_documentation.py",
    "tests/optimizers/test_keras_private_names.py",
)
WITH_OLDEST = ("keras", "tensorflow", "numpy", "click", "jinja2")
nox.needs_version = ">=2025.2.9"


def build(session: nox.Session) -> Path:
    """Builds the source archive and, from it, the wheel; checks both; returns the wheel."""
    directory = Path(session.create_tmp()) / "dist"
    shutil.rmtree(directory, ignore_errors=True)
    session.install("build", "twine")
    session.run("python", "-m", "build", "--quiet", "--outdir", str(directory), str(ROOT))
    session.run("twine", "check", "--strict", *map(str, directory.iterdir()))
    (wheel,) = directory.glob("*.whl")
    return wheel


def run_tests(session: nox.Session, *requirements: str) -> None:
    """Installs the wheel, with `requirements` beside it, and runs the tests in a directory without the sources."""
    session.install(f"{build(session)}[test]", *requirements)
    elsewhere = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    for name in ("tests", "examples", "docs"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(path, elsewhere)
    session.chdir(elsewhere)
    ignored = [f"--ignore={path}" for path in OF_THE_SOURCES]
    session.run("python", "-c", "import keras, tensorflow; print('keras', keras.__version__, tensorflow.__version__)")
    session.run("python", "-m", "pytest", *ignored, *(session.posargs or ["-n", "2", "--dist", "loadfile"]))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Runs the fast tests with the newest packages."""
    run_tests(session)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Runs the fast tests with the oldest releases that pyproject.toml allows."""
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(PROJECT["dependencies"]), re.MULTILINE))
    run_tests(session, *(f"{name}=={bounds[name]}" for name in WITH_OLDEST))
