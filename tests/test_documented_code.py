"""The code of README, of docs/ and of the docstrings runs, and gives what they say."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sgdr import (
    DifferentialLR,
    SGDRScheduler,
    StopWhenOverfitting,
    build_classifier,
    index_folder,
    layer_groups,
)
from keras_sgdr_cli.demo import write_digits
from tests.test_documentation import PAGES, PUBLIC, ROOT, blocks

# Whole programs, which take nothing as given but folders; the blocks of the tutorial are one program.
WHOLE = "docs/how-to/"
TUTORIAL = "docs/tutorial.md"
# Those that take more than about eight seconds of one processor core
SLOW_BLOCKS = {
    "README.md-2",
    "README.md-3",
    "README.md-4",
    "docs/callbacks.md-3",
    "docs/data.md-1",
    "docs/growing.md-1",
    "docs/how-to/own_fit.md-1",
    "docs/how-to/resuming.md-1",
    "docs/how-to/serving.md-1",
    "docs/how-to/serving.md-2",
    "docs/how-to/tta.md-1",
    "docs/migration.md-1",
    "docs/migration.md-2",
    "docs/migration.md-4",
    "docs/models.md-1",
}
SLOW_EXAMPLES = {
    "distribution_strategy",
    "lr_find_groups",
    "train_image_classifier",
    "export_savedmodel",
    "TrainingCheckpoint",
}
# `--8<--` lines, which name the files that tests/test_examples.py runs
SNIPPETS = "docs/examples.md"
# Whose code is wrong on purpose, and run by tests/test_mistakes.py
MISTAKES = "docs/mistakes.md"

# Keras's default for `shuffle` is True, and for each dataset it warns that this has no effect.
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")


def page_name(path):
    return path.relative_to(ROOT).as_posix()


def documented_blocks():
    for path in PAGES:
        if page_name(path) not in (TUTORIAL, SNIPPETS, MISTAKES):
            for number in range(len(blocks(path, "python"))):
                name = f"{page_name(path)}-{number + 1}"
                yield pytest.param(path, number, id=name, marks=[pytest.mark.slow] * (name in SLOW_BLOCKS))


def examples_of_docstrings():
    """The code under `Example:` in the docstrings of the library, and where it stands."""
    for path in sorted((ROOT / "keras_sgdr").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                for part in re.findall(r"^ *Examples?:.*\n((?:(?: .*)?\n)+)", text + "\n", re.MULTILINE):
                    marks = [pytest.mark.slow] * (node.name in SLOW_EXAMPLES)
                    yield pytest.param(module, part, id=f"{module}.{node.name}", marks=marks)


def earlier_imports(codes):
    nodes = [node for code in codes for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(ast.Module(nodes, []))


def classifier_of(image_size):
    """A small compiled classifier of three classes, whose layers have the names that examples of patterns use."""
    x = inputs = keras.Input((image_size, image_size, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for name, strides in (("stem", 4), ("block1", 2), ("block2", 1), ("block3", 1)):
        x = keras.layers.Conv2D(8, 3, strides=strides, padding="same", activation="relu", name=f"{name}_conv")(x)
    x = keras.layers.Flatten()(x)  # and no mean, so that the first layers alone can lower the loss
    model = build_classifier(3, backbone=keras.Model(inputs, x), image_size=image_size)
    optimizer = DifferentialLR(keras.optimizers.AdamW(), layer_groups(model), 1e-3, movable_momentum=True)
    # Without XLA, which compiles for longer than these trainings take
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def supplied(code):
    """What code that is no whole program takes as given: data, and a model for images of the size that it reads."""
    size = re.search(r"image_size=(\d+)", code)
    image_size = int(size[1]) if size else 224 if "load_dataset(" in code else 32
    index = index_folder("dogscats")

    def images_of(split):
        return np.stack([np.array(Image.open(path).convert("RGB").resize((image_size,) * 2)) for path in split.paths])

    def dataset_of(split, *, shuffled=True, batch_size=16):
        dataset = tf.data.Dataset.from_tensor_slices((images_of(split), split.labels))
        return (dataset.shuffle(len(split), seed=0) if shuffled else dataset).batch(batch_size)

    scheduler = SGDRScheduler(0.01, n_cycles=3)
    makers = {
        # Of so many batches that a finder sees the loss fall
        "dataset": lambda: dataset_of(index_folder("pets", valid_fraction=0.2).train, batch_size=4),
        "images": lambda: images_of(index.valid),
        "index": lambda: index,
        "model": lambda: classifier_of(image_size),
        "names": lambda: index.class_names,
        "optimizer": keras.optimizers.Adam,
        "scheduler": lambda: scheduler,
        "split": lambda: index.train,
        "stop": lambda: StopWhenOverfitting(scheduler),
        "train": lambda: dataset_of(index.train),
        "valid": lambda: dataset_of(index.valid, shuffled=False),
    }
    used = set(re.findall(r"\w+", code))
    return {name: make() for name, make in makers.items() if name in used}


@pytest.fixture
def directory(tmp_path, monkeypatch, digits_folder):
    """The current directory, with the folders and the image that the pages name."""
    for name in ("one", "seven", "zero"):
        files = sorted((digits_folder / name).iterdir())
        for split, chosen in (("train", files[:16]), ("val", files[16:20])):
            (tmp_path / "dogscats" / split / name).mkdir(parents=True)
            for file in chosen:
                (tmp_path / "dogscats" / split / name / file.name).symlink_to(file)
    (tmp_path / "pets").symlink_to(digits_folder)
    (tmp_path / "runs").mkdir()
    Image.fromarray(np.full((40, 50, 3), 128, "uint8")).save(tmp_path / "rex.jpg")
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    return tmp_path


def run_code(code, names, where):
    """Runs a block of code, or, of one with prompts, compares what it prints with what it says."""
    if ">>>" not in code:
        exec(compile(code, where, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize(("path", "number"), [*documented_blocks()])
def test_code_of_page_runs(path, number, directory, request):
    codes = blocks(path, "python")
    names = {"__name__": "__main__"}
    if not page_name(path).startswith(WHOLE):
        names |= supplied(codes[number])
        exec(earlier_imports(codes[:number]), names)
    if "runs/pets" in codes[number]:
        (directory / "runs" / "pets").symlink_to(request.getfixturevalue("trained_run"))
    run_code(codes[number], names, page_name(path))


@pytest.mark.parametrize(("module", "example"), [*examples_of_docstrings()])
def test_example_of_docstring_runs(module, example, directory):
    fence = re.fullmatch(r"\s*```(python|pycon)\n(.*?)\n\s*```\s*", example, re.DOTALL)
    assert fence, "it must be one block, fenced as python, or as pycon with what it prints"
    names = {"keras": keras, "np": np, "tf": tf, **vars(importlib.import_module(module)), **PUBLIC}
    code = "\n".join(line.removeprefix("    ") for line in fence[2].splitlines())
    run_code(code, names | supplied(code), module)


@pytest.mark.slow
def test_tutorial_gets_where_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = "\n".join(blocks(ROOT / TUTORIAL, "sh"))
    write_digits(Path(re.search(r"write_digits\(Path\('(\w+)'\)\)", commands)[1]))
    names = {}
    for code in blocks(ROOT / TUTORIAL, "python"):
        run_code(code, names, TUTORIAL)
    printed = capsys.readouterr().out
    assert "1438 training images, 359 validation images" in printed
    assert float(re.search(r"^plain: accuracy ([\d.]+)", printed, re.MULTILINE)[1]) > 0.97
    assert Path("export/1/saved_model.pb").is_file()
