"""What a run costs before it trains: how often TensorFlow begins a pass over images, and traces a function."""

from collections import Counter

import pytest
from tensorflow.python.data.ops import iterator_ops
from tensorflow.python.framework import func_graph

from keras_sgdr import Recipe
from keras_sgdr.recipe.train import train_image_classifier


@pytest.fixture
def counted(monkeypatch):
    """Counts iterators, and traces by the name of what is traced."""
    counts = Counter()
    make, trace = iterator_ops.OwnedIterator._create_iterator, func_graph.func_graph_from_py_func

    def making(self, dataset):
        counts["iterators"] += 1
        return make(self, dataset)

    def tracing(name, *arguments, **options):
        counts[name] += 1
        return trace(name, *arguments, **options)

    monkeypatch.setattr(iterator_ops.OwnedIterator, "_create_iterator", making)
    monkeypatch.setattr(func_graph, "func_graph_from_py_func", tracing)
    return counts


@pytest.mark.slow
def test_a_run_begins_few_passes_and_traces_its_steps_once(counted, digits_folder, tiny_backbone, tmp_path):
    recipe = Recipe(backbone=str(tiny_backbone), image_size=32, augmentation="basic", resize="squish", cycle_len=2)
    train_image_classifier(digits_folder, output=tmp_path / "run", recipe=recipe, verbose=0)
    # Before the finder went through its batches without beginning anew, there were 178 of them.
    assert counted["iterators"] <= 26
    # Training steps of the head's finder and of the whole network, which its finder and step 8 share (unless it is
    # undone), and those of validation, each traced once: a step that makes variables would be traced twice.
    assert counted["one_step_on_data"] <= 5
    # of the network that averages over views, too, and of the export's signatures, which Keras traces twice
    assert sum(counted.values()) < 265
