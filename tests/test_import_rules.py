"""The rules of the house about who may import what, read off the sources."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "keras_sgdr"
MODULES = sorted(LIBRARY.rglob("*.py"))
# A package imports only packages that stand before it, and a package within `data/` likewise.
PACKAGES = ["_version", "validation", "atomic_write", "array_store", "plots", "augmentation"]
PACKAGES += ["data.index", "data.decode", "data.dataset", "data.check"]
PACKAGES += ["models", "optimizers", "schedules", "checkpoint", "lr_finder", "precompute", "evaluation", "serving"]
PACKAGES += ["distribution", "recipe"]
# These stand beside each other.
BESIDE = {"lr_finder", "precompute", "checkpoint", "evaluation"}
MAY = {("lr_finder", "keras_sgdr.checkpoint.training_state")}
# These import nothing of ours but `validation` and `atomic_write`.
ALONE = {"_version", "validation", "atomic_write", "array_store", "plots"}
PURE = {"schedules/cosine_cycles.py", "lr_finder/suggestions.py", "lr_finder/lr_curve.py", "recipe/candidates.py"}
PURE |= {
    "recipe/recipe.py",
    "recipe/settings.py",
    "recipe/rate_choice.py",
    "models/softmax_regression.py",
    "data/index/folder.py",
}
BACKENDS = {"tensorflow", "jax", "torch"}
# Those that touch a backend's own objects, inside functions; their names say so.
OF_A_BACKEND = {"checkpoint/torch_generators.py": {"torch"}}
OF_A_BACKEND |= {"lr_finder/tensorflow_dataset_copy.py": {"tensorflow"}}
OF_A_BACKEND |= {
    "optimizers/tensorflow_replicas.py": {"tensorflow"},
    "checkpoint/tensorflow_workers.py": {"tensorflow"},
}
EVERY_BACKEND = ("models/", "optimizers/", "schedules/", "checkpoint/", "lr_finder/", "evaluation/tta")


def name_of(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def package_of(module: str) -> str:
    """The entry of PACKAGES to which a module, `keras_sgdr.…`, belongs."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[0] == "data" else parts[:1])


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
def test_module_imports_only_packages_above_it(path):
    name = "keras_sgdr." + name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    if name in ("keras_sgdr.__init__", "keras_sgdr.data"):
        return
    package = package_of(name)
    for module, _, _ in imports(path):
        if not module.startswith("keras_sgdr.") or package_of(module) == package:
            continue
        other = package_of(module)
        if other == "data":  # from keras_sgdr.data import …: the names follow
            continue
        assert PACKAGES.index(other) < PACKAGES.index(package), f"{name} imports {module}"
        assert package not in ALONE or other in ("validation", "atomic_write"), f"{name} imports {module}"
        allowed = any(package == ours and module.startswith(theirs) for ours, theirs in MAY)
        assert not {package, other} <= BESIDE or allowed, f"{name} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_what_its_kind_may(path):
    name, found = name_of(path), tops(path)
    assert "keras_sgdr_cli" not in found
    assert not any(module.startswith("keras.src") for module, inside, _ in imports(path) if not inside)
    if name in PURE:
        assert found <= set(sys.stdlib_module_names) | {"numpy", "keras_sgdr"}, name
    if name.startswith(EVERY_BACKEND):
        assert found & BACKENDS == OF_A_BACKEND.get(name, set())
        assert all(inside for module, inside, _ in imports(path) if module in BACKENDS)
    if name != "augmentation/random_view.py":
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


def test_the_lists_name_only_what_is_there():
    folders = {name_of(path.parent).replace("/", ".") for path in MODULES if path.name == "__init__.py"}
    files = {name_of(path) for path in MODULES}
    assert set(PACKAGES) == folders - {".", "data"} | {
        name.removesuffix(".py") for name in files if "/" not in name
    } - {"__init__"}
    assert BESIDE | ALONE | {ours for ours, _ in MAY} <= set(PACKAGES)
    assert {theirs.replace(".", "/") + ".py" for _, theirs in MAY} <= {f"keras_sgdr/{name}" for name in files}
    assert PURE | set(OF_A_BACKEND) <= files
    assert all(any(name.startswith(prefix) for name in files) for prefix in EVERY_BACKEND)


def test_the_exceptions_are_made_use_of():
    for ours, theirs in MAY:
        assert any(module == theirs for path in (LIBRARY / ours).glob("*.py") for module, _, _ in imports(path))
    for name, backends in OF_A_BACKEND.items():
        assert backends <= tops(LIBRARY / name)
    assert "keras_cv" in tops(LIBRARY / "augmentation" / "random_view.py")


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_module_imports_none_of_ours_that_imports_more(name):
    files = {"keras_sgdr." + name_of(path).removesuffix(".py").replace("/", "."): path for path in MODULES}
    seen, left = set(), [LIBRARY / name]
    while left:
        path = left.pop()
        seen.add(path)
        at_import = {module for module, inside, typing_only in imports(path) if not inside and not typing_only}
        others = {module.split(".")[0] for module in at_import} - set(sys.stdlib_module_names)
        assert others <= {"numpy", "keras_sgdr"}, name_of(path)
        left += [files[module] for module in at_import if module in files and files[module] not in seen]
