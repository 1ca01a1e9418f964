"""`Recipe`: the settings of the eight steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from keras_sgdr.validation import InvalidValueError, require, require_integer

# Functions of `augmentation.random_view`, and what `load_dataset` knows
AUGMENTATIONS = ("basic", "side_on", "top_down")
RESIZES = ("crop", "squish", "pad")
IMAGE_CACHES = ("auto", "memory", "off")
_LEAST_INTEGERS = {
    **dict.fromkeys(("image_size", "batch_size", "n_cycles", "cycle_len", "cycle_mult"), 1),
    "num_groups": 2,  # the head is one
    "head_views": 0,
    "head_cycles": 0,
    "tta_views": 0,
    "seed": 0,
}
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "valid_fraction": ("in (0, 1)", lambda value: 0 < value < 1),
    "max_zoom": ("in [1, 10]", lambda value: 1 <= value <= 10),
    "dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
    "group_factor": ("a finite number >= 1", lambda value: 1 <= value < math.inf),
    "head_learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
    "learning_rate": ("a finite number > 0", lambda value: 0 < value < math.inf),
}
_MAY_BE_NONE = ("cycle_len", "head_learning_rate", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of the eight steps; the defaults suit photographs of things seen from the side.

    Attributes:
        backbone: A name that `build_classifier` knows, or the path of a `.keras` file with a functional model of yours,
            from RGB images in [0, 255] to features; its weights are those in the file.
        weights: Of a backbone given by name: `"imagenet"`, the path of a weights file, or `None` for random ones.
        image_size: Height and width of the model's input in pixels, one number for both.
        resize: How an image is brought to that size: `"crop"`, `"squish"` or `"pad"`.
        batch_size: Images per step, >= 1.
        valid_fraction: The share of each class held out, in (0, 1), if the folder has no `valid/`.
        train: The name of the folder of training images, if it is none that `index_folder` knows; "." if the class
            folders are in the folder itself.
        valid: The name of the folder of validation images, likewise.
        test: The name of the folder of test images, likewise; where they have labels, they are scored at the end.
        label_delimiter: Of a CSV whose cells hold several labels, as in `index_folder`.
        suffix: Appended to the names in a CSV that lack it, for instance ".jpg".
        augmentation: `"side_on"` (photographs: flipped left to right), `"top_down"` (satellites, microscopes:
            all eight symmetries) or `"basic"` (no flip: digits, text).
        max_zoom: The largest zoom of the augmentation, >= 1.
        image_cache: Where decoded images are kept from one epoch to the next, which changes nothing but the time that
            it takes: `"auto"`, in memory if they take no more than 2 GiB, nor a quarter of what is free; `"memory"`, if
            they take no more than is free; a directory, as a path with a slash in it (`./images`); `"off"`, to decode
            them in every epoch.
        dropout: The share of features dropped before the head, in [0, 1).
        head_views: Augmented views of each image whose activations the head is trained on, besides those of the image
            as it is (step 4). 0 leaves them out.
        head_cycles: Cycles of one epoch of the head with new views in each, after that, at the rate of step 2, as the
            course has it. From a head at its optimum they lead away more often than on, hence 0 by default.
        n_cycles: Cycles of the whole network at most (step 8); they end when one of them is no better than the last.
            The run says if more may help.
        cycle_len: Epochs of the first of them. Defaults to about 200 batches: at least 7 epochs, up to 70 of a small
            folder.
        cycle_mult: Each further cycle is this many times as long.
        gradual_unfreezing: Whether the first cycle of step 8 trains the head and the group before it, and each further
            cycle a group more, instead of all groups at once (ULMFiT, https://arxiv.org/abs/1801.06146, section 3.3).
            There must be a cycle for each group before the head; so give `n_cycles`, and a `cycle_len` of a few epochs.
        num_groups: Layer groups with a learning rate each (step 6).
        group_factor: Each group's rate is the next one's divided by this, so that the first of three has a third of the
            last one's. The course takes 3 to 10, for a head that has still to be learnt; ours is at its optimum.
        head_learning_rate: The rate of `head_cycles`. Defaults to the finder's suggestion (step 2).
        learning_rate: The last group's rate in step 8. Defaults to what step 7 chooses.
        tta_views: Augmented views per image in the evaluation.
        seed: Seed of the split, the order, the augmentation and the head's first weights.
    """

    backbone: str = "EfficientNetLite0"
    weights: str | None = "imagenet"
    image_size: int = 224
    resize: str = "crop"
    batch_size: int = 32
    valid_fraction: float = 0.2
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    label_delimiter: str | None = None
    suffix: str = ""
    augmentation: str = "side_on"
    max_zoom: float = 1.1
    image_cache: str = "auto"
    dropout: float = 0.2
    head_views: int = 2
    head_cycles: int = 0
    n_cycles: int = 1
    cycle_len: int | None = None
    cycle_mult: int = 2
    gradual_unfreezing: bool = False
    num_groups: int = 3
    group_factor: float = 1.75
    head_learning_rate: float | None = None
    learning_rate: float | None = None
    tta_views: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.augmentation in AUGMENTATIONS,
            f"`augmentation` must be one of {AUGMENTATIONS}",
            augmentation=self.augmentation,
        )
        cache = str(self.image_cache)
        # A mere word is rather misspelt than the name of a folder.
        is_path = "/" in cache or "\\" in cache
        require(
            cache in IMAGE_CACHES or is_path,
            f"`image_cache` must be one of {IMAGE_CACHES}, or a directory such as ./images",
            image_cache=self.image_cache,
        )
        require(self.resize in RESIZES, f"`resize` must be one of {RESIZES}", resize=self.resize)
        values = {name: value for name, value in vars(self).items() if value is not None or name not in _MAY_BE_NONE}
        for name, least in _LEAST_INTEGERS.items():
            if name in values:
                require_integer(name, values[name], low=least)
                object.__setattr__(self, name, int(values[name]))  # NumPy's integers cannot be written as JSON
        for name, (allowed, holds) in _RANGES.items():
            if name in values:
                is_number = isinstance(values[name], (int, float)) and not isinstance(values[name], bool)
                require(is_number and holds(values[name]), f"`{name}` must be {allowed}", **{name: values[name]})
        require(
            isinstance(self.gradual_unfreezing, bool),
            "`gradual_unfreezing` must be True or False",
            gradual_unfreezing=self.gradual_unfreezing,
        )
        if self.gradual_unfreezing and self.n_cycles < self.num_groups - 1:
            raise InvalidValueError(
                "`n_cycles` must be at least `num_groups - 1` with `gradual_unfreezing`, which unfreezes a group in "
                f"each cycle. Received: n_cycles={self.n_cycles}, num_groups={self.num_groups}. Pass for instance "
                f"n_cycles={self.num_groups}, cycle_len=2."
            )
