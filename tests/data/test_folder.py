"""Which pictures a folder or a CSV holds; no picture is opened here, so empty files will do."""

from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.data.csv_index import index_csv
from keras_sgdr.data.folder import index_folder
from keras_sgdr.data.splits import Split, k_folds, oversample


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(split: Split) -> list[str]:
    return [Path(path).name for path in split.paths]


@pytest.fixture
def dogscats(tmp_path: Path) -> Path:
    touch(tmp_path, "train/dogs/b.jpg", "train/dogs/a.JPG", "train/cats/c.png", "train/cats/deep/er/d.webp")
    touch(tmp_path, "valid/cats/e.gif", "valid/dogs/f.bmp", "test1/1.jpg", "test1/2.jpg")
    return tmp_path


def test_train_and_valid_folders_give_sorted_classes_and_paths(dogscats):
    index = index_folder(dogscats, test="test1")
    assert index.class_names == ("cats", "dogs")
    assert names_of(index.train) == ["c.png", "d.webp", "a.JPG", "b.jpg"]
    assert index.train.labels.tolist() == [0, 0, 1, 1]
    assert index.train.labels.dtype == np.int32
    assert names_of(index.valid) == ["e.gif", "f.bmp"]
    assert index.train.counts == {"cats": 2, "dogs": 2}
    assert names_of(index.test) == ["1.jpg", "2.jpg"]
    assert index.test.labels is None
    assert index.test.counts == {}


def test_hidden_files_and_folders_and_other_files_are_left_out(dogscats):
    touch(dogscats, "train/.ipynb_checkpoints/x.jpg", "train/cats/.hidden.jpg", "train/cats/Thumbs.db")
    touch(dogscats, "train/cats/__MACOSX/y.jpg", "train/notes.txt")
    assert names_of(index_folder(dogscats).train) == ["c.png", "d.webp", "a.JPG", "b.jpg"]


def test_link_back_to_a_parent_is_not_followed(dogscats):
    (dogscats / "train" / "cats" / "loop").symlink_to(dogscats / "train" / "cats")
    assert names_of(index_folder(dogscats).train)[:2] == ["c.png", "d.webp"]


def test_linked_class_folder_is_followed(dogscats, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, "z.jpg")
    (dogscats / "train" / "cats" / "more").symlink_to(elsewhere)
    assert "z.jpg" in names_of(index_folder(dogscats).train)


def test_valid_fraction_is_stratified_and_complete(tmp_path):
    touch(tmp_path, *(f"many/{i}.jpg" for i in range(40)), *(f"few/{i}.jpg" for i in range(10)))
    index = index_folder(tmp_path, valid_fraction=0.2)
    assert index.valid.counts == {"few": 2, "many": 8}
    assert index.train.counts == {"few": 8, "many": 32}
    assert not set(index.train.paths) & set(index.valid.paths)


def test_valid_fraction_depends_on_seed_and_names_only(tmp_path):
    for folder in ("here", "there"):
        touch(tmp_path / folder, *(f"{c}/{i}.jpg" for c in "ab" for i in range(30)))
    here = names_of(index_folder(tmp_path / "here", valid_fraction=0.3, seed=1).valid)
    assert here == names_of(index_folder(tmp_path / "there", valid_fraction=0.3, seed=1).valid)
    assert here != names_of(index_folder(tmp_path / "here", valid_fraction=0.3, seed=2).valid)


def test_added_picture_moves_at_most_one_other(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.jpg" for c in "ab" for i in range(30)))
    before = set(index_folder(tmp_path, valid_fraction=0.3).valid.paths)
    touch(tmp_path, "a/new.jpg")
    assert len(before - set(index_folder(tmp_path, valid_fraction=0.3).valid.paths)) <= 1


def test_progress_is_reported(tmp_path):
    touch(tmp_path, *(f"a/{i}.jpg" for i in range(10_001)))
    seen: list[int] = []
    index_folder(tmp_path, valid_fraction=0.5, on_progress=seen.append)
    assert seen == [10_000]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: no folder .*nowhere"):
        index_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["train", "valid"])
def test_missing_split_folder_is_named_with_a_remedy(tmp_path, missing):
    touch(tmp_path, *(f"{name}/a/1.jpg" for name in {"train", "valid"} - {missing}))
    with pytest.raises(FileNotFoundError, match=rf"Received: no folder .*/{missing}\. .*valid_fraction=0\.2"):
        index_folder(tmp_path)


def test_missing_test_folder_is_named(dogscats):
    with pytest.raises(FileNotFoundError, match=r"`test` .* Received: no folder .*/test9"):
        index_folder(dogscats, test="test9")


def test_empty_test_folder_is_named(dogscats):
    (dogscats / "test0").mkdir()
    with pytest.raises(ValueError, match=r"Received: no pictures in .*/test0"):
        index_folder(dogscats, test="test0")


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"Received: no class folders in {tmp_path}\."):
        index_folder(tmp_path, valid_fraction=0.2)


def test_class_without_pictures_is_named(dogscats):
    touch(dogscats, "train/fish/readme.txt", "valid/fish/1.jpg")
    with pytest.raises(ValueError, match=r"Received: no pictures in .*train/fish\."):
        index_folder(dogscats)


def test_different_classes_are_named(dogscats):
    touch(dogscats, "train/fish/1.jpg", "valid/birds/1.jpg")
    with pytest.raises(ValueError, match=r"Received: only in .*train: \['fish'\], only in .*valid: \['birds'\]\."):
        index_folder(dogscats)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_fraction_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(ValueError, match=r"Received: valid_fraction="):
        index_folder(tmp_path, valid_fraction=fraction)


def test_class_of_one_picture_cannot_be_split(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    with pytest.raises(ValueError, match=r"Received: class 'a' has only .*a/1\.jpg"):
        index_folder(tmp_path, valid_fraction=0.2)


def test_fraction_of_a_folder_that_is_already_split_is_refused(dogscats):
    with pytest.raises(ValueError, match=r"Received: valid_fraction=0.2 and a folder .*/train with class folders"):
        index_folder(dogscats, valid_fraction=0.2)


def test_k_folds_hold_out_every_picture_once(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.jpg" for c in "ab" for i in range(11)))
    whole = index_folder(tmp_path, valid_fraction=0.5)
    split = whole.train
    folds = k_folds(split, num_folds=3, seed=5)
    held_out = [path for fold in folds for path in fold.valid.paths]
    assert sorted(held_out) == sorted(split.paths)
    for fold in folds:
        assert set(fold.train.paths) == set(split.paths) - set(fold.valid.paths)
        assert all(1 <= count <= 2 for count in fold.valid.counts.values())


def test_oversampling_makes_classes_as_frequent(tmp_path):
    touch(tmp_path, *(f"many/{i}.jpg" for i in range(20)), *(f"few/{i}.jpg" for i in range(6)))
    split = index_folder(tmp_path, valid_fraction=0.1).train
    more = oversample(split)
    assert more.counts == {"few": 18, "many": 18}
    assert list(more.paths[: len(split)]) == list(split.paths)
    assert set(more.paths) == set(split.paths)
    few = [path for path in more.paths if "/few/" in path]
    assert {few.count(path) for path in few} <= {3, 4}


def test_oversampling_needs_one_label_each(dogscats):
    with pytest.raises(ValueError, match=r"Received: split 'test' without"):
        oversample(index_folder(dogscats, test="test1").test)


@pytest.mark.parametrize("num_folds", [1, 7])
def test_impossible_number_of_folds_is_refused(tmp_path, num_folds):
    touch(tmp_path, *(f"a/{i}.jpg" for i in range(10)))
    with pytest.raises(ValueError, match=rf"Received: num_folds={num_folds}"):
        k_folds(index_folder(tmp_path, valid_fraction=0.4).train, num_folds=num_folds)


def test_folds_of_unlabelled_pictures_are_refused(dogscats):
    with pytest.raises(ValueError, match=r"Received: split 'test' without labels"):
        k_folds(index_folder(dogscats, test="test1").test, num_folds=2)


def test_url_is_listed_by_tensorflow():
    import tensorflow as tf

    for name in ("train/a/1.jpg", "train/a/.x.jpg", "train/b/deep/2.jpg", "valid/a/3.jpg", "valid/b/4.jpg"):
        tf.io.gfile.makedirs(f"ram://pictures/{name.rpartition('/')[0]}")
        with tf.io.gfile.GFile(f"ram://pictures/{name}", "wb") as file:
            file.write(b"x")
    index = index_folder("ram://pictures")
    assert list(index.train.paths) == ["ram://pictures/train/a/1.jpg", "ram://pictures/train/b/deep/2.jpg"]
    assert len(index.valid) == 2


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_csv_with_one_label_column_is_split_by_fraction(tmp_path):
    touch(tmp_path, *(f"{i}.jpg" for i in range(10)))
    path = write_csv(tmp_path, "filename,label\n" + "".join(f"{i}.jpg,{'ab'[i % 2]}\n" for i in range(10)))
    index = index_folder(path, valid_fraction=0.4)
    assert index.class_names == ("a", "b")
    assert index.valid.counts == {"a": 2, "b": 2}
    for split in (index.train, index.valid):
        for name, label in zip(names_of(split), split.labels, strict=True):
            assert int(name[0]) % 2 == label


def test_csv_with_several_label_columns_is_multi_label(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    path = write_csv(tmp_path, "file,split,beach,night\n1.jpg,train,1,1\n2.jpg,valid,0,1\n3.jpg,test,0,0\n")
    index = index_folder(path)
    assert index.class_names == ("beach", "night")
    assert index.train.labels.tolist() == [[1.0, 1.0]]
    assert index.valid.labels.dtype == np.float32
    assert index.valid.counts == {"beach": 0, "night": 1}
    assert names_of(index.test) == ["3.jpg"]


def test_csv_file_names_are_relative_to_the_given_folder(tmp_path):
    touch(tmp_path, "pictures/1.jpg", "pictures/2.jpg")
    path = write_csv(tmp_path, "filename,label\n1.jpg,a\n2.jpg,a\n")
    assert names_of(index_csv(path, directory=tmp_path / "pictures", valid_fraction=0.5).train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\n", r"Received: .* and 0 rows"),
        ("filename\n1.jpg\n", r"Received: .* with columns \['filename'\]"),
        ("filename,label\n1.jpg\n", r"Received: row 2 of"),
        ("filename,label\n1.jpg,a\n", r"Received: valid_fraction=None"),
        ("filename,label,split\n1.jpg,a,training\n", r"Received: split='training' in row 2"),
        ("filename,label,split\n1.jpg,a,train\n", r"Received: no row of .* with split='valid'"),
        ("filename,label,split\n1.jpg,a,train\n1.jpg,b,valid\n", r"only in train: \['a'\], only in valid: \['b'\]"),
        ("filename,a,b,split\n1.jpg,1,2,train\n1.jpg,1,0,valid\n", r"Received: b='2'"),
    ],
)
def test_wrong_csv_is_refused(tmp_path, text, message):
    touch(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match=message):
        index_folder(write_csv(tmp_path, text))


def test_csv_that_names_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: no file .*9\.jpg \(row 2"):
        index_folder(write_csv(tmp_path, "filename,label\n9.jpg,a\n"))


def test_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: no file .*none\.csv"):
        index_folder(tmp_path / "none.csv")


def test_csv_of_another_encoding_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("filename,label\n\u00e9.jpg,a\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"Received: .*labels\.csv with the byte 0xe9"):
        index_folder(path, valid_fraction=0.5)
