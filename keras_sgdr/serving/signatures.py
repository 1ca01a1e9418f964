"""The signatures of an export: what a server can be asked, as functions of TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_sgdr.data.decode.crop import Crop
from keras_sgdr.data.decode.decode_image import decode_image, fit, is_too_large, kind_of
from keras_sgdr.data.decode.pixel_limit import MAX_JPEG_PIXELS, MAX_PIXELS
from keras_sgdr.data.index.file_names import as_bytes
from keras_sgdr.data.index.formats import DECODED
from keras_sgdr.evaluation.tta_layer import with_views
from keras_sgdr.validation import require

_TOP = 5
_NAMED = 10
_EXAMPLE_FEATURE = "image/encoded"
_ENCODED = {"image_bytes": tf.TensorSpec([None], tf.string, name="image_bytes")}
_EMPTY, _UNKNOWN = "the file is empty", f"it is no {', '.join([*DECODED][:-1])} or {[*DECODED][-1]} image"
_DAMAGED = "it is damaged"
_TOO_LARGE = f"it has more than {MAX_JPEG_PIXELS} pixels as a JPEG, or {MAX_PIXELS} in another format"

Outputs = dict[str, Any]


class Signature(NamedTuple):
    """One signature.

    Attributes:
        function: From tensors, named as in `inputs`, to named tensors.
        inputs: What it takes.
        words: What it is for.
    """

    function: Callable[..., Outputs]
    inputs: dict[str, tf.TensorSpec]
    words: str


def signatures(
    model: keras.Model,
    class_names: Sequence[str],
    *,
    resize: str,
    views: Sequence[str],
    threshold: float | None,
    precision: str = "float32",
) -> dict[str, Signature]:
    """Returns the signatures of a classifier by name.

    Args:
        model: A classifier for images of one size.
        class_names: A name for each output.
        resize: As in `decode_image`.
        views: As in `TTA`; none for the plain image.
        threshold: The probability below which no class is named, or None.
        precision: How the weights are stored.
    """
    image_size = model.input_shape[1:3]
    decode = _decoder(image_size, resize)
    stored = [] if precision == "float32" else _stored_as(model, precision)
    # Traced here, once each, and called by all signatures: Keras traces those themselves twice.
    plain = _Traced(model, image_size, stored)
    served = _Traced(with_views(model, views), image_size, stored) if views else plain
    answer = _answerer(class_names, threshold or 0.0)

    def over_images(predictor: Any) -> Callable[..., Outputs]:
        return lambda image_bytes: answer(predictor(_all_or_none(*decode(image_bytes))))

    def tolerant(image_bytes: Any) -> Outputs:
        images, reasons = decode(image_bytes)
        return {**answer(served(images), reasons == b""), "status": reasons}

    def over_pixels(pixels: Any) -> Outputs:
        return answer(served(_resized(pixels, image_size, resize)))

    def classify(inputs: Any) -> Outputs:
        feature = {_EXAMPLE_FEATURE: tf.io.FixedLenFeature([], tf.string, default_value="")}
        encoded = tf.io.parse_example(inputs, feature)[_EXAMPLE_FEATURE]
        answered = answer(served(_all_or_none(*decode(encoded))))
        return {"classes": answered["class_names"], "scores": answered["probabilities"]}

    encoded = _ENCODED
    found = {
        "serving_default": Signature(over_images(served), encoded, "image files; one that is bad fails the request"),
        "tolerant": Signature(tolerant, encoded, "image files; a bad one has NaN, and its reason in `status`"),
        "pixels": Signature(over_pixels, _pixels("uint8"), "RGB images of any one size, uint8"),
        "float_pixels": Signature(
            over_pixels, _pixels("float32"), "RGB images of any one size, float32 in [0, 255], rounded"
        ),
        "classify": Signature(
            classify,
            {"inputs": tf.TensorSpec([None], tf.string, name="inputs")},
            f"tf.train.Example with image files under {_EXAMPLE_FEATURE}, as the Classify API sends them",
        ),
    }
    features = features_of(model)
    if features is not None:
        pooled = _Traced(features, image_size, stored)
        found["features"] = Signature(
            lambda image_bytes: {"features": pooled(_all_or_none(*decode(image_bytes)))},
            encoded,
            "image files to the activations that the last layer reads, for a search or to watch a drift",
        )
    if views:
        found["serve_tta"] = Signature(over_images(served), encoded, "what `serving_default` does: averages over views")
        found["serve_plain"] = Signature(over_images(plain), encoded, "the plain image alone, for less work")
    return found


def features_of(model: keras.Model) -> keras.Model | None:
    """Returns the model up to what its last layer reads, if that is a dense one that reads one vector an image."""
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or len(last.input.shape) != 2:
        return None
    return keras.Model(model.inputs, last.input, name=f"{model.name}_features")


Stored = list[tuple[keras.Variable, keras.Variable]]


def _stored_as(model: keras.Model, precision: str) -> Stored:
    """Each of a model's float32 weights, and one of half its size that takes its place."""
    weights = [weight for weight in model.variables if weight.dtype == "float32"]
    largest = max((float(np.abs(weight.numpy()).max()) for weight in weights), default=0.0)
    fits = largest <= float(tf.as_dtype(precision).max)
    require(fits, "`precision` must be one that can hold the weights: bfloat16", precision=precision, largest=largest)
    return [(weight, keras.Variable(weight.numpy(), dtype=precision, name=weight.name)) for weight in weights]


class _Traced:
    """A model's function in a graph, and what that reads: TensorFlow itself holds variables weakly."""

    def __init__(self, model: keras.Model, image_size: tuple[int, int], stored: Stored) -> None:
        self._stored = stored
        spec = tf.TensorSpec([None, *image_size, 3], tf.uint8, name="images")

        def call(images: Any) -> Any:
            # What is computed is float32 as before: only the weights are rounded.
            with keras.StatelessScope([(weight, keras.ops.cast(half, "float32")) for weight, half in stored]):
                return tf.cast(model(images, training=False), tf.float32)

        self._concrete = tf.function(call, input_signature=[spec], autograph=False).get_concrete_function()

    def __call__(self, images: Any) -> Any:
        return self._concrete(images)


def _decoder(image_size: tuple[int, int], resize: str) -> Any:
    """From files to uint8 images, and for each why there is none, or nothing; then its pixels are 0."""

    @tf.autograph.experimental.do_not_convert
    def one(number: Any, encoded: Any) -> tuple[Any, Any, Any]:
        return number, *_image_or_nothing(encoded, image_size, resize)

    def decode(image_bytes: Any) -> tuple[Any, Any]:
        number = tf.shape(image_bytes)[0]
        some = tf.debugging.Assert(number > 0, ["there must be at least one image"])
        with tf.control_dependencies([some]):
            image_bytes = tf.identity(image_bytes)
        # A graph cannot catch an error, but a pipeline can leave out what fails: so no image fails the others.
        data = tf.data.Dataset.from_tensor_slices((tf.range(number), image_bytes))
        data = data.map(one).ignore_errors().batch(tf.cast(tf.maximum(number, 1), tf.int64))
        none = (tf.zeros([0], tf.int32), tf.zeros([0], tf.bool), tf.zeros([0, *image_size, 3], tf.uint8))
        whole, is_image, images = data.concatenate(tf.data.Dataset.from_tensors(none)).take(1).get_single_element()
        places = whole[:, tf.newaxis]
        images = tf.scatter_nd(places, images, tf.stack([number, *image_size, 3]))
        # 0 for what failed, 1 for what is too large, 2 for an image
        found = tf.scatter_nd(places, 1 + tf.cast(is_image, tf.int32), number[tf.newaxis])
        return tf.ensure_shape(images, (None, *image_size, 3)), _reasons(image_bytes, found)

    return tf.function(decode, input_signature=[_ENCODED["image_bytes"]], autograph=False).get_concrete_function()


def _image_or_nothing(encoded: Any, image_size: tuple[int, int], resize: str) -> tuple[Any, Any]:
    """Whether an image may be decoded, and the image, or pixels of 0."""
    is_within = ~is_too_large(encoded)
    image = tf.cond(
        is_within,
        lambda: decode_image(encoded, image_size=image_size, resize=resize),
        lambda: tf.zeros([*image_size, 3], tf.uint8),
    )
    return is_within, image


def _reasons(image_bytes: Any, found: Any) -> Any:
    kinds = tf.map_fn(kind_of, image_bytes, fn_output_signature=tf.TensorSpec([], tf.int32))
    is_empty, is_known = tf.strings.length(image_bytes) == 0, kinds < len(DECODED)
    why = tf.where(is_empty, _EMPTY, tf.where(is_known, _DAMAGED, _UNKNOWN))
    return tf.where(found == 2, "", tf.where(found == 1, _TOO_LARGE, why))


def _all_or_none(images: Any, reasons: Any) -> Any:
    """Fails if an image is missing, naming each of the first few by its place."""
    bad = tf.where(reasons != b"")[:, 0]
    named = tf.strings.join(["instance ", tf.strings.as_string(bad), ": ", tf.gather(reasons, bad)])
    message = tf.strings.reduce_join(named[:_NAMED], separator="; ")
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message])]):
        return tf.identity(images)


def _answerer(class_names: Sequence[str], threshold: float) -> Callable[..., Outputs]:
    top = min(_TOP, len(class_names))

    def answer(probabilities: Any, is_good: Any = True) -> Outputs:
        names = tf.constant([as_bytes(name) for name in class_names])  # a folder's name need not be UTF-8
        highest, places = tf.math.top_k(probabilities, k=top)
        is_sure = (highest[:, 0] >= threshold) & is_good

        def or_nan(values: Any) -> Any:
            return values if is_good is True else tf.where(is_good[:, tf.newaxis], values, float("nan"))

        return {
            "probabilities": or_nan(probabilities),
            # One row per image: the REST interface answers in rows and refuses outputs of other lengths.
            "class_names": tf.tile(names[tf.newaxis], [tf.shape(probabilities)[0], 1]),
            "predicted_class": tf.where(is_sure, tf.gather(names, places[:, 0]), b""),
            "top_classes": tf.gather(names, places),
            "top_probabilities": or_nan(highest),
        }

    return answer


def _resized(pixels: Any, image_size: tuple[int, int], resize: str) -> Any:
    images = tf.cast(tf.round(tf.clip_by_value(tf.cast(pixels, tf.float32), 0.0, 255.0)), tf.uint8)
    top, left, height, width = Crop(image_size, resize).window(tf.shape(images)[1], tf.shape(images)[2])
    return tf.map_fn(
        lambda image: fit(image, image_size=image_size, resize=resize),
        images[:, top : top + height, left : left + width],
        fn_output_signature=tf.TensorSpec((*image_size, 3), tf.uint8),
    )


def _pixels(dtype: str) -> dict[str, tf.TensorSpec]:
    return {"pixels": tf.TensorSpec([None, None, None, 3], dtype, name="pixels")}
