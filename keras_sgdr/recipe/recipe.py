"""`Recipe`: the settings of the eight steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from keras_sgdr.recipe.settings import AUTO_VIEWS, IMAGE_SIZE, VIEWS, checked


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of the eight steps; the defaults suit photographs of things seen from the side.

    Attributes:
        backbone: A name that `build_classifier` knows, or the path of a `.keras` file with a functional model of yours,
            from RGB images in [0, 255] to features; its weights are those in the file.
        weights: Of a backbone given by name: `"imagenet"`, the path of a weights file, or `None` for random ones.
        start_from: The directory of a finished run whose network this one begins with, for more images or other
            classes; the backbone must be that run's. The head keeps what it knows of classes of the same name.
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
        learning_rates: Step 8's rates, one for each layer group from the first to the head, instead of `learning_rate`
            and `group_factor`: the course's own way to say it.
        rate_batch_size: The batch size that the given rates were meant for. They are multiplied by what an update sees
            now, `batch_size` (in step 8 times `accumulate`), over it: the linear scaling rule,
            https://arxiv.org/abs/1706.02677, timm's `--lr-base-size`. What a finder chooses is of these batches already
            and stays. None takes the rates as they are given.
        sizes: Image sizes that step 8 trains at one after the other, rising, the last of them the model's; steps 1
            to 7 then run at the first. Each size has an equal part of the first cycle's epochs. None is `image_size`
            alone.
        class_weight: `"balanced"` lets each class count as much in training, by weights; None each image.
        oversample: Whether the images of rare classes are repeated in training until all classes have as many.
        mixup: The strength (alpha) of MixUp, https://arxiv.org/abs/1710.09412, in step 8 and in `head_cycles`; 0 for
            none.
        cutmix: The strength (alpha) of CutMix, https://arxiv.org/abs/1905.04899, there; 0 for none.
        label_smoothing: The share of each label that is spread over all classes there, in [0, 1).
        ema: The momentum of a moving average of the weights in step 8, which is then what is measured and kept; 0.99
            averages over some hundred batches. 0 for none.
        accumulate: Batches whose gradients step 8 averages before each update.
        precision: In which numbers the network computes: `"auto"` is `"mixed_bfloat16"` or `"mixed_float16"` on a GPU
            that gains by it, else `"float32"`. A backbone from a `.keras` file keeps its own.
        xla: Whether XLA compiles the steps of training and validation in steps 7 and 8, which takes seconds to minutes
            once; rounding errors and dropout's masks are others then. "auto" is Keras's choice, on where there is one
            GPU; "on" or "off". What it gains depends on the network and the device.
        group_by: A regular expression that finds in an image's path what must not be in training and validation both,
            such as `patient[0-9]+`, as in `index_folder`.
        max_epochs: Epochs of step 8 at most: fewer cycles, or a shorter one. Then step 8 is not tried a second time.
        max_minutes: Minutes that a run may take, the import of TensorFlow and the report included: a few batches are
            timed, and its cycles are planned to end in time; once more before step 8, by the time that is left. Then
            step 8 is not tried a second time.
        tta: Over which views of an image the classifier averages, in the evaluation and ever after: `"off"`, kinds of
            `TTA` with commas between them, such as `"flip,zooms"`, or `"auto"`: those of `AUTO_VIEWS`, if they lower
            the log-loss on the validation images by more than a standard error.
        answer_precision: The share of answers that is to be right: below the probability that reaches it on the
            validation images, the answer is "don't know". None always answers.
        seed: Seed of the split, the order, the augmentation and the head's first weights.
    """

    backbone: str = "EfficientNetLite0"
    weights: str | None = "imagenet"
    start_from: str | None = None
    image_size: int = IMAGE_SIZE
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
    learning_rates: tuple[float, ...] | None = None
    rate_batch_size: int | None = None
    sizes: tuple[int, ...] | None = None
    class_weight: str | None = None
    oversample: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: str = "auto"
    xla: str = "auto"
    group_by: str | None = None
    max_epochs: int | None = None
    max_minutes: float | None = None
    tta: str = "auto"
    answer_precision: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in checked(vars(self)).items():
            object.__setattr__(self, name, value)

    @property
    def views(self) -> tuple[str, ...]:
        """The kinds of views that are looked at in the evaluation; none for the plain image."""
        if self.tta == "off":
            return ()
        return AUTO_VIEWS[self.augmentation] if self.tta == "auto" else tuple(self.tta.split(","))

    @property
    def num_views(self) -> int:
        """How many views that are of each image."""
        return math.prod(VIEWS[kind] for kind in self.views) if self.views else 0

    @property
    def mixes_labels(self) -> bool:
        """Whether step 8 trains on labels that are part of one class and part of another."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    @property
    def top_learning_rate(self) -> float | None:
        """The last group's rate in step 8, if one is given."""
        rate = self.learning_rate if self.learning_rates is None else self.learning_rates[-1]
        return self._scaled(rate, self.batch_size * self.accumulate)

    @property
    def live_head_rate(self) -> float | None:
        """The rate of `head_cycles`, if one is given."""
        return self._scaled(self.head_learning_rate, self.batch_size)

    def _scaled(self, rate: float | None, images: int) -> float | None:
        return rate if rate is None or self.rate_batch_size is None else rate * images / self.rate_batch_size

    def at_size(self, image_size: int) -> Recipe:
        """Returns the recipe for images of one size."""
        return replace(self, sizes=None, image_size=image_size)
