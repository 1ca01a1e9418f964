"""A run that is told to end: at the next batch where a model trains, and at once elsewhere."""

import dataclasses
import os
import signal
import threading

import keras
import pytest

from keras_sgdr import Recipe
from keras_sgdr.recipe.interruption import Interruption
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.train import train_image_classifier


@pytest.fixture(autouse=True)
def default_handler():
    """That of a program: the processes of pytest-xdist ignore Ctrl-C, and what is ignored stays so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once_unless_a_model_trains(number):
    interruption = Interruption()
    with interruption.handled():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        interruption.begin()
        os.kill(os.getpid(), number)
        assert interruption.is_asked
        with pytest.raises(KeyboardInterrupt):  # who asks twice does not want to wait
            os.kill(os.getpid(), number)


def test_handlers_are_as_before_afterwards_and_what_is_ignored_stays_so():
    before = signal.getsignal(signal.SIGTERM)
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption().handled():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGINT, ours)


def test_in_another_thread_nothing_is_handled():
    seen = []

    def enter():
        with Interruption().handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


class _Ask(keras.callbacks.Callback):
    """Sends the signal of Ctrl-C in a batch, counted over all epochs."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "left"), [(1, 1), (4, 0)], ids=["midst", "last batch"])
def test_a_run_ends_at_the_batch_and_goes_on_after_it(
    digits_folder, tiny_backbone, tmp_path, monkeypatch, capsys, step, left
):
    """Epochs have 5 batches: after the second one there is one unfinished epoch, after the fifth none."""
    recipe = Recipe(backbone=str(tiny_backbone), image_size=32, augmentation="basic", head_views=0, tta="off")
    recipe = dataclasses.replace(recipe, cycle_len=2, learning_rate=1e-3, head_learning_rate=1e-3)
    given = {"output": tmp_path / "run", "recipe": recipe}
    fit = Run.fit
    with monkeypatch.context() as patch:
        patch.setattr(Run, "fit", lambda self, *args, **options: fit(self, *args, _Ask(step), **options))
        with pytest.raises(KeyboardInterrupt):
            train_image_classifier(digits_folder, **given)
    assert "interrupted: saved what was trained up to this batch" in capsys.readouterr().out
    result = train_image_classifier(digits_folder, **given, resume=True)
    said = capsys.readouterr().out
    assert ("go on after epoch 0, batch 2" if left else "go on after epoch 1\n") in said
    # Such a small network may make nothing better, and its epochs be undone; they are there all the same.
    assert [row["epoch"] for row in result.history if row["stage"].startswith("all")][:2] == [1, 2]
