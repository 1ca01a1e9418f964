"""Classifiers for phones and other runtimes: TensorFlow Lite and ONNX, and what such a file says of images."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import MissingPackageError, require

# Format -> how its numbers may be stored.
PRECISIONS = {"tflite": ("float32", "float16", "int8"), "onnx": ("float32",)}


def export_portable(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    calibration: Any = None,
) -> None:
    """Writes a classifier as a TensorFlow Lite or an ONNX file, as the suffix of `path` says.

    Neither format can decode a file: the input is what the model takes, float32 of shape
    `(batch, height, width, 3)`, RGB in [0, 255], which the caller decodes and resizes; the output is probabilities.

    Args:
        model: A classifier for images of one size.
        path: A file that ends in `.tflite` or `.onnx`.
        precision: `"float32"`; for `.tflite` also `"float16"` (weights at half the size) or `"int8"` (weights and
            activations at a quarter; input and output stay float32).
        calibration: For `"int8"` images like those that will come, `(n, height, width, 3)`, by which the ranges of the
            activations are found; a hundred are enough.

    Raises:
        ValueError: If the format has no such precision, or there are no images to calibrate with.
        ImportError: If the packages of `keras-sgdr[onnx]` are needed and missing.
    """
    path = Path(path)
    kind = path.suffix[1:]
    require(kind in PRECISIONS, f"`path` must end in {', '.join(f'.{each}' for each in PRECISIONS)}", path=str(path))
    check_portable(kind, precision)
    has_images = precision != "int8" or (calibration is not None and len(calibration) > 0)
    require(has_images, "`calibration` must be images for int8", calibration=calibration)
    with atomic_write(path) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters, on themselves
        if kind == "tflite":
            aside.write_bytes(_tflite(model, precision, calibration))
        else:
            _write_onnx(model, aside)


def check_portable(file_format: str, precision: str) -> None:
    """Refuses what `export_portable` would refuse, before the work.

    Args:
        file_format: `"tflite"` or `"onnx"`.
        precision: How its numbers are stored.

    Raises:
        ValueError: If the format has no such precision.
        ImportError: If the packages of `keras-sgdr[onnx]` are needed and missing.
    """
    must = f"`precision` of {file_format} must be one of {', '.join(PRECISIONS[file_format])}"
    require(precision in PRECISIONS[file_format], must, precision=precision)
    if file_format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import tf2onnx  # noqa: F401
        except ImportError as error:
            must = "ONNX needs further packages: pip install 'keras-sgdr[onnx]'"
            raise MissingPackageError(f"{must} ({error}).") from error


def load_portable(path: str | os.PathLike[str]) -> Callable[[Any], np.ndarray]:
    """Returns a function from images to the probabilities that a file of `export_portable` gives.

    Args:
        path: The file.

    Returns:
        From images `(batch, height, width, 3)` in [0, 255] to float32 of shape `(batch, num_classes)`.
    """
    run = _tflite_runner(path) if Path(path).suffix == ".tflite" else _onnx_runner(path)
    return lambda images: run(np.asarray(images, np.float32))


def _tflite(model: keras.Model, precision: str, calibration: Any) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="images")
        archive.add_endpoint(
            "serving_default", lambda images: {"probabilities": model(images, training=False)}, input_signature=[spec]
        )
        archive.write_out(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            images = np.asarray(calibration, np.float32)
            converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))
        converted: bytes = converter.convert()
    return converted


def _write_onnx(model: keras.Model, path: Path) -> None:
    spec = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name="images")
    model.export(str(path), format="onnx", verbose=False, input_signature=[spec])


def _tflite_runner(path: str | os.PathLike[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter will move to a package of its own
        interpreter = tf.lite.Interpreter(model_path=os.fspath(path))
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: Any) -> np.ndarray:
        interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(found["index"]))

    return run


def _onnx_runner(path: str | os.PathLike[str]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]
