"""`TTA`: a classifier that looks at fixed views of each image, as a Keras layer that can be saved and served."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sgdr.evaluation.tta import view_weights
from keras_sgdr.validation import InvalidValueError, require

ops = keras.ops
View = Callable[[Any], Any]


def _plain(images: Any) -> Any:
    return images


def _flipped(images: Any) -> Any:
    return ops.flip(images, axis=2)


def _turned(times: int) -> View:
    return lambda images: ops.rot90(images, times, axes=(1, 2))


def _turned_and_flipped(times: int) -> View:
    return lambda images: ops.rot90(_flipped(images), times, axes=(1, 2))


def _window(zoom: float, vertical: float, horizontal: float) -> View:
    """Enlarges a window of 1/zoom of the height and width; 0 is its place at the top or left, 1 at the other end."""

    def view(images: Any) -> Any:
        height, width = images.shape[1:3]
        rows, columns = max(1, round(height / zoom)), max(1, round(width / zoom))
        top, left = round((height - rows) * vertical), round((width - columns) * horizontal)
        window = images[:, top : top + rows, left : left + columns]
        return ops.image.resize(window, (height, width), data_format="channels_last")

    return view


def _crops(zoom: float) -> list[View]:
    corners = [_window(zoom, vertical, horizontal) for vertical in (0, 1) for horizontal in (0, 1)]
    return [*corners, _window(zoom, 0.5, 0.5)]


# In the order of torchvision's `five_crop` (corners by rows, then the centre), and of the symmetries of a square
_CROP_ZOOM = 8 / 7  # 224 of 256 pixels
_KINDS: dict[str, Callable[[], list[View]]] = {
    "flip": lambda: [_plain, _flipped],
    "dihedral": lambda: [_plain, *map(_turned, (1, 2, 3)), _flipped, *map(_turned_and_flipped, (1, 2, 3))],
    "five_crops": lambda: _crops(_CROP_ZOOM),
    "ten_crops": lambda: [*_crops(_CROP_ZOOM), *(_after(crop, _flipped) for crop in _crops(_CROP_ZOOM))],
    "zoom": lambda: [_plain, _window(1.1, 0.5, 0.5)],
    "zooms": lambda: [_plain, _window(1.1, 0.5, 0.5), _window(1.2, 0.5, 0.5)],
}


# How the next view's probabilities join those so far
_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "mean": ops.add,
    "gmean": ops.add,
    "max": ops.maximum,
    "min": ops.minimum,
}


def _after(first: View, second: View) -> View:
    return lambda images: second(first(images))


def _joined(parts: Sequence[View]) -> View:
    def view(images: Any) -> Any:
        for part in parts:
            images = part(images)
        return images

    return view


@keras.saving.register_keras_serializable(package="keras_sgdr")
class TTA(keras.layers.Layer):
    """Averages a classifier's probabilities over fixed views of each image.

    The views are the same for every image and every time, so that what is saved, exported and served is what was
    measured. For the views of training, drawn for each image, there is `predict_tta`.

    Args:
        model: A classifier: images `(batch, height, width, 3)` in [0, 255] of a fixed size → probabilities.
        views: Kinds of views; of several, all combinations are taken, in the order of `itertools.product`: `"flip"`
            (left to right: 2 views), `"dihedral"` (the 8 symmetries of a square, for square images), `"five_crops"`
            (four corners and the centre, 7/8 as high and wide), `"ten_crops"` (those, and mirrored), `"zoom"` (1 and
            1.1 times, centred), `"zooms"` (1, 1.1 and 1.2 times).
        weights: One for each view, >= 0 and not all 0, which are scaled to sum to 1; the same for all if None; or that
            of the plain image among the others by name, as in `predict_tta`: `"fastai_0.7"`, `"fastai_1"` or
            `"fastai_2"` (for kinds of views that begin with the plain one).
        merge: `"mean"`, `"gmean"` for the geometric mean, `"max"` or `"min"`, which have no weights.

    Raises:
        ValueError: If a view or merge is unknown, or there is not a weight for each view.

    Example:
        ```python
        served = keras.Sequential([keras.Input(model.input_shape[1:]), TTA(model, ["flip", "zooms"])])
        served.predict(images)
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        views: str | Sequence[str] = ("flip",),
        *,
        weights: Sequence[float] | str | None = None,
        merge: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        kinds = (views,) if isinstance(views, str) else tuple(views)
        unknown = [kind for kind in kinds if kind not in _KINDS]
        require(bool(kinds) and not unknown, f"`views` must be of {', '.join(_KINDS)}", views=views)
        require(merge in _MERGES, f"`merge` must be one of {', '.join(_MERGES)}", merge=merge)
        self.model, self.kinds, self.merge = model, kinds, merge
        self._views = [_joined(parts) for parts in itertools.product(*(_KINDS[kind]() for kind in kinds))]
        given = self._weights_of(weights)
        if len(given) != len(self._views) or min(given) < 0 or not 0 < math.fsum(given) < math.inf:
            raise InvalidValueError(
                f"`weights` must be {len(self._views)} numbers >= 0, one for each view, not all 0. Received: "
                f"weights={weights}."
            )
        self.view_weights = [weight / math.fsum(given) for weight in given]

    def _weights_of(self, weights: Sequence[float] | str | None) -> list[float]:
        if weights is None:
            return [1.0] * len(self._views)
        if not isinstance(weights, str):
            return [float(weight) for weight in weights]
        begins_plain = not {"five_crops", "ten_crops"} & set(self.kinds)
        require(begins_plain, "`views` must begin with the plain image for weights by name", views=self.kinds)
        return [float(weight) for weight in view_weights(len(self._views) - 1, weights)]

    @property
    def num_views(self) -> int:
        """How many views of each image the model is shown."""
        return len(self._views)

    def call(self, images: Any) -> Any:
        """Returns probabilities, float32 of shape `(batch, num_classes)`, rows summing to 1."""
        images = ops.cast(images, "float32")
        if "dihedral" in self.kinds and images.shape[1] != images.shape[2]:
            raise InvalidValueError(
                f"`views` may be 'dihedral' for square images. Received: images of {images.shape[1:3]} pixels."
            )
        merged = None
        for view, weight in zip(self._views, self.view_weights, strict=True):
            probabilities = ops.cast(self.model(view(images), training=False), "float32")
            if self.merge == "gmean":
                probabilities = ops.log(ops.maximum(probabilities, 1e-30))
            if self.merge in ("mean", "gmean"):
                probabilities = weight * probabilities
            # One after the other: the views of a batch are never in memory together.
            merged = probabilities if merged is None else _MERGES[self.merge](merged, probabilities)
        if self.merge == "gmean":
            merged = ops.exp(merged)
        merged = ops.maximum(merged, 1e-30)  # the smallest of each class may all be 0
        return merged / ops.sum(merged, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The model's."""
        return self.model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config: dict[str, Any] = super().get_config()
        model = keras.saving.serialize_keras_object(self.model)
        given = {"model": model, "views": list(self.kinds), "weights": self.view_weights, "merge": self.merge}
        return {**config, **given}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TTA:
        """Returns the layer of a config."""
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def with_views(model: keras.Model, views: Sequence[str]) -> keras.Model:
    """Returns a model that averages over views of each image, or the model itself where there are none.

    Args:
        model: A classifier for images of one size.
        views: As in `TTA`.
    """
    if not views:
        return model
    return keras.Sequential([keras.Input(model.input_shape[1:], name="images"), TTA(model, views)], name=model.name)
