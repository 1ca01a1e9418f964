import pytest

from keras_sgdr.atomic_write import atomic_write


def test_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_text("old")
    with atomic_write(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.name.endswith(".weights.h5")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_half(path, error):
    with atomic_write(path) as aside:
        aside.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
