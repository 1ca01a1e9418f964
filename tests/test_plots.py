"""The figures: what is drawn in them, read back from matplotlib."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from keras_sgdr import plots
from keras_sgdr.evaluation.interpretation import interpret, plot_mistakes
from keras_sgdr.lr_finder.lr_curve import METHODS, LRCurve
from keras_sgdr.lr_finder.lr_find_groups import GroupCurves
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lr_curve.json").read_text())


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_curve_is_drawn_raw_and_smoothed_with_every_suggestion():
    losses = np.array(GOLDEN["losses"])
    losses[-1] = np.nan
    curve = LRCurve(GOLDEN["learning_rates"], losses, validation_losses=losses + 1, guessing_loss=1.5)
    (axes,) = curve.plot().axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "loss")
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["loss of each batch"][:, 1], losses)
    np.testing.assert_array_equal(lines["smoothed"][:, 1], curve.smoothed_losses)
    np.testing.assert_array_equal(lines["validation batch"][:, 1], losses + 1)
    for method in METHODS:
        ((rate, height),) = lines[f"{method}: {curve.suggest(method):.2e}"]
        assert rate == curve.suggest(method)
        nearest = np.argmin(np.abs(np.log(curve.learning_rates / rate)))
        assert height == pytest.approx(curve.smoothed_losses[nearest], rel=0.05)
    np.testing.assert_array_equal(lines["a guess: 1.50"][:, 1], 1.5)


def test_curve_that_cannot_be_read_is_drawn_without_suggestions():
    (axes,) = LRCurve([1e-3, 1e-2], [np.nan, np.nan]).plot().axes
    assert len(axes.get_lines()) == 2


def test_exploding_batch_does_not_flatten_the_figure():
    losses = np.array(GOLDEN["losses"])
    losses[-1] = 1e9
    (axes,) = LRCurve(GOLDEN["learning_rates"], losses, smoothing=0.0).plot().axes
    assert axes.get_ylim()[1] < 10


def test_curves_of_all_groups_are_in_one_figure():
    curves = [LRCurve(GOLDEN["learning_rates"], np.array(GOLDEN["losses"]) + group) for group in range(2)]
    (axes,) = GroupCurves(tuple(curves)).plot().axes
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "smoothed loss")
    assert axes.get_xlabel() == "learning rate of one group, the others at 0"
    for group, (line, curve) in enumerate(zip(axes.get_lines(), curves, strict=True)):
        assert line.get_label() == f"group {group}"
        np.testing.assert_array_equal(line.get_xydata().T, [curve.learning_rates, curve.smoothed_losses])


def test_preview_is_drawn_over_epochs_with_the_ends_of_cycles():
    preview = SGDRScheduler(0.1, cycle_mult=2, n_cycles=2).preview(steps_per_epoch=4)
    (axes,) = preview.plot().axes
    curve, *ends = axes.get_lines()
    np.testing.assert_allclose(curve.get_xdata(), np.arange(12) / 4)
    np.testing.assert_array_equal(curve.get_ydata(), preview.learning_rates[:, 0])
    assert [line.get_xdata()[0] for line in ends] == [1, 3]
    assert (axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == ("linear", "epoch", "learning rate")
    assert axes.get_legend() is None


def test_rates_of_several_groups_are_drawn_with_their_names_and_highest_rates():
    rates = np.geomspace(1e-5, 1e-1, 12).reshape(6, 2)
    (axes,) = plots.plot_schedule(rates, steps_per_epoch=3, names=["body", "head"]).axes
    assert axes.get_yscale() == "linear"
    for group, line in enumerate(axes.get_lines()):
        np.testing.assert_allclose(line.get_xydata(), np.stack([np.arange(6) / 3, rates[:, group]], axis=1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "body, up to 4.3e-02",
        "head, up to 1.0e-01",
    ]


def test_band_of_several_probes_is_drawn():
    rates = np.geomspace(1e-4, 1, 30)
    band = np.linspace(1, 2, 30), np.linspace(3, 4, 30)
    (axes,) = plots.plot_lr_curve(rates, rates, rates, band=band).axes
    (filled,) = axes.collections
    corners = filled.get_paths()[0].vertices
    for edge in band:
        assert all(np.isclose(corners, point).all(axis=1).any() for point in zip(rates, edge, strict=True))


def test_history_has_the_losses_the_accuracy_and_each_stage():
    epochs = [
        {"stage": stage, "loss": loss, "val_loss": loss + 0.1, "val_accuracy": 1 - loss / 4}
        for stage, loss in (("head", 0.9), ("head", 0.5), ("whole", 0.4), ("whole", 0.2), ("whole", 0.1))
    ]
    losses, accuracies = plots.plot_history(epochs).axes
    drawn = {line.get_label(): line.get_xydata() for axes in (losses, accuracies) for line in axes.get_lines()}
    for name, key in (("train loss", "loss"), ("valid loss", "val_loss"), ("valid accuracy", "val_accuracy")):
        np.testing.assert_array_equal(drawn[name], [(i, epoch[key]) for i, epoch in enumerate(epochs, start=1)])
    # A stage begins half an epoch before its first point, in both.
    for axes in (losses, accuracies):
        assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_label().startswith("_")] == [0.5, 2.5]
    assert [(text.get_text(), text.get_position()[0]) for text in losses.texts] == [("head", 0.6), ("whole", 2.6)]
    assert (losses.get_yscale(), losses.get_ylabel()) == ("log", "cross-entropy (nats)")
    assert (accuracies.get_yscale(), accuracies.get_ylabel(), accuracies.get_xlabel()) == (
        "linear",
        "accuracy",
        "epoch",
    )


def test_confusion_matrix_shows_counts_as_text_and_shares_as_colour():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    (axes,) = plots.plot_confusion_matrix(confusion, ["ant", "$bee$", "c" * 200]).axes
    texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "3", (0, 1): "1", (2, 0): "2", (2, 2): "2"}
    (image,) = axes.get_images()
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0.5, 0, 0.5]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["ant", r"\$bee\$", "c" * 31 + "…"]


@pytest.mark.parametrize(
    ("num_classes", "has_counts", "has_names"), [(20, True, True), (21, False, True), (61, False, False)]
)
def test_confusion_matrix_of_many_classes_leaves_text_out(num_classes, has_counts, has_names):
    (axes,) = plots.plot_confusion_matrix(np.eye(num_classes, dtype=int), [f"c{i}" for i in range(num_classes)]).axes
    assert bool(axes.texts) == has_counts
    assert ("c7" in [label.get_text() for label in axes.get_xticklabels()]) == has_names


def test_images_are_in_a_grid_under_their_titles():
    images = np.random.default_rng(0).uniform(-20, 300, (5, 4, 6, 3))
    figure = plots.plot_images(images, [f"${i}" for i in range(5)])
    assert len(figure.axes) == 6
    for axes, image, number in zip(figure.axes, images, range(5), strict=False):
        (shown,) = axes.get_images()
        np.testing.assert_array_equal(shown.get_array(), np.clip(image, 0, 255).astype("uint8"))
        assert axes.get_title() == rf"\${number}"
    assert not figure.axes[5].get_images()
    assert not any(axes.axison for axes in figure.axes)


@pytest.mark.parametrize(
    ("labels", "names", "titles"),
    [
        (None, None, ["", ""]),
        ([2, 0], None, ["2", "0"]),
        ([2, 0], ["ant", "bee", "cow"], ["cow", "ant"]),
        ([[0, 1, 1], [0.25, 0, 0.75]], ["ant", "bee", "cow"], ["bee, cow", "ant 0.25, cow 0.75"]),
    ],
)
def test_batch_is_shown_with_its_labels(labels, names, titles):
    figure = plots.show_batch(np.zeros((2, 4, 4, 3)), labels, names)
    assert [axes.get_title() for axes in figure.axes] == titles


def test_mistakes_are_drawn_worst_first(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.update({path.name: figure}))
    result = interpret([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]], [0, 0, 1], ["ant", "bee"])
    images = np.stack([np.full((4, 4, 3), value) for value in (10, 20)])
    plot_mistakes(result, images, tmp_path)
    assert list(drawn) == ["confusion_matrix.png", "top_losses.png"]
    titles = [axes.get_title() for axes in drawn["top_losses.png"].axes if axes.get_images()]
    # -log(.2) and -log(.3)
    assert titles == ["bee\npredicted ant, loss 1.61", "ant\npredicted bee, loss 1.20"]


def test_figure_is_saved_whole_and_freed(tmp_path):
    figure = plots.show_batch(np.zeros((2, 4, 4, 3)))
    (tmp_path / "batch.png").write_bytes(b"an older one")
    plots.save_figure(figure, tmp_path / "batch.png")
    with Image.open(tmp_path / "batch.png") as image:
        assert image.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]
    assert not plt.fignum_exists(figure.number)


def test_figure_that_cannot_be_saved_leaves_nothing(tmp_path):
    figure = plots.show_batch(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="xyz"):
        plots.save_figure(figure, tmp_path / "batch.xyz")
    assert not list(tmp_path.iterdir())


def test_figure_in_a_directory_that_does_not_exist_is_refused(tmp_path):
    figure = plots.show_batch(np.zeros((1, 4, 4, 3)))
    with pytest.raises(FileNotFoundError, match=r"Received: path=.*none/batch\.png"):
        plots.save_figure(figure, tmp_path / "none" / "batch.png")


def test_a_letter_that_the_font_lacks_is_drawn_without_a_warning(tmp_path):
    # Warnings are errors here.
    figure = plots.plot_confusion_matrix(np.eye(2, dtype=int), ["rocket 🚀", "猫"])
    plots.save_figure(figure, tmp_path / "matrix.png")
    assert "<svg" in plots.as_svg(plots.plot_confusion_matrix(np.eye(2, dtype=int), ["rocket 🚀", "猫"]))
