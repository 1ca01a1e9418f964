import keras
import pytest

from keras_sgdr.models.group_summary import GroupSummary, group_summaries, summary
from keras_sgdr.models.layer_groups import freeze_to


@pytest.fixture
def model():
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, name="conv0")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Conv2D(1, 1, name="conv1")(x)
    x = keras.layers.Conv2D(4, 1, name="conv2")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(x))
    freeze_to(model, 1)
    return model


def test_each_group_is_counted(model):
    assert group_summaries(model, learning_rates=[1e-5, 1e-4, 1e-3]) == [
        GroupSummary("conv0", "bn", 2, 3 * 3 * 3 * 2 + 2 + 8, 0, 1e-5),
        GroupSummary("conv1", "conv2", 2, 3 + 8, 3 + 8, 1e-4),
        GroupSummary("dense", "dense", 1, 15, 15, 1e-3),
    ]


def test_the_table_shows_rates_of_what_is_trained(model):
    lines = summary(model, learning_rates=[1e-5, 1e-4, 1e-3]).split("\n")
    assert [line.split()[0] for line in lines] == ["group", "0", "1", "2"]
    assert [line.split()[-1] for line in lines] == ["rate", "-", "1.00e-04", "1.00e-03"]
    assert len({len(line) for line in lines}) == 1
    assert summary(model).split()[-1] == "-"


def test_rates_must_be_as_many_as_groups(model):
    with pytest.raises(ValueError, match=r"Received: learning_rates=\[0\.1\]"):
        group_summaries(model, learning_rates=[0.1])
