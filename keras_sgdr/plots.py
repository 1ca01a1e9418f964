"""Every figure of the project, drawn from plain arrays."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_sgdr.atomic_write import atomic_write
from keras_sgdr.validation import MissingFileError


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure to `path` (its suffix gives the format) and frees it.

    The image is written beside its place and then renamed, so a reader never sees half of one.

    Args:
        figure: A matplotlib `Figure`, as every function of this module returns.
        path: The file, for instance `"lr_curve.png"`; without a suffix it is a PNG.
    """
    import matplotlib.pyplot as plt

    path = Path(path)
    if not path.parent.is_dir():
        raise MissingFileError(f"`path` must be in an existing directory. Received: path={path}.")
    try:
        with atomic_write(path) as aside, _without_glyph_warnings():
            figure.savefig(aside, format=path.suffix[1:] or "png", dpi=120, bbox_inches="tight")
    finally:
        plt.close(figure)


def as_svg(figure: Any) -> str:
    """Returns a figure as the text of an SVG image, the same text for the same figure, and frees it."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    text = io.StringIO()
    try:
        with mpl.rc_context({"svg.hashsalt": "keras_sgdr"}), _without_glyph_warnings():
            figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    finally:
        plt.close(figure)
    return text.getvalue()


def plot_confusion_matrix(confusion: Any, class_names: Any) -> Any:
    """Returns a figure of a confusion matrix: counts as text, the share of each true class as colour.

    Args:
        confusion: Counts, shape `(num_classes, num_classes)`; rows are true, columns predicted classes.
        class_names: One name per class. Over 20 classes the counts are left out, over 60 the names.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    confusion = np.asarray(confusion)
    k = len(class_names)
    side = min(16.0, 2.5 + 0.45 * k)
    figure, axes = plt.subplots(figsize=(side, side))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if k <= 60:
        names = [_plain_text(_shortened(name)) for name in class_names]
        axes.set_xticks(range(k), names, rotation=90)
        axes.set_yticks(range(k), names)
    if k <= 20:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def plot_images(images: Any, titles: Any, *, columns: int = 3) -> Any:
    """Returns a figure of images in a grid, each under its title.

    Args:
        images: Arrays of shape `(height, width, 3)`, values in [0, 255].
        titles: One per image.
        columns: Images in a row.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    rows = max(1, -(-len(images) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(np.clip(np.asarray(image), 0, 255).astype("uint8"))
        axis.set_title(_plain_text(title), fontsize=8)
    _fit_layout(figure)
    return figure


def show_batch(images: Any, labels: Any = None, class_names: Any = None, *, columns: int = 8) -> Any:
    """Returns a figure of a batch as the model sees it, or of several views of one image.

    Args:
        images: Shape `(batch, height, width, 3)`, values in [0, 255].
        labels: One class number per image, shape `(batch,)`; or for each class 0, 1 or how much of a mixed image
            shows it, shape `(batch, num_classes)`; or None.
        class_names: What to write instead of the numbers.
        columns: Images in a row.
    """
    import numpy as np

    def part(number: int, share: float) -> str:
        name = str(number if class_names is None else class_names[number])
        return name if share == 1 else f"{name} {share:.2f}"

    def title(label: Any) -> str:
        shares = {int(n): float(label[n]) for n in np.flatnonzero(label)} if np.ndim(label) else {int(label): 1.0}
        return ", ".join(part(number, share) for number, share in shares.items())

    titles = [""] * len(images) if labels is None else [title(label) for label in np.asarray(labels)]
    return plot_images(images, titles, columns=min(columns, max(1, len(images))))


def plot_history(epochs: Any) -> Any:
    """Returns a figure of a run's losses and accuracy over all of its epochs, stages told apart.

    Args:
        epochs: One dictionary per epoch with `stage`, `loss`, `val_loss` and `val_accuracy`.
    """
    import matplotlib.pyplot as plt

    figure, (losses, accuracies) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(3, 2))
    x = range(1, len(epochs) + 1)
    losses.plot(x, [e["loss"] for e in epochs], marker="o", label="train loss")
    losses.plot(x, [e["val_loss"] for e in epochs], marker="o", label="valid loss")
    accuracies.plot(x, [e["val_accuracy"] for e in epochs], marker="o", color="C2", label="valid accuracy")
    stages = [e["stage"] for e in epochs]
    for i in range(len(stages)):
        if i == 0 or stages[i] != stages[i - 1]:
            losses.text(i + 0.6, 1.01, stages[i], transform=losses.get_xaxis_transform(), fontsize=8)
            for axis in (losses, accuracies):
                axis.axvline(i + 0.5, color="0.8", zorder=0)
    losses.set(ylabel="cross-entropy (nats)", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="accuracy")
    for axis in (losses, accuracies):
        axis.legend()
    _fit_layout(figure)
    return figure


def plot_lr_curve(
    learning_rates: Any,
    losses: Any,
    smoothed_losses: Any,
    *,
    suggestions: Any = None,
    validation_losses: Any = None,
    guessing_loss: float | None = None,
    band: Any = None,
) -> Any:
    """Returns a figure of a learning-rate finder's losses over the rate, on a logarithmic axis.

    Args:
        learning_rates: Shape `(n,)`, > 0.
        losses: The loss of each batch, shape `(n,)`; what is not finite is left out.
        smoothed_losses: The same smoothed, shape `(n,)`.
        suggestions: Dictionary of a rule's name and the rate that it suggests; each is marked on the smoothed curve.
        validation_losses: Loss on one validation batch, shape `(n,)`, or None.
        guessing_loss: The loss of a guess, which is marked, or None.
        band: Lowest and highest smoothed loss of several probes, two of shape `(n,)`, or None.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 4.5))
    axes.plot(learning_rates, losses, color="0.75", linewidth=1, label="loss of each batch")
    axes.plot(learning_rates, smoothed_losses, color="C0", linewidth=2, label="smoothed")
    if validation_losses is not None:
        axes.plot(learning_rates, validation_losses, color="C7", linestyle="--", label="validation batch")
    if band is not None:
        axes.fill_between(learning_rates, *band, color="C0", alpha=0.2, linewidth=0, label="all probes")
    for i, (name, rate) in enumerate((suggestions or {}).items(), start=1):
        height = np.interp(np.log(rate), np.log(learning_rates), smoothed_losses)
        axes.plot(rate, height, "o", color=f"C{i}", markersize=8, label=f"{name}: {rate:.2e}")
    _fit_height(axes, np.asarray(smoothed_losses, dtype=float))
    if guessing_loss is not None:
        axes.axhline(guessing_loss, color="0.4", linewidth=1, linestyle=":", label=f"a guess: {guessing_loss:.2f}")
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.3 * guessing_loss))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _fit_layout(figure)
    return figure


def plot_group_curves(curves: Any) -> Any:
    """Returns a figure of the finder's smoothed losses for each layer group, over a logarithmic rate.

    Args:
        curves: For each group its rates and smoothed losses, two of shape `(n,)`.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for group, (rates, losses) in enumerate(curves):
        axes.plot(rates, losses, linewidth=2, label=f"group {group}")
    smoothed = np.concatenate([np.asarray(losses, dtype=float) for _, losses in curves])
    _fit_height(axes, smoothed)
    axes.set(xscale="log", xlabel="learning rate of one group, the others at 0", ylabel="smoothed loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _fit_layout(figure)
    return figure


def plot_reliability(confidence: Any, hits: Any, *, bins: int = 10) -> Any:
    """Returns a figure of how often a classifier is right that is so sure, and of how many images are.

    Args:
        confidence: The probability of each image's predicted class, shape `(n,)`.
        hits: Whether that is the true one, shape `(n,)`.
        bins: Parts of equal width, of the range from 0 to 1.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    confidence, hits = np.asarray(confidence, float), np.asarray(hits, float)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    middles = (np.arange(bins) + 0.5) / bins
    figure, (shares, numbers) = plt.subplots(2, 1, figsize=(5.5, 5), sharex=True, height_ratios=(3, 1))
    seen = counts > 0
    sure, right = (np.bincount(place, each, minlength=bins)[seen] / counts[seen] for each in (confidence, hits))
    shares.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="to be believed")
    shares.plot(sure, right, marker="o", label="this classifier")
    shares.set(ylabel="share that is right", ylim=(0, 1.02))
    shares.legend(fontsize=8)
    numbers.bar(middles, counts, width=0.9 / bins, color="0.6")
    numbers.set(xlabel="probability of the predicted class", ylabel="images", xlim=(0, 1))
    _fit_layout(figure)
    return figure


def plot_schedule(learning_rates: Any, *, steps_per_epoch: int, cycle_ends: Any = (), names: Any = None) -> Any:
    """Returns a figure of learning rates over the epochs.

    Args:
        learning_rates: One rate per batch and group, shape `(steps, groups)`.
        steps_per_epoch: Batches in an epoch.
        cycle_ends: Epochs at which a cycle ends, counted from the start; each is marked.
        names: One name per group, or None.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    rates = np.asarray(learning_rates)
    figure, axes = plt.subplots(figsize=(7, 3.5))
    epochs = np.arange(len(rates)) / steps_per_epoch
    for group in range(rates.shape[1]):
        name = names[group] if names else f"group {group}"
        axes.plot(epochs, rates[:, group], label=f"{name}, up to {rates[:, group].max():.1e}")
    for end in cycle_ends:
        axes.axvline(end, color="0.7", linewidth=1, linestyle=":", zorder=0)
    # On a logarithmic axis nobody sees a cosine.
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    if rates.shape[1] > 1:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    _fit_layout(figure)
    return figure


def _fit_layout(figure: Any) -> None:
    with _without_glyph_warnings():
        figure.tight_layout()


@contextlib.contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Lets a letter that matplotlib's font lacks, in the name of a class, be drawn as a box without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def _shortened(name: Any) -> str:
    """A long name at the side would leave no room for the plot."""
    return str(name) if len(str(name)) <= 32 else f"{str(name)[:31]}…"


def _plain_text(text: Any) -> str:
    # matplotlib reads what stands between two dollar signs as mathematics, and fails on most of it
    return str(text).replace("$", r"\$")


def _fit_height(axes: Any, losses: Any) -> None:
    """Leaves the explosion at the end out of the figure's height: it would flatten all that matters."""
    import numpy as np

    losses = losses[np.isfinite(losses)]
    if len(losses):
        low, high = losses.min(), np.quantile(losses, 0.8)
        span = high - low or 0.1 * abs(high) or 0.1
        axes.set_ylim(low - 0.15 * span, high + 0.6 * span)
