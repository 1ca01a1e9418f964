"""Which images a folder or a CSV holds; those with an image's suffix are not opened, so empty files will do."""

from pathlib import Path

import numpy as np
import pytest

from keras_sgdr.data.index.csv import index_csv
from keras_sgdr.data.index.folder import check_trainable, describe, index_folder, labelled_splits
from keras_sgdr.data.index.split import Split


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


def test_added_image_moves_at_most_one_other(tmp_path):
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


def test_missing_train_folder_is_named_with_a_remedy(tmp_path):
    touch(tmp_path, "valid/a/1.jpg", "valid/b/1.jpg")
    with pytest.raises(FileNotFoundError, match=r"Received: valid in .*, and no folder of training images\. Name it"):
        index_folder(tmp_path)


@pytest.mark.parametrize("name", ["train/a", "a"])
def test_missing_valid_folder_is_named_with_a_remedy(tmp_path, name):
    touch(tmp_path, f"{name}/1.jpg", f"{name}/2.jpg")
    with pytest.raises(ValueError, match=r"Received: .*training images alone\. Pass valid_fraction=0\.2"):
        index_folder(tmp_path)
    assert len(index_folder(tmp_path, valid_fraction=0.5).valid) == 1


TWO_CLASSES = ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/4.jpg")


def in_folders(*names):
    return [f"{name}/{file}" for name in names for file in TWO_CLASSES]


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("training", "validation", "testing"),
        ("Train", "Valid", "Test"),
        ("TRAIN", "val", "test"),
        ("train", "dev", "test"),
        ("train", "VALIDATION", "Testing"),
    ],
)
def test_splits_are_known_by_the_names_that_people_give_them(tmp_path, train, valid, test):
    touch(tmp_path, *in_folders(train, valid, test), "models/x.h5", "sample/train/cat/1.jpg")
    index = index_folder(tmp_path, valid_fraction=0.2)
    assert index.class_names == ("cat", "dog")
    assert {name: Path(folder).name for name, folder in index.folders.items()} == {
        "train": train,
        "valid": valid,
        "test": test,
    }
    assert {Path(path).parts[-3] for path in index.test.paths} == {test}
    assert index.test.counts == {"cat": 2, "dog": 2}
    assert [Path(path).name for path in index.left_out] == ["models", "sample"]


def test_share_of_train_is_held_out_beside_a_test_folder(tmp_path):
    touch(tmp_path, *in_folders("train", "test"))
    index = index_folder(tmp_path, valid_fraction=0.5)
    assert [len(split) for split in (index.train, index.valid, index.test)] == [2, 2, 4]
    assert "/train/" in index.valid.paths[0]


def test_test_folder_may_lack_labels_or_a_class(tmp_path):
    touch(tmp_path, *in_folders("train", "valid"), "test/1.jpg")
    assert index_folder(tmp_path).test.labels is None
    (tmp_path / "test" / "1.jpg").unlink()
    touch(tmp_path, "test/dog/1.jpg")
    assert index_folder(tmp_path).test.labels.tolist() == [1]
    touch(tmp_path, "test/fish/1.jpg")
    with pytest.raises(ValueError, match=r"`test` .*no other classes than cat, dog\. Received: fish"):
        index_folder(tmp_path)


@pytest.mark.parametrize("name", ["test", "Validation", "train", "dev"])
def test_split_beside_classes_is_refused_with_both_remedies(tmp_path, name):
    touch(tmp_path, *TWO_CLASSES, f"{name}/5.jpg", f"{name}/6.jpg")
    with pytest.raises(ValueError, match=rf"Received: {name}, the name of a split, beside cat, dog .*train='\.'"):
        index_folder(tmp_path, valid_fraction=0.5)
    assert name in index_folder(tmp_path, valid_fraction=0.5, train=".").class_names
    if name == "test":
        index = index_folder(tmp_path, valid_fraction=0.5, test="test")
        assert index.class_names == ("cat", "dog")
        assert len(index.test) == 2


def test_split_with_classes_beside_classes_is_refused(tmp_path):
    touch(tmp_path, *TWO_CLASSES, *in_folders("train"))
    with pytest.raises(ValueError, match=r"Received: train, the name of a split, beside cat, dog"):
        index_folder(tmp_path, valid_fraction=0.5)
    assert len(index_folder(tmp_path, valid_fraction=0.5, train="train").train) == 2


@pytest.mark.parametrize("names", [("train", "test"), ("test",), ("Train",)])
def test_images_without_class_folders_are_refused_and_not_taken_for_classes(tmp_path, names):
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in names for i in range(4)))
    with pytest.raises(ValueError, match=r"must lie in class folders\. Received: .* without class folders"):
        index_folder(tmp_path, valid_fraction=0.5)


@pytest.mark.parametrize("name", ["holdout", "holdout/", "./holdout", "extra/../holdout"])
def test_named_test_folder_is_no_class_however_it_is_written(tmp_path, name):
    touch(tmp_path, *TWO_CLASSES, "holdout/1.jpg")
    index = index_folder(tmp_path, test=name, valid_fraction=0.5)
    assert index.class_names == ("cat", "dog")
    assert len(index.test) == 1
    with pytest.raises(ValueError, match=r"`test` must name a folder inside .* Received: test='\.\./x'"):
        index_folder(tmp_path, test="../x", valid_fraction=0.5)


def test_empty_class_of_a_test_folder_is_a_missing_one(tmp_path):
    touch(tmp_path, *in_folders("train", "valid"), "test/dog/1.jpg")
    (tmp_path / "test" / "cat").mkdir()
    assert index_folder(tmp_path).test.counts == {"cat": 0, "dog": 1}
    assert labelled_splits(tmp_path / "test", ["cat", "dog"])["all"].counts == {"cat": 0, "dog": 1}


def test_two_folders_of_one_split_are_refused(tmp_path):
    touch(tmp_path, *in_folders("train", "val", "valid"))
    with pytest.raises(ValueError, match=r"Received: val and valid in .*--valid val"):
        index_folder(tmp_path)
    assert index_folder(tmp_path, valid="val").folders["valid"].endswith("/val")


def test_validation_images_without_class_folders_are_refused(tmp_path):
    touch(tmp_path, *in_folders("train"), "valid/1.jpg")
    with pytest.raises(ValueError, match=r"Received: .*/valid without class folders"):
        index_folder(tmp_path)


def test_images_are_known_by_content_where_their_name_does_not_say(tmp_path):
    from PIL import Image

    touch(tmp_path, *TWO_CLASSES, "cat/notes.txt", "cat/BMW.txt", "dog/x.ppm", "stray.jpg")
    (tmp_path / "cat" / "BMW.txt").write_text("BMW is no bitmap, whatever it begins with")
    for suffix, kind in (("", "JPEG"), (".download", "PNG"), (".img", "GIF"), (".0", "BMP"), (".dat", "WebP")):
        Image.new("RGB", (8, 8)).save(tmp_path / "dog" / f"image{suffix}", kind)
    Image.new("RGB", (8, 8)).save(tmp_path / "dog" / "photo", "TIFF")
    index = index_folder(tmp_path, valid_fraction=0.2)
    assert len(index.train) + len(index.valid) == 4 + 5
    assert {Path(path).name for path in index.left_out} == {"notes.txt", "BMW.txt", "x.ppm", "photo", "stray.jpg"}
    assert describe(index).endswith("left out: 2 .txt, 1 without a suffix, 1 .jpg, 1 .ppm")


def test_shadows_of_other_systems_are_passed_over(tmp_path):
    touch(tmp_path, *TWO_CLASSES, "cat/@eaDir/1.jpg/thumb.jpg", "__MACOSX/cat/1.jpg", "cat/Thumbs.db")
    index = index_folder(tmp_path, valid_fraction=0.5)
    assert len(index.train) + len(index.valid) == 4
    assert index.left_out == ()


def test_class_of_other_formats_is_named_with_the_formats(tmp_path):
    touch(tmp_path, *TWO_CLASSES, "fish/1.ppm", "fish/2.ppm")
    with pytest.raises(ValueError, match=r"no images in .*fish, but 2 \.ppm\. The formats are JPEG, PNG"):
        index_folder(tmp_path, valid_fraction=0.5)


def test_folder_is_evaluated_whole(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (split,) = labelled_splits(tmp_path, ["bird", "cat", "dog"]).values()
    assert split.labels.tolist() == [1, 2]
    assert split.class_names == ("bird", "cat", "dog")
    with pytest.raises(ValueError, match=r"no other classes than bird, cat\. Received: dog"):
        labelled_splits(tmp_path, ["bird", "cat"])


def test_missing_test_folder_is_named(dogscats):
    with pytest.raises(FileNotFoundError, match=r"`test` .* Received: no folder .*/test9"):
        index_folder(dogscats, test="test9")


def test_empty_test_folder_is_named(dogscats):
    (dogscats / "test0").mkdir()
    with pytest.raises(ValueError, match=r"Received: no images in .*/test0"):
        index_folder(dogscats, test="test0")


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"Received: no class folders in {tmp_path}\."):
        index_folder(tmp_path, valid_fraction=0.2)


def test_class_without_images_is_named(dogscats):
    touch(dogscats, "train/fish/readme.txt", "valid/fish/1.jpg")
    with pytest.raises(ValueError, match=r"Received: no images in .*train/fish, but 1 \.txt\."):
        index_folder(dogscats)


def test_different_classes_are_named(dogscats):
    touch(dogscats, "train/fish/1.jpg", "valid/birds/1.jpg")
    with pytest.raises(ValueError, match=r"Received: only in .*train: \['fish'\], only in .*valid: \['birds'\]\."):
        index_folder(dogscats)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_fraction_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(ValueError, match=r"Received: valid_fraction="):
        index_folder(tmp_path, valid_fraction=fraction)


def test_class_of_one_image_cannot_be_split(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    with pytest.raises(ValueError, match=r"Received: class 'a' has only .*a/1\.jpg"):
        index_folder(tmp_path, valid_fraction=0.2)


def test_validation_folder_wins_over_a_fraction(dogscats):
    assert names_of(index_folder(dogscats, valid_fraction=0.2).valid) == ["e.gif", "f.bmp"]


def test_oversampling_makes_classes_as_frequent(tmp_path):
    touch(tmp_path, *(f"many/{i}.jpg" for i in range(20)), *(f"few/{i}.jpg" for i in range(6)))
    split = index_folder(tmp_path, valid_fraction=0.1).train
    more = split.oversampled()
    assert more.counts == {"few": 18, "many": 18}
    assert list(more.paths[: len(split)]) == list(split.paths)
    assert set(more.paths) == set(split.paths)
    few = [path for path in more.paths if "/few/" in path]
    assert {few.count(path) for path in few} <= {3, 4}


def test_oversampling_needs_one_label_each(dogscats):
    with pytest.raises(ValueError, match=r"Received: split 'test' without"):
        index_folder(dogscats, test="test1").test.oversampled()


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


HEAD = "filename,label\n"
ROWS = [("1.jpg", "cat"), ("2.jpg", "dog"), ("3.jpg", "cat"), ("4.jpg", "dog")]


def rows(delimiter=","):
    return "".join(f"{name}{delimiter}{label}\n" for name, label in ROWS)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + rows(),
        "\ufeff" + HEAD + rows(),
        "filename;label\n" + rows(";"),
        "filename\tlabel\n" + rows("\t"),
        (HEAD + rows()).replace("\n", "\r\n"),
        HEAD + rows(", "),
        HEAD + rows().replace("cat", " cat ").replace("dog", "dog "),
        HEAD + rows().replace("\n", "\n\n"),
        (HEAD + rows()).replace("\n", ",\n"),
        ",filename,label\n" + "".join(f"{i},{name},{label}\n" for i, (name, label) in enumerate(ROWS)),
        HEAD + "".join(f'"{name}","{label}"\n' for name, label in ROWS),
        HEAD + rows().replace("1.jpg", "sub\\1.jpg"),
        HEAD + rows().replace(".jpg", ""),
    ],
    ids=repr,
)
def test_csv_files_as_programs_write_them_say_the_same(tmp_path, text):
    touch(tmp_path, *(name for name, _ in ROWS), "sub/1.jpg")
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    index = index_folder(path, valid_fraction=0.5, suffix=".jpg")
    found = {
        Path(image).name: split.class_names[label]
        for split in (index.train, index.valid)
        for image, label in zip(split.paths, split.labels, strict=True)
    }
    assert found == dict(ROWS)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("is_valid", "False False True True"),
        ("is_valid", "0 0 1 1"),
        ("split", "Train training Validation val"),
        ("split", "TRAIN train dev valid"),
    ],
)
def test_csv_says_what_validates_in_the_words_that_people_use(tmp_path, column, values):
    touch(tmp_path, *(name for name, _ in ROWS))
    lines = [f"{name},{label},{value}" for (name, label), value in zip(ROWS, values.split(), strict=True)]
    index = index_folder(write_csv(tmp_path, f"fname,label,{column}\n" + "\n".join(lines)))
    assert names_of(index.valid) == ["3.jpg", "4.jpg"]
    assert index.folders == {"valid": str(tmp_path / "labels.csv")}


def test_delimiter_makes_several_labels_of_a_cell(tmp_path):
    touch(tmp_path, *(name for name, _ in ROWS))
    cells = ["clear primary", "haze", "clear  water", "primary haze"]
    text = "image_name,tags\n" + "".join(f"{name[0]},{cell}\n" for (name, _), cell in zip(ROWS, cells, strict=True))
    index = index_folder(write_csv(tmp_path, text), valid_fraction=0.5, label_delimiter=" ", suffix=".jpg")
    assert index.class_names == ("clear", "haze", "primary", "water")
    labels = dict(zip(index.train.paths + index.valid.paths, [*index.train.labels, *index.valid.labels], strict=True))
    assert labels[str(tmp_path / "3.jpg")].tolist() == [1, 0, 0, 1]
    with pytest.raises(ValueError, match=r"one label\. Received: .*several of clear, haze"):
        check_trainable(index)


def test_label_that_says_that_there_is_none_is_warned_of(tmp_path):
    touch(tmp_path, *(name for name, _ in ROWS))
    with pytest.warns(UserWarning, match=r"labels\.csv has 2 rows with the label 'nan', taken for a class"):
        index_folder(write_csv(tmp_path, HEAD + rows().replace("cat", "nan")), valid_fraction=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('filename,label\n1.jpg,"a\n2.jpg,b\n', "line 3: unexpected end of data"),
        ("sub\\\\1.jpg,a\n2.jpg,b\n", "first line names the image"),
        ("filename,label,split\n1.jpg,a,train\n2.jpg,a,valid\n3.jpg,a,test\n1.jpg,,test\n", "empty label in row 5"),
        ("filename,label\n7.jpg,a\n8.jpg,b\n", r"7\.jpg \(row 2\), .*8\.jpg \(row 3\), in"),
    ],
)
def test_csv_that_would_lose_rows_is_refused(tmp_path, text, message):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg", "sub/1.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        index_folder(write_csv(tmp_path, text.replace("\\\\", "\\")), valid_fraction=0.5)


@pytest.mark.parametrize(
    ("cell", "delimiter", "message"), [(" | ", "|", "none in row 2"), ("a", "", "must not be empty")]
)
def test_delimiter_that_leaves_no_label_is_refused(tmp_path, cell, delimiter, message):
    touch(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match=message):
        index_folder(write_csv(tmp_path, f"f,l\n1.jpg,{cell}\n"), valid_fraction=0.5, label_delimiter=delimiter)


def test_test_rows_of_a_csv_keep_their_labels(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    head = "filename,label,split\n1.jpg,a,train\n2.jpg,a,valid\n3.jpg,"
    assert index_folder(write_csv(tmp_path, f"{head}a,test\n")).test.labels.tolist() == [0]
    assert index_folder(write_csv(tmp_path, f"{head},test\n")).test.labels is None


def test_test_rows_of_a_csv_that_lack_a_class_have_the_numbers_of_the_others(tmp_path):
    touch(tmp_path, *(f"{number}.jpg" for number in range(8)))
    rows = [f"{number}.jpg,{'abc'[number % 3]},{'train' if number < 3 else 'valid'}" for number in range(6)]
    text = "\n".join(["file,label,split", *rows, "6.jpg,c,test", "7.jpg,b,test"])
    test = index_folder(write_csv(tmp_path, text)).test
    assert test.class_names == ("a", "b", "c")
    assert dict(zip(names_of(test), test.labels.tolist(), strict=True)) == {"6.jpg": 2, "7.jpg": 1}
    with pytest.raises(ValueError, match=r"the test rows of .* must have no other classes than a, b, c"):
        index_folder(write_csv(tmp_path, text.replace("7.jpg,b", "7.jpg,d")))


def test_csv_file_names_are_relative_to_the_given_folder(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/2.jpg")
    path = write_csv(tmp_path, "filename,label\n1.jpg,a\n2.jpg,a\n")
    assert names_of(index_csv(path, directory=tmp_path / "images", valid_fraction=0.5).train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\n", r"Received: .* and 0 rows"),
        ("filename\n1.jpg\n", r"Received: .* with columns \['filename'\]"),
        ("filename,label\n1.jpg\n", r"Received: 1 in row 2 of"),
        ("filename,label\n1.jpg,a\n", r"Received: valid_fraction=None"),
        ("filename,label,split\n1.jpg,a,learning\n", r"Received: split='learning' in row 2"),
        ("filename,label\n1.jpg, \n", r"Received: an empty label in row 2"),
        ("1.jpg,a\n1.jpg,b\n", r"first line names the image 1\.jpg"),
        ("filename,label,is_valid\n1.jpg,a,perhaps\n", r"Received: is_valid='perhaps' in row 2"),
        ("filename,label,width\n1.jpg,a,32\n", r"Received: label='a' in row 2"),
        ("filename,label,split\n1.jpg,a,train\n", r"Received: no row of .* with split='valid'"),
        ("filename,label,split\n1.jpg,a,train\n1.jpg,b,valid\n", r"only in train: \['a'\], only in valid: \['b'\]"),
        ("label,filename\ncat,1.jpg\ndog,1.jpg\n", r"in the column filename\. Put that column first"),
        ("label,split,filename\ncat,train,1.jpg\n", r"in the column filename\. Put that column first"),
        ("filename,a,b,split\n1.jpg,1,2,train\n1.jpg,1,0,valid\n", r"Received: b='2'"),
    ],
)
def test_wrong_csv_is_refused(tmp_path, text, message):
    touch(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match=message):
        index_folder(write_csv(tmp_path, text))


def test_csv_that_names_a_missing_image_is_refused(tmp_path):
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


def test_root_holds_all_images_however_the_table_names_them(tmp_path, monkeypatch):
    for name in ("here/a/1.jpg", "here/b/2.jpg", "there/3.jpg", "there/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    rows = ["path,label", "here/a/1.jpg,a", "here/b/2.jpg,b", f"{tmp_path}/there/3.jpg,a", f"{tmp_path}/there/4.jpg,b"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    index = index_folder("labels.csv", valid_fraction=0.5)
    assert index.root == str(tmp_path)
