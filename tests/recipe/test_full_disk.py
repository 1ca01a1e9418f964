"""A run on a disk that is full, or fills up: told in one line, before training where possible, and nothing is lost."""

import json
import os
import subprocess

import keras
import pytest

from keras_sgdr import Recipe, train_image_classifier
from tests.cli.command_line import assert_one_line, run


@pytest.fixture
def small_disk(tmp_path):
    """Makes and mounts a disk of so many megabytes."""
    mounted = []

    def make(megabytes):
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(path)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a disk")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_run_that_does_not_fit_is_refused_before_it_begins(small_disk, digits_folder):
    disk = small_disk(8)
    options = ["--weights", "none", "--image-size", 32, "--augmentation", "basic"]
    result = run("train", digits_folder, "-o", disk / "run", *options)
    assert_one_line(result, "`output` must be on a disk with room for the run", str(disk / "run"), "MB free")
    assert "step 1" not in result.stdout


@pytest.mark.slow
def test_a_disk_that_fills_up_destroys_nothing(small_disk, digits_folder, tiny_backbone):
    disk = small_disk(8)

    class Fill(keras.callbacks.Callback):
        """Takes all room there is in the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                with pytest.raises(OSError, match="No space left"):
                    (disk / "others").write_bytes(bytes(8 * 2**20))

    recipe = Recipe(
        backbone=str(tiny_backbone),
        image_size=32,
        augmentation="basic",
        head_views=0,
        cycle_len=3,
        learning_rate=1e-3,
        tta="off",
    )
    given = {"output": disk / "run", "recipe": recipe, "verbose": 0}
    with pytest.raises(Exception, match=r"No space left|full|space"):
        train_image_classifier(digits_folder, callbacks=[Fill()], **given)
    stages = json.loads((disk / "run" / "run.json").read_text())["stages"]
    assert "train_head" in stages
    assert "train_all" not in stages
    (disk / "others").unlink()
    result = train_image_classifier(digits_folder, resume=True, **given)
    assert [row["epoch"] for row in result.history if row["stage"].startswith("all")][:3] == [1, 2, 3]
    assert result.plain.accuracy > 0.8
