import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sgdr import __version__, index_folder
from keras_sgdr.recipe.images import digest_of
from keras_sgdr.recipe.run_directory import RunDirectory, Stage, read_settings

SETTINGS = {"image_size": 32, "seed": 0}
STAGES = (
    Stage("find", dict, may_be_given_later=("rate",)),
    Stage("train_head", dict, saves_weights=True),
    Stage("train", dict, saves_weights=True, settings=("rate",), artefacts=("model.keras",)),
    Stage("look", dict, settings=("views", "rate")),
)


def tiny_model(value):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.full((2, 1), value, "float32"), np.zeros(1, "float32")])
    return model


def recorded(directory, stage, values, model=None, **arguments):
    """Records one stage, as a process does that then ends."""
    with RunDirectory(directory, **{"settings": SETTINGS, **arguments}) as run:
        run.record(stage, values, model)


def restored(directory):
    model = tiny_model(0.0)
    with RunDirectory(directory, settings=SETTINGS, resume=True) as run:
        run.restore(model)
    return model.get_weights()[0]


def test_resumed_run_knows_its_stages_and_weights(tmp_path):
    with RunDirectory(tmp_path, settings=SETTINGS) as run:
        run.record("find", {"learning_rate": 0.5})
        run.record("train", {"history": [1, 2]}, tiny_model(3.0))
    with RunDirectory(tmp_path, settings=SETTINGS, resume=True) as again:
        assert again.finished("find") == {"learning_rate": 0.5}
        assert again.finished("train")["history"] == [1, 2]
        assert again.finished("later") is None
    assert np.all(restored(tmp_path) == 3.0)


def test_only_the_last_checkpoint_is_kept(tmp_path):
    with RunDirectory(tmp_path, settings=SETTINGS) as run:
        run.record("first", {}, tiny_model(1.0))
        run.record("second", {}, tiny_model(2.0))
        assert [path.name for path in tmp_path.glob("*.h5")] == ["second.weights.h5"]
        tiny_model(3.0).save(tmp_path / "model.keras")
        run.record("third", {"checkpoint": "model.keras"})
    assert not list(tmp_path.glob("*.h5"))
    assert np.all(restored(tmp_path) == 3.0)


def test_second_run_in_the_same_directory_is_refused(tmp_path):
    recorded(tmp_path, "find", {})
    with pytest.raises(ValueError, match=r"Received: output=.*an unfinished run"):
        RunDirectory(tmp_path, settings=SETTINGS)


def test_run_of_which_no_stage_finished_is_none(tmp_path):
    RunDirectory(tmp_path, settings=SETTINGS).close()
    with RunDirectory(tmp_path, settings={"seed": 9}) as run:
        assert run.stages == {}


def test_finished_run_is_called_so(tmp_path):
    recorded(tmp_path, "export", {"path": "export/1"})
    with pytest.raises(ValueError, match="a finished run"):
        RunDirectory(tmp_path, settings=SETTINGS)


def test_overwrite_begins_again_and_spares_other_files(tmp_path):
    recorded(tmp_path, "train_head", {}, tiny_model(1.0))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model.keras").write_text("the old run's")
    (tmp_path / "export" / "1").mkdir(parents=True)
    with RunDirectory(tmp_path, settings={"seed": 1}, overwrite=True, stages=STAGES) as again:
        assert again.finished("train_head") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes.txt", "run.json"]


@pytest.fixture
def old_run(tmp_path):
    """A finished run with a model, an export and settings, and a file of somebody else's."""
    recorded(tmp_path, "train_head", {}, tiny_model(1.0))
    (tmp_path / "export" / "1").mkdir(parents=True)
    for name in ("notes.txt", "model.keras", "config.toml", "export/1/saved_model.pb"):
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path


def files_of(directory):
    paths = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def begin_again(directory, *, until=None, error=None):
    """Overwrites a run: records a stage, and ends with an error."""
    with RunDirectory(directory, settings={"seed": 1}, overwrite=True, stages=STAGES) as again:
        again.write_text("config.toml", "new")
        (directory / "model.keras").write_text("new")
        if until:
            again.record(until, {})
        if error:
            raise error


def test_an_error_before_the_plan_brings_the_run_before_back(old_run):
    before = files_of(old_run)
    for _ in range(2):
        with pytest.raises(ValueError, match="typo"):
            begin_again(old_run, until="check", error=ValueError("typo"))
        assert files_of(old_run) == before


@pytest.mark.parametrize(("until", "error"), [("plan", ValueError), ("check", KeyboardInterrupt), ("plan", None)])
def test_a_run_that_can_go_on_is_not_replaced_by_the_one_before(old_run, until, error):
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        begin_again(old_run, until=until, error=error and error())
    with RunDirectory(old_run, settings={"seed": 1}, resume=True, stages=STAGES) as resumed:
        assert list(resumed.stages) == [until]
    assert files_of(old_run).keys() == {"notes.txt", "config.toml", "model.keras", "run.json"}
    assert (old_run / "model.keras").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on, where TensorFlow has threads
@pytest.mark.parametrize("killed_at", range(10))
def test_a_kill_while_a_run_is_set_aside_or_brought_back_loses_nothing(old_run, killed_at):
    """Before each of the ten moves: of the journal, the settings, the weights, the model and the export, and back."""
    before, replace, moves = files_of(old_run), Path.replace, itertools.count()

    def killed(path, target):
        if ".before" in f"{path} {target}" and next(moves) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    process = os.fork()
    if not process:
        Path.replace = killed
        with contextlib.suppress(ValueError):
            begin_again(old_run, until="check", error=ValueError("typo"))
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
    with pytest.raises(ValueError, match="must not hold a run already"):
        RunDirectory(old_run, settings=SETTINGS, stages=STAGES)
    assert files_of(old_run) == before


def test_other_settings_cannot_be_resumed(tmp_path):
    recorded(tmp_path, "find", {})
    with pytest.raises(ValueError, match=r"Received: seed=7; it began with seed=0"):
        RunDirectory(tmp_path, settings={**SETTINGS, "seed": 7}, resume=True)


def test_resume_of_nothing_begins(tmp_path):
    with RunDirectory(tmp_path / "new", settings=SETTINGS, resume=True) as run:
        assert run.stages == {}


def test_broken_journal_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json"):
        RunDirectory(tmp_path, settings=SETTINGS, resume=True)


def test_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"Received: output=.*out, a file"):
        RunDirectory(tmp_path / "out", settings=SETTINGS)


def test_write_that_fails_leaves_the_stage_unfinished(tmp_path):
    recorded(tmp_path, "first", {}, tiny_model(1.0))

    class FullDisk:
        def save_weights(self, path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space left"):
        recorded(tmp_path, "second", {}, FullDisk(), resume=True)
    with RunDirectory(tmp_path, settings=SETTINGS, resume=True) as again:
        assert again.finished("second") is None
    assert np.all(restored(tmp_path) == 1.0)
    assert not list(tmp_path.glob(".partial-*"))


def test_journal_is_readable_json(tmp_path):
    recorded(tmp_path, "find", {"learning_rate": 0.5})
    journal = json.loads((tmp_path / "run.json").read_text())
    assert {name: journal[name] for name in ("settings", "stages")} == {
        "settings": SETTINGS,
        "stages": {"find": {"learning_rate": 0.5}},
    }
    assert journal["version"] == __version__


def test_settings_can_be_read_back(tmp_path):
    assert read_settings(tmp_path) == {}
    RunDirectory(tmp_path, settings=SETTINGS).close()
    assert read_settings(tmp_path) == SETTINGS


def test_setting_may_change_until_a_stage_that_reads_it_has_begun(tmp_path):
    settings = {"seed": 0, "rate": 0.1, "views": 4}
    recorded(tmp_path, "find", {}, settings=settings, stages=STAGES)
    changed = {**settings, "views": 8, "rate": 0.3}
    with RunDirectory(tmp_path, settings=changed, resume=True, stages=STAGES) as again:
        assert again.finished("find") == {}
        again.unfinished("train").write_text("half of it")
    assert read_settings(tmp_path) == changed
    for setting, value in (("rate", 0.2), ("seed", 1)):  # read by a stage that has begun; read from the start
        with pytest.raises(ValueError, match=rf"Received: {setting}={value};"):
            RunDirectory(tmp_path, settings={**changed, setting: value}, resume=True, stages=STAGES)
    recorded(tmp_path, "train", {}, settings={**changed, "views": 2}, resume=True, stages=STAGES)
    with pytest.raises(ValueError, match=r"Received: rate=0\.2; it began with rate=0\.3"):
        RunDirectory(tmp_path, settings={**changed, "views": 2, "rate": 0.2}, resume=True, stages=STAGES)


def test_setting_may_be_given_when_its_finder_has_finished_but_not_taken_back(tmp_path):
    recorded(tmp_path, "find", {}, settings={"rate": None}, stages=STAGES)
    for rate in (0.1, 0.2):
        with RunDirectory(tmp_path, settings={"rate": rate}, resume=True, stages=STAGES) as again:
            assert again.finished("find") == {}
    with pytest.raises(ValueError, match=r"Received: no rate; it began with rate=0\.2"):
        RunDirectory(tmp_path, settings={"rate": None}, resume=True, stages=STAGES)


def test_overwriting_that_was_killed_leaves_nothing_of_the_old_run(tmp_path):
    """The journal was written anew, and the old model still there."""
    (tmp_path / "run.json").write_text(json.dumps({"settings": SETTINGS, "stages": {}}))
    (tmp_path / "model.keras").write_text("the old run's")
    RunDirectory(tmp_path, settings=SETTINGS, stages=STAGES).close()
    assert not (tmp_path / "model.keras").exists()


def test_directory_of_a_live_run_is_refused_and_that_of_a_killed_one_is_not(tmp_path):
    code = (
        "import sys, time\n"
        "from keras_sgdr.recipe.run_directory import RunDirectory\n"
        "run = RunDirectory(sys.argv[1], settings={'image_size': 32, 'seed': 0})\n"
        "run.record('find', {})\n"
        "print('at work', flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at work\n"
            for choice in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(ValueError, match=r"in use by another run\. Received: output="):
                    RunDirectory(tmp_path, settings=SETTINGS, **choice)
        finally:
            process.kill()
    with RunDirectory(tmp_path, settings=SETTINGS, resume=True) as run:
        assert run.finished("find") == {}


def test_checkpoint_that_no_run_vouches_for_is_removed_and_files_of_others_stay(tmp_path):
    recorded(tmp_path, "find", {})
    with RunDirectory(tmp_path, settings=SETTINGS, resume=True, stages=STAGES) as run:
        run.unfinished("train").write_text("half a stage")
    with RunDirectory(tmp_path, settings=SETTINGS, resume=True, stages=STAGES) as run:
        assert run.unfinished("train").is_file()
    (tmp_path / "best.weights.h5").write_text("mine")
    (tmp_path / "run.json").unlink()
    with RunDirectory(tmp_path, settings={"seed": 1}, stages=STAGES) as run:
        assert not run.unfinished("train").exists()
    assert (tmp_path / "best.weights.h5").is_file()


def test_resume_and_overwrite_are_not_both_obeyed(tmp_path):
    recorded(tmp_path, "find", {})
    with pytest.raises(ValueError, match="Received: resume=True, overwrite=True"):
        RunDirectory(tmp_path, settings=SETTINGS, resume=True, overwrite=True)
    assert read_settings(tmp_path) == SETTINGS


def test_images_with_other_labels_are_other_images(digits_folder, tmp_path):
    """Though their files come in the same order: the last of a class becomes the first of the next."""
    paths = sorted(digits_folder.rglob("*.png"))[:90]
    digests = set()
    for place in (50, 51):
        rows = [
            f"{path},{'one' if number < place else 'two'},{'valid' if number % 5 == 0 else 'train'}"
            for number, path in enumerate(paths)
        ]
        table = tmp_path / f"{place}.csv"
        table.write_text("\n".join(["filename,label,split", *rows]) + "\n")
        digests.add(digest_of(index_folder(table)))
    assert len(digests) == 2
