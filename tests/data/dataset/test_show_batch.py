import numpy as np
import pytest

from keras_sgdr.plots import save_figure, show_batch


@pytest.mark.parametrize(
    ("labels", "class_names", "titles"),
    [
        (None, None, ["", "", ""]),
        ([0, 1, 1], None, ["0", "1", "1"]),
        ([0, 1, 1], ["cat", "dog"], ["cat", "dog", "dog"]),
        ([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]], ["cat", "dog"], ["cat 0.30, dog 0.70", "cat", "cat 0.50, dog 0.50"]),
        ([[1, 1], [0, 1], [0, 0]], ["beach", "night"], ["beach, night", "night", ""]),
    ],
)
def test_batch_is_shown_under_its_labels(tmp_path, labels, class_names, titles):
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    figure = show_batch(images, labels, class_names)
    assert [axes.get_title() for axes in figure.axes] == titles
    save_figure(figure, tmp_path / "batch.png")
    assert (tmp_path / "batch.png").stat().st_size > 0
