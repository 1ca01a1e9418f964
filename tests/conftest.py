"""What every test module shares."""

import atexit
import gc
import os
import shutil
import tempfile

import pytest
from filelock import FileLock

# Before TensorFlow is imported: its start-up log lines would hide a failing test's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Features of the tests' images are no one's to keep.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="keras-sgdr-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

DIGITS = ("one", "seven", "zero")


def made_once(tmp_path_factory, name, make):
    """Returns a path that `make(path)` has made, in whichever of pytest-xdist's processes came first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            make(root / name)
            (root / f"{name}.made").touch()
    return root / name


@pytest.fixture(scope="session", autouse=True)
def without_graph_optimizer(request):
    """Leaves out, in the tests' own process, TensorFlow's search for faster graphs: a quarter of the suite's time.

    The processes that tests start have it, as users do, and so has a run with the slow tests.
    """
    import keras

    if request.config.option.markexpr == "not slow" and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session", autouse=True)
def imports_are_no_garbage():
    """Keeps Python from looking for garbage, again and again, among all that TensorFlow imports.

    In a process of gigabytes whose pages have been put away, one look takes up to half a minute. At the end one is
    enough: pytest and Python look again and again.
    """
    import keras  # noqa: F401  with its backend

    gc.collect()
    gc.freeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """Handwritten digits of three classes, 60 of each, as grey PNGs of 8 x 8 pixels: a folder per class."""
    from keras_sgdr_cli.demo import write_digits

    def make(folder):
        everything = tmp_path_factory.mktemp("all")
        write_digits(everything)
        for name in DIGITS:
            (folder / name).mkdir(parents=True)
            for path in sorted((everything / name).iterdir())[:60]:
                path.rename(folder / name / path.name)

    return made_once(tmp_path_factory, "digits", make)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory, digits_folder):
    """A file with a backbone of six layers, with random weights: a run with it takes seconds.

    Its batch norms have seen the images; without that its activations die out, and nothing that is done to the images
    would show.
    """
    import keras

    from keras_sgdr import index_folder, load_dataset, recalibrate_batch_norm

    def make(path):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((32, 32, 3))
        for filters in (8, 16):
            x = keras.layers.Conv2D(filters, 3, strides=2)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        backbone = keras.Model(inputs, x, name="tiny")
        images = load_dataset(index_folder(digits_folder, valid_fraction=0.2).train, image_size=32, batch_size=72)
        recalibrate_batch_norm(backbone, images)
        backbone.save(path)

    return made_once(tmp_path_factory, "tiny.keras", make)


@pytest.fixture(scope="session")
def tiny_options(tiny_backbone):
    """Options of `keras-sgdr train` and the like for `digits_folder`, as strings."""
    options = {"--backbone": tiny_backbone, "--image-size": 32, "--augmentation": "basic", "--resize": "squish"}
    return [str(part) for option in options.items() for part in option]


@pytest.fixture(scope="session")
def tiny_recipe(tiny_backbone):
    """A recipe that takes seconds: no finder of the whole network, no views, one epoch of everything."""
    from keras_sgdr import Recipe

    return Recipe(
        backbone=str(tiny_backbone),
        image_size=32,
        augmentation="basic",
        resize="squish",
        head_views=0,
        cycle_len=1,
        learning_rate=1e-3,
        tta="off",
    )


@pytest.fixture(scope="session")
def trained_run(digits_folder, tiny_options, tmp_path_factory):
    """The directory of a run of the whole recipe, both finders included, by the command line.

    Treat it as read-only. Its backbone is so small that it learns little: see test_eight_steps for one that does.
    """
    from click.testing import CliRunner

    from keras_sgdr_cli.main import cli

    def make(output):
        cycles = ["--head-cycles", "1", "--n-cycles", "2", "--cycle-len", "1", "--tta", "flip"]
        done = CliRunner().invoke(cli, ["train", str(digits_folder), "-o", str(output), *tiny_options, *cycles])
        assert done.exit_code == 0, done.output
        (output / "stdout.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "run", make)


OPTIONAL = ("sklearn", "scikit_learn", "onnx", "onnxruntime", "tf2onnx", "starlette", "uvicorn", "grpc", "grpcio")
OPTIONAL += ("tensorboard", "tensorflow_serving", "tensorflow_serving_api", "keras_hub")


@pytest.fixture(scope="session")
def without_optional_packages(tmp_path_factory):
    """Runs a command of `keras-sgdr` where none of the optional packages is installed.

    The process sees a directory of links to what is installed here, but for those.
    """
    import subprocess
    import sys
    from pathlib import Path

    import keras_sgdr
    import keras_sgdr_cli

    packages = tmp_path_factory.mktemp("packages")
    ours = {"keras_sgdr": keras_sgdr.__file__, "keras_sgdr_cli": keras_sgdr_cli.__file__}
    installed = {name: Path(file).parent for name, file in ours.items()}
    for folder in (Path(each) for each in sys.path if each.endswith("site-packages")):
        for path in folder.iterdir():
            if path.name.split("-")[0].split(".")[0].lower() not in OPTIONAL:
                installed.setdefault(path.name, path)
    for name, path in installed.items():
        if not name.endswith(".pth"):
            (packages / name).symlink_to(path)

    def run(*arguments):
        code = "import sys; sys.path.append(sys.argv.pop(1)); from keras_sgdr_cli.main import main; main()"
        command = [sys.executable, "-I", "-S", "-c", code, str(packages), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def browser():
    """Chromium, for modules that import `tests.browser`."""
    from tests.browser import CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def s3():
    """The file system of an S3 server on this machine, with a bucket, and the environment of its clients."""
    import fsspec

    from tests.s3 import s3_server

    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        system = fsspec.filesystem("s3")
        system.mkdir("s3://bucket")
        yield system
        system.clear_instance_cache()
