import keras
import pytest

from keras_sgdr.models.group_summary import group_summary
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


# 3 * 3 * 3 * 2 + 2 values of conv0 and 4 * 2 of bn; 2 + 1 of conv1 and 4 + 4 of conv2; 4 * 3 + 3 of dense
TABLE = """\
group  layer                      weights  values  learning rate   weight decay  trained
----------------------------------------------------------------------------------------
0      conv0 to bn (2 layers)     6        64      1e-05           none          no
1      conv1 to conv2 (2 layers)  4        11      0.0001          none          yes
2      dense                      2        15      0.001           none          yes
----------------------------------------------------------------------------------------
all                               12       90      1e-05 to 0.001  none          in part"""


def test_each_group_is_counted(model):
    assert group_summary(model, learning_rates=[1e-5, 1e-4, 1e-3]) == TABLE


def test_layers_are_counted_where_they_are_asked_for(model):
    lines = group_summary(model, per_layer=True).splitlines()
    assert [line.split()[0] for line in lines if line.startswith(" ")] == ["conv0", "bn", "conv1", "conv2", "dense"]
    assert [line.split()[1:3] for line in lines if line.startswith("   ")][1] == ["4", "8"]
    assert lines[-1].split() == ["all", "12", "90", "-", "none", "in", "part"]


def test_rates_must_be_as_many_as_groups(model):
    with pytest.raises(ValueError, match=r"Received: learning_rates=\[0\.1\]"):
        group_summary(model, learning_rates=[0.1])
