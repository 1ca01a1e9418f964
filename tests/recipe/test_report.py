"""The page that a run leaves: what is on it, that names are escaped, and that nothing is asked of a network."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keras_sgdr.evaluation.label_issues import find_label_issues
from keras_sgdr.recipe.report import watch_report, write_report
from tests.cli.command_line import assert_one_line, run, run_well

VOID = {"meta", "img", "br"}
NASTY = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Reads a page, and fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(trained_run, tmp_path_factory):
    path = write_report(trained_run, tmp_path_factory.mktemp("report") / "report.html")
    return path, Page(path.read_text(encoding="utf-8"))


def test_page_tells_the_scores_and_choices_of_the_run(report, trained_run):
    text = " ".join(report[1].texts)
    stages = json.loads((trained_run / "run.json").read_text())["stages"]
    assert f"{stages['evaluate']['accuracy']:.3f}" in text
    assert f"{stages['evaluate']['tta_accuracy']:.3f}" in text
    assert stages["find_rate"]["why"] in text
    assert stages["train_all"]["verdict"] in text
    for stage in stages:
        assert stage in text
    assert f"{round(stages['train_all']['cpu_seconds'])} s" in report[1].texts
    assert "--config" in text


def test_page_shows_plots_and_the_worst_mistakes_each_with_words_for_those_who_do_not_see_them(report, trained_run):
    images = report[1].attributes("img")
    kinds = [image["src"].partition(";")[0] for image in images]
    # both finders, the history, the confusions, the reliability; the schedule
    assert (kinds.count("data:image/svg+xml"), kinds.count("data:image/png")) == (5, 1)
    assert all(image["alt"] for image in images)
    saved = np.load(trained_run / "predictions.npz")
    # the run was told to average over views
    wrong = np.flatnonzero(saved["tta"].argmax(axis=1) != saved["labels"])
    suspects = find_label_issues(saved["tta"], saved["labels"]).indices
    # the mistakes, each with its map; the labels to look at; the 6 least sure
    assert kinds.count("data:image/jpeg") == 2 * min(12, len(wrong)) + min(12, len(suspects)) + 6
    text = " ".join(report[1].texts)
    assert all(path in text for path in saved["paths"][wrong[:12]])
    assert saved["paths"][saved["tta"].max(axis=1).argmin()] in text


def test_page_shows_mistakes_where_there_are_some(trained_run, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / "run")
    saved = dict(np.load(directory / "predictions.npz"))
    saved["tta"][3] = np.roll(np.eye(3)[saved["labels"][3]], 1) * 0.97 + 0.01
    np.savez(directory / "predictions.npz", **saved)
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    name = ("one", "seven", "zero")[saved["labels"][3]]
    assert [image for image in page.attributes("img") if image["alt"].startswith(f"{name}, taken for ")]
    assert saved["paths"][3] in " ".join(page.texts)


def test_page_names_labels_that_are_probably_wrong_and_maps_what_speaks_for_the_mistake(trained_run, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / "run")
    saved = dict(np.load(directory / "predictions.npz"))
    # sure of all, and of one that it is another class than its label says
    saved["tta"] = np.eye(3)[saved["labels"]] * 0.85 + 0.05
    saved["tta"][5] = np.roll(np.eye(3)[saved["labels"][5]], 1) * 0.97 + 0.01
    np.savez(directory / "predictions.npz", **saved)
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    cards = [each["data-path"] for each in page.attributes("figure") if "data-path" in each]
    assert cards.count(saved["paths"][5]) == 2  # a mistake, and a label to look at
    assert "Labels to look at" in page.texts
    name = ("one", "seven", "zero")[saved["tta"][5].argmax()]
    (drawn,) = [image for image in page.attributes("img") if image["alt"] == f"What in it speaks for {name}, in red"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn["src"].partition(",")[2]))), float)
    assert (pixels[..., 0] - pixels[..., 2]).max() > 50  # red somewhere
    assert (pixels[..., 2] - pixels[..., 0]).max() > 50  # blue elsewhere


def test_page_asks_nothing_of_a_network_and_reads_without_script(report):
    text = report[0].read_text(encoding="utf-8")
    assert not [attributes for _, attributes in report[1].tags if attributes.get("href", "").startswith("http")]
    assert not re.findall(r"(?:src|href|url\()=?[\"'(]?(?!data:|#)(?:https?:)?//", text)
    (policy,) = [
        each["content"]
        for each in report[1].attributes("meta")
        if "content" in each and "default-src" in each["content"]
    ]
    assert "default-src 'none'" in policy
    assert report[0].stat().st_size < 2_000_000


def test_names_from_outside_are_text(trained_run, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / NASTY.replace("/", "_"))
    journal = json.loads((directory / "run.json").read_text())
    journal["settings"]["classes"] = [NASTY, "$x_1$", "ط" * 200]
    journal["settings"]["folder"] = f"/nowhere/{NASTY}"
    (directory / "run.json").write_text(json.dumps(journal))
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert len(page.attributes("script")) == 1
    assert NASTY in " ".join(page.texts)
    assert "$x_1$" in " ".join(page.texts)
    # The folder is gone: what was mistaken is named, and not shown.
    assert not [image for image in page.attributes("img") if image["src"].startswith("data:image/jpeg")]


def test_page_of_a_run_under_way_has_what_is_there(trained_run, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / "run")
    journal = json.loads((directory / "run.json").read_text())
    for stage in ("find_rate", "fit_plan", "train_smaller", "train_all", "evaluate", "export"):
        del journal["stages"][stage]
    (directory / "run.json").write_text(json.dumps(journal))
    text = " ".join(Page(write_report(directory).read_text(encoding="utf-8")).texts)
    assert "under way" in text
    assert "The worst mistakes" not in text


def test_a_run_is_watched_until_it_ends(trained_run, tmp_path):
    directory = shutil.copytree(trained_run, tmp_path / "run")
    whole = (directory / "run.json").read_text()
    journal = json.loads(whole)
    for stage in ("evaluate", "export"):
        del journal["stages"][stage]
    (directory / "run.json").write_text(json.dumps(journal))
    reloads = []
    for path in watch_report(directory, seconds=1):
        page = Page(path.read_text(encoding="utf-8"))
        reloads.append([each["content"] for each in page.attributes("meta") if each.get("http-equiv") == "refresh"])
        (directory / "run.json").write_text(whole)  # the run ends
    assert reloads == [["1"], []]


def test_command_writes_where_it_is_told(trained_run, tmp_path):
    done = run_well("report", trained_run, "-o", tmp_path / "page.html")
    assert done.stdout.strip() == str(tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).attributes("main")
    # the run has ended: there is nothing to wait for
    assert run_well("report", trained_run, "-o", tmp_path / "page.html", "--watch").stdout == done.stdout
    assert_one_line(run("report", tmp_path), "`run` must be the directory of a run")
