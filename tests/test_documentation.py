"""README and docs/ name nothing that is not there: names, arguments, options, commands, files, links."""

import ast
import builtins
import importlib
import inspect
import keyword
import re
from collections.abc import Iterator
from pathlib import Path

import click
import keras
import pytest

import keras_sgdr
from keras_sgdr.data.index.split import SPLIT_NAMES
from keras_sgdr.precompute.feature_cache import CACHE_VARIABLE
from keras_sgdr_cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PUBLIC = {name: getattr(keras_sgdr, name) for name in keras_sgdr.__all__}
# Words in backquotes that are of Keras, TensorFlow, a CSV file or the operating system
OF_OTHERS = {
    "image_bytes",
    "probabilities",
    "class_names",
    "predicted_class",
    "serving_default",
    "filename",
    "is_valid",
}
OF_OTHERS |= {"jit_compile", "global_clipnorm", "steps_per_execution", "epochs", "momentum", "beta_1", "off", "label"}
OF_OTHERS |= {
    "initial_epoch",
    "MirroredStrategy",
    "TF_NUM_INTRAOP_THREADS",
    "val_loss",
    "weight_decay",
    "KERAS_BACKEND",
}
OPTIONS_OF_OTHERS = {"--model_base_path"}

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def spans(path: Path) -> list[str]:
    """What stands between backquotes in the text, each on one line."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def parsed_calls(path: Path) -> Iterator[ast.Call]:
    """Yields the calls in the code of a page: in its Python blocks, and in the text where it is whole."""
    for code in [*blocks(path, "python"), *spans(path)]:
        try:
            tree = ast.parse(code.replace("…", "..."))
        except SyntaxError:
            continue
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def arguments_of(value: object) -> set[str]:
    return set(inspect.signature(value).parameters) if callable(value) else set()


def names_of_code(path: Path) -> set[str]:
    """The variables that the code of a page makes."""
    nodes = [node for code in blocks(path, "python") for node in ast.walk(ast.parse(code))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def known_words() -> set[str]:
    """All names that a page may mention: public ones, their arguments and attributes, Keras's, modules, Python's."""
    words = set(PUBLIC) | OF_OTHERS | set(dir(builtins)) | set(keyword.kwlist) | {CACHE_VARIABLE}
    words |= {name for names in SPLIT_NAMES.values() for name in names}
    for value in PUBLIC.values():
        words |= arguments_of(value) | {name for name in dir(value) if not name.startswith("_")}
    for module in (keras.callbacks, keras.optimizers, keras.utils, keras.optimizers.schedules):
        words |= set(dir(module))
    for module in (ROOT / "keras_sgdr").rglob("*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        words |= {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        words |= {ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        if module.name in ("signatures.py", "savedmodel.py", "portable.py"):  # what a server or a runtime knows by name
            constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
            words |= {value for value in constants if isinstance(value, str)}
    return words


def options_of(command: click.Command) -> set[str]:
    found = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    if isinstance(command, click.Group):
        for each in command.commands.values():
            found |= options_of(each)
    return found | {"--help"}


def resolve(dotted: str) -> object:
    """The module, or what is in it, that a dotted name stands for."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(dotted)


def is_there(dotted):
    try:
        resolve(dotted)
    except (ModuleNotFoundError, AttributeError):
        return False
    return True


def takes(function, arguments, named):
    try:
        inspect.signature(function).bind_partial(*arguments, **named)
    except TypeError:
        return False
    return True


def test_names_and_arguments_that_are_not_there_are_seen():
    assert is_there("keras_sgdr.schedules.one_cycle.OneCycleScheduler")
    assert not is_there("keras_sgdr.schedules.nothing")
    assert not is_there("keras_sgdr.training.sgdr")
    assert not takes(keras_sgdr.lr_find, [], {"learning_rate": 1})


def test_readme_is_short():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


@page
def test_dotted_names_are_there(path):
    names = set(re.findall(r"\bkeras_sgdr(?:\.\w+)+", path.read_text(encoding="utf-8")))
    assert [name for name in names if not is_there(name)] == []


@page
def test_words_in_backquotes_are_names_that_are_there(path):
    words = {span.removesuffix("=") for span in spans(path) if re.fullmatch(r"[A-Za-z_]\w*=?", span)}
    files = {name.split(".")[0] for span in spans(path) if "." in span for name in span.split("/")}
    assert words - known_words() - names_of_code(path) - files == set()


@page
def test_code_compiles_and_imports_what_is_there(path):
    for code in blocks(path, "python"):
        for node in ast.walk(compile(code, path.name, "exec", ast.PyCF_ONLY_AST)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(importlib.import_module(node.module), each.name) for each in node.names), node.module


@page
def test_code_calls_public_names_that_it_has_imported(path):
    imported: set[str] = set()
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                imported |= {each.name for each in node.names}
        called = {
            node.func.id
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert called & set(PUBLIC) <= imported


@page
def test_arguments_are_there(path):
    for call in parsed_calls(path):
        value = None
        if isinstance(call.func, ast.Name):
            value = PUBLIC.get(call.func.id)
        elif ast.unparse(call.func).startswith("keras."):
            value = resolve(ast.unparse(call.func))
        if value is not None:
            named = {each.arg: each.value for each in call.keywords if each.arg is not None}
            assert takes(value, call.args, named), ast.unparse(call)


@page
def test_commands_and_options_are_there(path):
    if path.name == "mistakes.md":  # test_mistakes.py runs what stands there, and some of it is not there on purpose
        return
    lines = [line for code in blocks(path, "sh") for line in code.splitlines()]
    for text in [*spans(path), *lines]:
        for program in re.split(r"&&|\|", text):
            words = program.split()
            options = {word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
            if words[:1] == ["keras-sgdr"] and len(words) > 1 and not words[1].startswith("-"):
                assert options <= options_of(cli.commands[words[1]]), text
            elif words and (words[0].startswith("-") or words[0] == "keras-sgdr"):
                assert options <= options_of(cli) | OPTIONS_OF_OTHERS, text


@page
def test_links_and_files_are_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for module in re.findall(r"python -m (tests[\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
    for file in re.findall(r"\b((?:tests|examples|docs)/[\w/]+\.\w+)", text):
        assert (ROOT / file).is_file()


def test_every_example_is_on_a_page():
    shown = re.findall(r'^--8<-- "(.+)"$', (ROOT / "docs" / "examples.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*.py"))


def test_every_public_name_is_on_a_page():
    pages = [path for path in PAGES if path.parent.name != "reference"]
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert [name for name in PUBLIC if not re.search(rf"\b{name}\b", text)] == []
