import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data

from keras_sgdr.serving import savedmodel
from keras_sgdr.serving.savedmodel import export_savedmodel
from tests.serving.conftest import NAMES


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def files_and_images():
    """Files of four formats and several shapes, and what Pillow makes of each: upright, its centre, 24 x 32."""
    photo = Image.fromarray(data.chelsea())
    turned = Image.Exif()
    turned[0x0112] = 6  # "turn it clockwise to see it upright"
    part, wide, tall = photo.crop((100, 50, 132, 74)), photo.crop((90, 50, 140, 74)), photo.crop((100, 50, 132, 114))
    lying = part.transpose(Image.Transpose.ROTATE_90)
    files = [
        encode(part, "JPEG", quality=95),
        encode(wide, "PNG"),
        encode(tall.convert("L"), "PNG"),
        encode(lying, "WEBP", lossless=True, exif=turned),
        encode(photo.crop((100, 50, 228, 146)), "BMP"),
    ]
    images = [
        Image.open(io.BytesIO(files[0])),
        wide.crop((9, 0, 41, 24)),
        tall.convert("L").crop((0, 20, 32, 44)).convert("RGB"),
        part,
        Image.open(io.BytesIO(files[4])).resize((32, 24), Image.Resampling.BILINEAR),
    ]
    return files, np.stack([np.asarray(image) for image in images])


CLIENT = """
import json, sys
for module in ("keras", "keras_sgdr", "keras_cv"):
    sys.modules[module] = None  # an import of it fails
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
print(json.dumps({
    "probabilities": answer["probabilities"].numpy().tolist(),
    "class_names": [[name.decode() for name in row] for row in answer["class_names"].numpy()],
    "predicted_class": [name.decode() for name in answer["predicted_class"].numpy()],
}))
"""


@pytest.mark.slow
def test_export_answers_without_keras_what_the_model_says_of_pillows_images(model, exported, tmp_path):
    files, images = files_and_images()
    paths = []
    for i, content in enumerate(files):
        paths.append(tmp_path / f"image{i}")
        paths[-1].write_bytes(content)
    command = [sys.executable, "-c", CLIENT, str(exported), *map(str, paths)]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    expected = model.predict(images.astype("float32"), verbose=0)
    assert np.abs(expected - expected[0]).max() > 1e-3  # the model tells the images apart
    assert np.allclose(answer["probabilities"][:4], expected[:4], atol=1e-6)
    assert np.allclose(answer["probabilities"][4], expected[4], atol=1e-4)  # resized, and rounded by both
    assert answer["class_names"] == [list(NAMES)] * len(files)
    assert answer["predicted_class"] == [NAMES[i] for i in expected.argmax(axis=1)]


def test_versions_count_up_and_leave_nothing_aside(model, tmp_path, capsys):
    assert export_savedmodel(model, tmp_path, class_names=NAMES).name == "1"
    assert export_savedmodel(model, tmp_path, class_names=NAMES, version=20).name == "20"
    assert export_savedmodel(model, tmp_path, class_names=NAMES).name == "21"
    beside = ["README.md", "batching_parameters.txt", "models.config"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "20", "21", *beside]
    assert not capsys.readouterr().out


def test_export_that_fails_leaves_no_version(model, tmp_path, monkeypatch):
    def full_disk(found, path):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"half")
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(savedmodel, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_savedmodel(model, tmp_path, class_names=NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"class_names": ["one"]}, r"class_names=\['one'\]"),
        ({"class_names": NAMES, "version": 0}, "version=0"),
        ({"class_names": NAMES, "version": 1}, "version=1"),
        ({"class_names": NAMES, "resize": "stretch"}, "resize='stretch'"),
        ({"class_names": NAMES, "precision": "int8"}, "precision='int8'"),
        ({"class_names": NAMES, "threshold": 1.5}, "threshold=1.5"),
    ],
)
def test_bad_arguments_are_named(model, exported, arguments, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        export_savedmodel(model, exported.parent, **arguments)


def test_model_of_no_fixed_size_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match="input_shape="):
        export_savedmodel(model, tmp_path, class_names=NAMES)
