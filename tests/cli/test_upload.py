"""Runs that read from S3, and are copied to it: moto's server, in a process of its own."""

import shutil

import pytest

from keras_sgdr import load_classifier, write_shards
from keras_sgdr.data.index.folder import index_folder
from tests.cli.command_line import assert_one_line, run, run_well


def assert_copied(s3, url, output):
    copied = {path.removeprefix(f"{url.removeprefix('s3://')}/"): path for path in s3.find(url)}
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    assert set(copied) == {name for name in files if not name.startswith(".")}
    assert {"run.json", "model.keras", "report.html", "export/1/saved_model.pb"} <= set(copied)
    for name, path in copied.items():
        assert s3.cat_file(path) == files[name].read_bytes(), name


def test_a_run_is_copied_to_a_url_with_its_report(s3, digits_folder, tiny_options, trained_run, tmp_path):
    output = shutil.copytree(trained_run, tmp_path / "run")
    cycles = ["--head-cycles", 1, "--n-cycles", 2, "--cycle-len", 1, "--tta", "flip"]
    command = ["train", digits_folder, "-o", output, *tiny_options, *cycles, "--resume"]
    run_well(*command, "--upload", "s3://bucket/runs/digits")
    assert_copied(s3, "s3://bucket/runs/digits", output)
    assert_one_line(run(*command, "--upload", "s3://no-such-bucket/run"), "s3://no-such-bucket/run/")
    assert_one_line(run(*command, "--upload", "elsewhere"), "Received: url='elsewhere'")


@pytest.mark.slow  # two runs
def test_train_on_shards_in_s3_is_the_run_on_the_folder(s3, digits_folder, tiny_options, tmp_path):
    shards = write_shards(index_folder(digits_folder, valid_fraction=0.2), tmp_path / "shards")
    for path in shards.rglob("*"):
        if path.is_file():
            s3.put_file(str(path), f"s3://bucket/shards/{path.relative_to(shards).as_posix()}")
    cycles = ["--head-cycles", 1, "--n-cycles", 1, "--cycle-len", 1, "--learning-rate", 1e-3, "--tta", "off", "--quiet"]
    run_well("train", digits_folder, "-o", tmp_path / "here", *tiny_options, *cycles)
    upload = ["--upload", "s3://bucket/runs/new"]
    run_well("train", "s3://bucket/shards", "-o", tmp_path / "there", *tiny_options, *cycles, *upload)
    assert (tmp_path / "here/history.csv").read_text() == (tmp_path / "there/history.csv").read_text()
    assert_copied(s3, "s3://bucket/runs/new", tmp_path / "there")
    s3.get("s3://bucket/runs/new", str(tmp_path / "fetched"), recursive=True)
    assert load_classifier(tmp_path / "fetched").class_names == load_classifier(tmp_path / "here").class_names
    one = "s3://bucket/shards"
    assert "valid" in run_well("evaluate", tmp_path / "fetched", one).stdout
    scores = [run_well("predict", tmp_path / "fetched", path).stdout.splitlines() for path in (one, shards)]
    assert [row.partition(",")[2] for row in scores[0]] == [row.partition(",")[2] for row in scores[1]]
