"""Images moved to the classes that a table names, and back."""

from pathlib import Path

import pytest

from keras_sgdr.data.check.quarantine import restore
from keras_sgdr.data.check.relabel import relabel
from keras_sgdr.data.index.folder import index_folder


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 4), ("valid", 2)):
        for name in ("cats", "dogs"):
            for number in range(count):
                path = tmp_path / "pets" / split / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{split} {name} {number}".encode())
    return tmp_path / "pets"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


def table(folder: Path, *rows: str) -> Path:
    path = folder.parent / "changes.csv"
    path.write_text("\n".join(["path,label,detail", *rows]))
    return path


def test_images_go_to_the_class_in_their_split_and_come_back(folder):
    before = contents(folder)
    changes = table(folder, f"{folder}/train/cats/0.jpg,dogs,x", "valid/dogs/1.jpg, cats,y", "train/dogs/2.jpg,dogs,")
    moved = relabel(index_folder(folder), changes)
    after = contents(folder)
    assert after["train/dogs/0-2.jpg"] == before["train/cats/0.jpg"]  # there is a 0.jpg already
    assert after["valid/cats/1-2.jpg"] == before["valid/dogs/1.jpg"]
    assert after["train/dogs/2.jpg"] == before["train/dogs/2.jpg"]
    assert set(moved) == {f"{folder}/train/cats/0.jpg", f"{folder}/valid/dogs/1.jpg"}
    assert sorted(after.values()) == sorted(before.values())
    assert index_folder(folder).train.counts == {"cats": 3, "dogs": 5}
    restore(folder / ".relabelled")
    assert contents(folder) == before


def test_a_deleted_image_is_not_seen_any_more_and_comes_back(folder):
    before = contents(folder)
    relabel(index_folder(folder), table(folder, "train/cats/3.jpg,delete,"))
    assert index_folder(folder).train.counts == {"cats": 3, "dogs": 4}
    assert index_folder(folder).left_out == ()
    restore(folder / ".relabelled")
    assert contents(folder) == before


def test_of_class_folders_alone_too(folder):
    relabel(index_folder(folder / "train", valid_fraction=0.25), table(folder, "cats/0.jpg,dogs,", "cats/1.jpg,dogs,"))
    assert index_folder(folder / "train", valid_fraction=0.25).class_names == ("cats", "dogs")
    assert len(list((folder / "train" / "dogs").iterdir())) == 6


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (["train/cats/0.jpg,dogs,", "train/cats/9.jpg,dogs,"], FileNotFoundError, r"path='train/cats/9.jpg' in row 3"),
        (["train/cats/0.jpg,dogs,", "train/cats/1.jpg,cows,"], ValueError, r"label='cows' in row 3"),
        (["train/cats/0.jpg,dogs,", "train/cats/0.jpg,delete,"], ValueError, r"An image may be named once.*row 3"),
        (["../outside.jpg,dogs,"], FileNotFoundError, r"must be an image of"),
    ],
)
def test_a_table_that_is_wrong_moves_nothing(folder, rows, error, message):
    (folder.parent / "outside.jpg").write_bytes(b"outside")
    before = contents(folder)
    with pytest.raises(error, match=message):
        relabel(index_folder(folder), table(folder, *rows))
    assert contents(folder) == before
    assert not (folder / ".relabelled").exists()


def test_no_class_may_be_called_delete(folder):
    (folder / "train" / "cats").rename(folder / "train" / "delete")
    (folder / "valid" / "cats").rename(folder / "valid" / "delete")
    with pytest.raises(ValueError, match="No class may be called 'delete'"):
        relabel(index_folder(folder), table(folder, "train/dogs/0.jpg,delete,"))


def test_a_second_table_wants_the_first_settled(folder):
    relabel(index_folder(folder), table(folder, "train/cats/0.jpg,dogs,"))
    with pytest.raises(FileExistsError, match="undone, or confirmed by removing"):
        relabel(index_folder(folder), table(folder, "train/cats/1.jpg,dogs,"))
    (folder / ".relabelled" / "moved.json").unlink()
    relabel(index_folder(folder), table(folder, "train/cats/1.jpg,dogs,"))


def test_a_table_as_a_spreadsheet_saves_it(folder):
    changes = folder.parent / "changes.csv"
    changes.write_bytes("path;label;detail\r\ntrain/cats/0.jpg;dogs;x\r\n".encode("utf-8-sig"))
    assert len(relabel(index_folder(folder), changes)) == 1
    changes.write_bytes("path,label\ntrain/cats/1.jpg,Öl\n".encode("cp1252"))
    restore(folder / ".relabelled")
    with pytest.raises(ValueError, match=r"encoded in UTF-8. Received: .*changes\.csv with the byte 0xd6"):
        relabel(index_folder(folder), changes)


def test_tables_and_columns_that_are_missing_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv"):
        relabel(index_folder(folder), folder / "none.csv")
    changes = folder.parent / "changes.csv"
    changes.write_text("file,label\na,b\n")
    with pytest.raises(ValueError, match="without path"):
        relabel(index_folder(folder), changes)
