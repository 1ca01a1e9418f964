"""Exports a classifier for TensorFlow Serving: encoded images in, probabilities and class names out."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.data.decode.decode_image import checked_resize
from keras_sgdr.data.index.file_names import in_utf8
from keras_sgdr.serving.model_card import model_card
from keras_sgdr.serving.signatures import Signature, signatures
from keras_sgdr.serving.warmup import write_warmup
from keras_sgdr.validation import require, require_integer

LABELS, CARD = "assets/labels.txt", "assets/model_card.json"
_WARMUP = "assets.extra/tf_serving_warmup_requests"
# The signatures that clients ask first
WARMED, _WARM_BATCHES = ("serving_default", "tolerant"), (1, 8)
PRECISIONS = ("float32", "float16", "bfloat16")


def export_savedmodel(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    version: int | None = None,
    name: str | None = None,
    resize: str = "crop",
    views: Sequence[str] = (),
    threshold: float | None = None,
    precision: str = "float32",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `directory/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    Its signature `serving_default` takes `image_bytes`, encoded images (JPEG, PNG, GIF, BMP or WebP files as
    they are, of any sizes), shape `(batch,)`, and returns

    - `probabilities`: float32, shape `(batch, num_classes)`,
    - `class_names`: strings, shape `(batch, num_classes)`, the names of the columns, the same in every row,
    - `predicted_class`: strings, shape `(batch,)`, the name of the most probable class, or empty, which is "don't
      know", where its probability is below `threshold`,
    - `top_classes`, `top_probabilities`: the five most probable (or all, if there are fewer), shape `(batch, 5)`.

    An image that is bad fails the request, with its place and the reason; `tolerant` answers a row of NaN for it and
    the reason in `status`, which is empty for the others. `pixels` (uint8) and `float_pixels` (float32 in [0, 255])
    take images that are decoded, of any one size; `features` gives the activations that the last layer reads;
    `classify` is for the Classify API of TensorFlow Serving. Where there are `views`, `serve_tta` is
    `serving_default`, and `serve_plain` looks at the plain image alone.

    Decoding, EXIF orientation and resizing run inside the graph with the code that training used, so a client
    sends files and the numbers cannot differ. Loading needs TensorFlow alone, neither Keras nor this package.
    Beside the graph lie `assets/labels.txt`, `assets/model_card.json` and requests with which TensorFlow Serving warms
    up; in `directory` a README, `models.config` and `batching_parameters.txt`, unless they are there.

    Args:
        model: A classifier whose input is `(height, width, 3)` with values in [0, 255].
        directory: The model's base path, as in `--model_base_path` of TensorFlow Serving.
        class_names: One name per output column.
        version: A positive integer. Defaults to one more than the highest version in `directory`.
        name: What clients call the model. Defaults to the name of `directory`. Characters other than letters, digits,
            `_`, `-` and `.` become `_`.
        resize: How an image is brought to the model's size, as in `load_dataset`. Give what training used.
        views: Kinds of views over which to average, as in `TTA`; none for the plain image.
        threshold: In [0, 1]; None for a class in every row.
        precision: `"float32"`, or how the weights are stored at half the size: `"float16"` or `"bfloat16"`; what is
            computed stays float32.
        about: What else the model card is to tell, as JSON values.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: If the names do not fit the model, or `version` exists already or is not positive.

    Example:
        ```python
        path = export_savedmodel(model, "served/pets", class_names=index.class_names)
        serve = tf.saved_model.load(path).signatures["serving_default"]
        serve(image_bytes=tf.io.read_file("rex.jpg")[None])["predicted_class"]
        ```
    """
    class_names = [str(each) for each in class_names]
    image_size = _check_model(model, class_names)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    version = _next_version(directory) if version is None else version
    target = directory / str(_check_version(version, directory))
    require(threshold is None or 0 <= threshold <= 1, "`threshold` must be in [0, 1] or None", threshold=threshold)
    views = (views,) if isinstance(views, str) else views
    require(precision in PRECISIONS, f"`precision` must be one of {', '.join(PRECISIONS)}", precision=precision)
    options: dict[str, Any] = {"views": views, "threshold": threshold, "precision": precision}
    found = signatures(model, class_names, resize=checked_resize(resize), **options)
    name = re.sub(r"[^\w.-]", "_", name or directory.resolve().name, flags=re.ASCII) or "classifier"
    preprocessing = {"image_size": list(image_size), "resize": resize}
    decides = {"views": list(views), "threshold": threshold, "precision": precision}
    card = {"name": name, **model_card(model, class_names, preprocessing), **decides, **(about or {})}
    card["signatures"] = {each: signature.words for each, signature in found.items()}
    # TensorFlow Serving polls the base path and loads any folder whose name is a number, finished or not.
    aside = directory / f".{version}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(found, aside)
        _write_assets(aside, card)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _write_beside(directory, name, card)
    return target


def _write(found: Mapping[str, Signature], path: Path) -> None:
    archive = keras.export.ExportArchive()
    for name, signature in found.items():
        archive.add_endpoint(name, signature.function, input_signature=list(signature.inputs.values()))
    archive.write_out(str(path), verbose=False)
    # Keras gives all signatures the method of Predict; the Classify API may insist on its own.
    methods = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
    methods.replace_method_name("classify", tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME, tags=["serve"])
    methods.save()


def _write_assets(path: Path, card: Mapping[str, Any]) -> None:
    for name in (LABELS, _WARMUP):
        (path / name).parent.mkdir(exist_ok=True)
    # A name may hold the end of a line; the card has it as it is.
    labels = [in_utf8(name).replace("\\", "\\\\").replace("\n", "\\n") for name in card["classes"]]
    (path / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (path / CARD).write_text(json.dumps(in_utf8(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    image = blank_image(card["preprocessing"]["image_size"])
    requests = [(name, {"image_bytes": [image] * number}) for name in WARMED for number in _WARM_BATCHES]
    write_warmup(path / _WARMUP, requests, name=card["name"])


def blank_image(image_size: Sequence[int]) -> bytes:
    """Returns a JPEG of a size, height and width, from black to white."""
    height, width = image_size
    grey = np.linspace(0, 255, height * width).reshape(height, width, 1).repeat(3, axis=2)
    encoded: bytes = tf.io.encode_jpeg(tf.constant(grey, tf.uint8)).numpy()
    return encoded


def _write_beside(directory: Path, name: str, card: Mapping[str, Any]) -> None:
    """What whoever runs the server needs, beside the versions, where TensorFlow Serving does not look."""
    signatures = "\n".join(f"- `{each}`: {words}" for each, words in card["signatures"].items())
    for file, text in _BESIDE.items():
        if (directory / file).exists():  # perhaps changed by whoever runs the server
            continue
        with atomic_write(directory / file) as aside:
            aside.write_text(text.replace("{signatures}", signatures).replace("{name}", name), encoding="utf-8")


_BESIDE = {
    "models.config": """\
model_config_list {
  config { name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }
}
""",
    "batching_parameters.txt": """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 4 }
""",
    "README.md": """\
# {name}

An image classifier for TensorFlow Serving. In this directory:

```
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}" -e MODEL_NAME={name} tensorflow/serving
```

and in another terminal

```
echo "{\\"instances\\": [{\\"b64\\": \\"$(base64 <rex.jpg | tr -d '\\n')\\"}]}" >request.json
curl -d @request.json http://localhost:8501/v1/models/{name}:predict
```

or `keras-sgdr predict --url http://localhost:8501/v1/models/{name} rex.jpg`.

Another signature is asked for by `"signature_name"` beside `"instances"`:

{signatures}

What the model is, what it was measured on and how it reads an image says `assets/model_card.json` of a version.

To join requests into batches, add
`--enable_batching --batching_parameters_file=/models/{name}/batching_parameters.txt` to the first command. A bad image
then fails all requests of its batch, unless clients ask `tolerant`; a request of more than 32 images is refused.
For several models, begin with
`--model_config_file=/models/{name}/models.config`.
""",
}


def _check_model(model: keras.Model, class_names: list[str]) -> tuple[int, int]:
    shape, num_outputs = model.input_shape, model.output_shape[-1]
    has_one_size = len(shape) == 4 and shape[3] == 3 and None not in shape[1:3]
    require(has_one_size, "`model` must take images of one size, (height, width, 3)", input_shape=shape)
    require(
        num_outputs == len(class_names),
        f"`class_names` must name each of the model's {num_outputs} outputs",
        class_names=class_names,
    )
    return shape[1], shape[2]


def is_version(name: str) -> bool:
    """Whether TensorFlow Serving takes a folder of that name for a version."""
    return name.isascii() and name.isdecimal()


def _next_version(directory: Path) -> int:
    versions = [int(path.name) for path in directory.glob("*") if is_version(path.name)]
    return max(versions, default=0) + 1


def _check_version(version: int, directory: Path) -> int:
    require_integer("version", version)
    target = directory / str(version)
    require(
        not target.exists(), f"`version` must be new, or None for the next one, and {target} exists", version=version
    )
    return version
