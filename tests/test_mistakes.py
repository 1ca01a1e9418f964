"""The mistakes of docs/mistakes.md, made for real: what is printed is what stands there.

The commands and the code are read from the page as the messages are; here is only what they find when they are run.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command_line import MAIN, run

PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"


def mistakes() -> dict[str, tuple[str, str, str]]:
    """The language, the code and the message of each section of the page."""
    found = {}
    for section in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        pattern = r"^```(\w+)\n(.*?)^```$(.*?)^```text\n(.*?)^```$\n+[^#\s]"  # and a remedy follows
        (language, code, _, message) = re.search(pattern, body, re.DOTALL | re.MULTILINE).groups()
        found[title] = (language, code.strip(), message)
    return found


MISTAKES = mistakes()


def one_line(text: str) -> str:
    return " ".join(text.split())


def write_images(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.jpg")


# What is otherwise in the directory where a mistake is made, by its title


def unsorted_images(place):
    write_images(place / "unsorted")


def no_dogs(place):
    for split in ("train", "valid"):
        shutil.rmtree(place / "pets" / split / "dog")


def horse_in_valid(place):
    write_images(place / "pets" / "valid" / "horse")


def empty_class(place):
    (place / "pets" / "train" / "horse").mkdir()


def text_among_images(place):
    (place / "pets" / "train" / "cat" / "7.jpg").write_text("<html>Not found</html>")


def table(place):
    rows = [f"pets/train/{name}/{i}.jpg,{name}" for name in ("cat", "dog") for i in range(4)]
    (place / "labels.csv").write_text("\n".join(["filename,label", *rows]))


def settings(place):
    (place / "settings.toml").write_text("image_size = 128\nlearnig_rate = 1e-3\n")


def program(place):
    lines = [
        "from keras_sgdr import Recipe, train_image_classifier",
        "",
        "train_image_classifier('pets', output='run')",
    ]
    (place / "train.py").write_text("\n".join(lines))


SETUPS = {
    "All images in one folder": unsorted_images,
    "One class only": no_dogs,
    "A class that only the validation images have": horse_in_valid,
    "A class without images": empty_class,
    "A text that is called .jpg": text_among_images,
    "A table that names a file which is not there": table,
    "A file of settings with a word that is none": settings,
    "The recipe on another backend": program,
}
# These find a finished run, of digits, in runs/digits.
WITH_A_RUN = {
    "A run is there already",
    "Resuming with other settings",
    "A directory that is no finished run",
    "No images to predict",
    "Other classes than the run has",
    "A port that is taken",
    "A package that is not installed",
    "The server's packages are not installed",
}
WITHOUT_PACKAGES = {"A package that is not installed", "The server's packages are not installed"}


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """The present directory, with the images of two pets, and whatever else the mistake needs."""
    title = request.node.callspec.params["title"]
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            write_images(tmp_path / "pets" / split / name)
    write_images(tmp_path / "others" / "oak")
    write_images(tmp_path / "others" / "elm")
    shutil.copy(tmp_path / "pets" / "train" / "dog" / "0.jpg", tmp_path / "rex.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs").mkdir()
    if title in WITH_A_RUN:
        shutil.copytree(request.getfixturevalue("trained_run"), tmp_path / "runs" / "digits")
        (tmp_path / "digits").symlink_to(request.getfixturevalue("digits_folder"))
    SETUPS.get(title, lambda place: None)(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed_by_command(line: str, request) -> str:
    """What a command writes to standard error, from "Error:" on."""
    *variables, _ = re.match(r"((?:\w+=\S+ )*)(.*)", line)[1].split(" ")
    words = line.split()[len(variables) :]
    if words[0] == "python" or variables:
        command = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-c", MAIN, *words[1:]]
        environment = os.environ | dict(each.split("=") for each in variables)
        errors = subprocess.run(command, capture_output=True, text=True, env=environment).stderr
    elif request.node.callspec.params["title"] in WITHOUT_PACKAGES:
        errors = request.getfixturevalue("without_optional_packages")(*words[1:]).stderr
    else:
        result = run(*words[1:])
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code in (1, 2)
        errors = result.stderr
    return errors[errors.index("Error: ") :] if words[0] == "keras-sgdr" else errors[errors.index("\nkeras_sgdr.") :]


def small_model():
    import keras

    layers = [keras.layers.Conv2D(4, 3, name="first"), keras.layers.Conv2D(4, 3, name="second")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax", name="head")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def printed_by_code(code: str) -> str:
    """The last line of a traceback, or the warning, that a piece of code ends in."""
    import keras
    import tensorflow as tf

    import keras_sgdr

    random = np.random.default_rng(0)
    x, y = random.random((16, 8, 8, 3), np.float32), np.arange(16) % 2
    names = {"keras": keras, "model": small_model(), "dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(4)}
    names |= {name: getattr(keras_sgdr, name) for name in keras_sgdr.__all__}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # Python shows no user what it ignores by default; Keras with a new NumPy has one for each rate that is set.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            exec(code, names)
        except Exception as error:  # noqa: BLE001  whichever the page names
            return traceback.format_exception_only(error)[-1]
    # Keras 3.15.1 warns of every dataset, whatever a user may do about it.
    ours = [each for each in seen if "`shuffle=True` was passed" not in str(each.message)]
    return f"{ours[0].category.__name__}: {ours[0].message}"


def marked(title: str):
    """A title, marked by how long its test takes and what it needs."""
    needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
    if "python" in MISTAKES[title][1]:
        return pytest.param(title, marks=(pytest.mark.slow, needs_jax))
    return pytest.param(title, marks=[pytest.mark.slow] * (title in {*WITHOUT_PACKAGES, "No server there"}))


@pytest.mark.parametrize("title", [marked(title) for title in MISTAKES])
def test_mistake_is_answered_as_the_page_says(title, place, request):
    language, code, message = MISTAKES[title]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # the page's port may be in use here, or free
        if title == "A port that is taken":
            taken.listen()
        code, message = (text.replace("8501", str(taken.getsockname()[1])) for text in (code, message))
        printed = printed_by_command(code, request) if language == "sh" else printed_by_code(code)
    expected = re.escape(one_line(message)).replace("…", ".*")
    assert re.fullmatch(expected, one_line(printed)), f"printed:\n{printed}\nexpected:\n{message}"


def test_what_is_prepared_is_for_a_mistake_on_the_page():
    assert len(MISTAKES) >= 30
    assert set(SETUPS) | WITH_A_RUN | WITHOUT_PACKAGES <= set(MISTAKES)
