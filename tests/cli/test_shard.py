"""Shards on the command line: written, checked, trained on, evaluated."""

import json

import pytest

from tests.cli.command_line import assert_one_line, run, run_well


@pytest.fixture(scope="module")
def shards(digits_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "in shards"
    done = run_well("shard", digits_folder, path, "--valid-fraction", 0.2, "--seed", 0)
    assert f"train: 144 images of 3 classes in {path}/train-*.tfrecord" in done.stdout
    return path


def test_shard_holds_out_what_it_is_told_in_files_of_the_size_it_is_told(digits_folder, tmp_path):
    options = ["--valid-fraction", 0.5, "--shard-megabytes", 1]
    done = run_well("shard", digits_folder, tmp_path / "half", *options)
    assert "valid: 90 images" in done.stdout
    assert sorted(path.name for path in (tmp_path / "half").glob("*.tfrecord")) == [
        "train-00000.tfrecord",
        "valid-00000.tfrecord",
    ]
    assert_one_line(run("shard", digits_folder, tmp_path / "half", "--seed", 1), "with shards of others")


def test_check_evaluate_and_predict_take_shards_as_they_take_the_folder(digits_folder, shards, trained_run, tmp_path):
    reports = [run_well("check", path, "--format", "json").stdout for path in (digits_folder, shards)]
    assert json.loads(reports[0])["counts"] == json.loads(reports[1])["counts"]
    kinds = [[finding["kind"] for finding in json.loads(report)["findings"]] for report in reports]
    assert kinds[0] == kinds[1] != []
    scores = []
    for path in (digits_folder, shards):
        done = run_well("evaluate", trained_run, path, "-o", tmp_path / path.name)
        scores.append([line for line in done.stdout.splitlines() if line.startswith(("plain", "with views"))])
        table = (tmp_path / path.name / "predictions.csv").read_text()
        scores[-1] += [row.split(",", 1)[1] for row in table.splitlines()]
    assert len(scores[0]) == 2 + 1 + 36
    assert scores[0] == scores[1]
    predicted = [run_well("predict", trained_run, path).stdout.splitlines() for path in (digits_folder, shards)]
    by_name = [
        {"/".join(row.partition(",")[0].split("/")[-2:]): row.partition(",")[2] for row in rows} for rows in predicted
    ]
    assert len(by_name[0]) == 181
    assert by_name[0] == by_name[1]
    one = next(row.partition(",")[0] for row in predicted[1][1:])
    assert run_well("predict", trained_run, one).stdout.splitlines() == predicted[1][:2]


@pytest.mark.slow  # two runs
def test_train_on_shards_is_the_run_on_the_folder(digits_folder, shards, tiny_options, tmp_path):
    cycles = ["--head-cycles", 1, "--n-cycles", 1, "--cycle-len", 1, "--learning-rate", 1e-3, "--tta", "off"]
    for folder in (digits_folder, shards):
        run_well("train", folder, "-o", tmp_path / f"run {folder.name}", *tiny_options, *cycles, "--quiet")
    assert digits_folder.name != shards.name
    histories = [(tmp_path / f"run {folder.name}" / "history.csv").read_text() for folder in (digits_folder, shards)]
    assert histories[0] == histories[1]
