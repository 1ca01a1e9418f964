import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from keras_sgdr.recipe.evaluate import evaluate_run, recipe_of
from keras_sgdr_cli.main import cli
from tests.conftest import DIGITS


def first_of(folder, name):
    return sorted((folder / name).iterdir())[0]


def test_held_out_images_of_the_run_are_evaluated_as_the_run_did(trained_run, digits_folder):
    found = evaluate_run(trained_run, digits_folder, tta="flip", verbose=0)
    predictions = np.load(trained_run / "predictions.npz")
    for name in ("plain", "tta"):
        assert np.allclose(found[name].probabilities, predictions[name], atol=1e-5)
    assert recipe_of(trained_run).head_cycles == 1


def test_folder_of_new_images_is_evaluated_whole(trained_run, digits_folder, tmp_path):
    new = tmp_path / "new"
    for name in DIGITS:
        shutil.copytree(digits_folder / name, new / name)
    (new / "one" / "another.png").write_bytes(first_of(new, "one").read_bytes())
    assert len(evaluate_run(trained_run, new, tta="off", verbose=0)["plain"].labels) == 181
    assert len(evaluate_run(trained_run, digits_folder, split="train", tta="off", verbose=0)["plain"].labels) == 144
    with pytest.raises(ValueError, match=r"Received: split='test', folder=.* with all"):
        evaluate_run(trained_run, new, split="test")
    with pytest.raises(ValueError, match="Received: split='holiday'"):
        evaluate_run(trained_run, new, split="holiday")


def test_folder_that_lacks_a_class_is_evaluated_and_one_with_another_is_refused(trained_run, digits_folder, tmp_path):
    new = tmp_path / "new"
    (new / "seven").mkdir(parents=True)
    shutil.copy(first_of(digits_folder, "seven"), new / "seven")
    done = CliRunner().invoke(cli, ["evaluate", str(trained_run), str(new), "--tta", "off"])
    assert done.exit_code == 0, done.stderr
    assert "no images of: one, zero" in done.stdout
    assert "1 images" in done.stdout
    (new / "seven").rename(new / "eight")
    with pytest.raises(ValueError, match=r"no other classes than one, seven, zero\. Received: eight"):
        evaluate_run(trained_run, new, verbose=0)


def test_split_that_is_there_is_evaluated(trained_run, digits_folder, tmp_path):
    for split, number in (("Train", 3), ("val", 2), ("testing", 1)):
        for name in DIGITS:
            (tmp_path / split / name).mkdir(parents=True)
            for path in sorted((digits_folder / name).iterdir())[:number]:
                shutil.copy(path, tmp_path / split / name)
    for split, count in ((None, 6), ("test", 3), ("all", 18)):
        found = evaluate_run(trained_run, tmp_path, split=split, tta="off", verbose=0)["plain"]
        assert len(found.labels) == count


def test_folder_that_has_changed_since_is_evaluated_with_a_warning(trained_run, digits_folder, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    copy = shutil.copytree(digits_folder, tmp_path / "digits")
    journal = (run / "run.json").read_text()
    (run / "run.json").write_text(journal.replace(str(digits_folder.resolve()), str(copy.resolve())))
    assert len(evaluate_run(run, copy, tta="off", verbose=0)["plain"].labels) == 36
    first_of(copy, "one").unlink()
    with pytest.warns(UserWarning, match="has changed since the run was trained on it"):
        found = evaluate_run(run, copy, tta="off", verbose=0)
    assert len(found["plain"].labels) == 179
