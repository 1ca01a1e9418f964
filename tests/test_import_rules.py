"""The rules of the house about who may import what, read off the sources."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "keras_sgdr"
MODULES = sorted(LIBRARY.rglob("*.py"))
# A room imports only from rooms that stand before it.
ROOMS = ["plots", "whole_files", "data", "models", "training", "evaluation", "serving"]
ROOMS += ["run_directory", "settings", "candidates", "from_recipe", "run", "whole_network", "steps", "recipe"]
ROOMS += ["finished_run"]
PURE = {"data/folder.py", "training/schedules.py", "training/suggestions.py", "training/lr_curve.py"}
PURE |= {"candidates.py", "training/softmax_regression.py", "training/lr_choice.py"}
KNOW_TENSORFLOW = {"training/features.py", "training/distribution.py"}


def name_of(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def room_of(path: Path) -> str:
    return name_of(path).split("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool, bool]]:
    """Yields each imported module, whether inside a function, and whether for annotations alone."""

    def visit(node: ast.AST, inside: bool, typing_only: bool) -> Iterator[tuple[str, bool, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module, inside, typing_only
            yield from ((f"{module}.{alias.name}", inside, typing_only) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef)
        typing_only = typing_only or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, typing_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), inside=False, typing_only=False)


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _, typing_only in imports(path) if not typing_only}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_rooms_above_it(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{room} is not in the list of rooms"
    for module, _, _ in imports(path):
        if not module.startswith("keras_sgdr."):
            continue
        other = module.split(".")[1]
        if other in (room, "__version__"):
            continue
        assert ROOMS.index(other) < ROOMS.index(room), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_what_its_kind_may(path):
    name, found = name_of(path), tops(path)
    assert "keras_sgdr_cli" not in found
    assert not any(module.startswith("keras.src") for module, inside, _ in imports(path) if not inside)
    if name in PURE:
        assert found <= set(sys.stdlib_module_names) | {"numpy", "keras_sgdr"}, name
    if name not in KNOW_TENSORFLOW and (name.startswith(("models/", "training/")) or name == "evaluation/tta.py"):
        assert "tensorflow" not in found
    if name != "data/augmentation.py":
        assert "keras_cv" not in found
    if name != "plots.py":
        assert "matplotlib" not in found


def test_plots_imports_matplotlib_inside_functions():
    uses = [inside for module, inside, _ in imports(LIBRARY / "plots.py") if module.startswith("matplotlib")]
    assert uses
    assert all(uses)


def test_the_reader_of_imports_sees_what_it_should(tmp_path):
    source = tmp_path / "module.py"
    source.write_text("import a.b\ndef f():\n    from c import d\n")
    assert list(imports(source)) == [("a.b", False, False), ("c", True, False), ("c.d", True, False)]
