"""The report as Chromium shows it: two widths, light and dark, with axe-core's rules, with and without script."""

import csv
import json
import shutil

import numpy as np
import pytest

from keras_sgdr.recipe.report import write_report
from tests.browser import WIDTHS, needs_browser, opened_at, violations

pytestmark = needs_browser

LONG = "a class whose name is of two hundred characters " * 4 + "or so"


def with_predictions(run, directory, names, num_images):
    """A copy of a run that would have been of other classes, or of fewer validation images."""
    shutil.copytree(run, directory)
    draw = np.random.default_rng(0)
    journal = json.loads((directory / "run.json").read_text())
    journal["settings"]["classes"] = names
    if len(names) != 3:
        journal["settings"]["folder"] = "/nowhere"  # the model knows three classes: no maps of others
    (directory / "run.json").write_text(json.dumps(journal))
    saved = dict(np.load(directory / "predictions.npz"))
    labels = draw.integers(0, len(names), num_images)
    sure = np.eye(len(names))[np.where(draw.random(num_images) < 0.3, draw.integers(0, len(names), num_images), labels)]
    plain = 0.7 * sure + 0.3 * draw.dirichlet(np.ones(len(names)), num_images)
    paths = np.resize(saved["paths"], num_images)
    np.savez(directory / "predictions.npz", plain=plain, tta=plain, labels=labels, paths=paths)
    return directory


def without_mistakes(run, directory):
    shutil.copytree(run, directory)
    saved = dict(np.load(directory / "predictions.npz"))
    saved["plain"] = saved["tta"] = np.eye(3)[saved["labels"]] * 0.97 + 0.01
    np.savez(directory / "predictions.npz", **saved)
    return directory


def under_way(run, directory):
    shutil.copytree(run, directory)
    journal = json.loads((directory / "run.json").read_text())
    for stage in list(journal["stages"])[-6:]:
        del journal["stages"][stage]
    (directory / "run.json").write_text(json.dumps(journal))
    return directory


REPORTS = {
    "odd names": lambda run, path: with_predictions(run, path, ["<script>alert(1)</script>", "قطة", LONG], 36),
    "two classes": lambda run, path: with_predictions(run, path, ["cat", "dog"], 36),
    "a hundred classes": lambda run, path: with_predictions(run, path, [f"class {i:03}" for i in range(100)], 400),
    "one image": lambda run, path: with_predictions(run, path, ["one", "seven", "zero"], 1),
    "no mistakes": without_mistakes,
    "under way": under_way,
}


@pytest.fixture(scope="module")
def reports(trained_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return {name: write_report(make(trained_run, folder / name)) for name, make in REPORTS.items()}


def opened(browser, path, **options):
    return opened_at(browser, path.as_uri(), **options)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "light") for name in REPORTS), ("odd names", "dark"), ("under way", "dark")],
)
def test_page_fits_the_screen_and_can_be_read_by_all(browser, reports, name, scheme, tmp_path):
    for width in WIDTHS:
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        page, complaints, asked = opened(browser, reports[name], **options)
        page.screenshot(path=tmp_path / f"{name} {width} {scheme}.png", full_page=True)
        assert complaints == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [reports[name].as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        page.context.close()


def test_page_says_all_without_script(browser, reports):
    page, complaints, _ = opened(browser, reports["odd names"], java_script_enabled=False)
    text = page.inner_text("main")
    for words in ("The worst mistakes", "<script>alert(1)</script>", "قطة", "Least sure", "Time of each stage"):
        assert words in text
    assert page.locator("select").count() == 0
    assert complaints == []


def test_tables_sort_and_images_enlarge_by_keyboard(browser, reports):
    page, _, _ = opened(browser, reports["a hundred classes"])
    first = page.locator("table.sortable tbody tr").first
    page.locator("table.sortable th button", has_text="recall").press("Enter")
    lowest = float(first.locator("td").nth(3).inner_text())
    page.locator("table.sortable th button", has_text="recall").press("Enter")
    assert float(first.locator("td").nth(3).inner_text()) > lowest
    assert page.locator("table.sortable th[aria-sort=descending]").inner_text() == "recall"
    page, _, _ = opened(browser, reports["odd names"])
    image = page.locator(".images img").first
    before = image.bounding_box()["width"]
    image.press("Enter")
    assert image.bounding_box()["width"] > 2 * before
    image.press("Escape")
    assert image.bounding_box()["width"] == before
    image.press(" ")
    assert image.bounding_box()["width"] > 2 * before


def test_what_is_chosen_is_saved_as_relabel_reads_it(browser, reports, tmp_path):
    page, complaints, _ = opened(browser, reports["odd names"], accept_downloads=True)
    button = page.locator("p.changes button")
    assert not button.is_visible()
    cards = page.locator(".images figure")
    paths = [cards.nth(i).get_attribute("data-path") for i in range(2)]
    labels = [cards.nth(i).get_attribute("data-label") for i in range(2)]
    other = "قطة" if labels[0] != "قطة" else LONG
    cards.nth(0).locator("select").select_option(other)
    cards.nth(1).locator("select").select_option("delete")
    with page.expect_download() as download:
        button.click()
    download.value.save_as(tmp_path / "changes.csv")
    assert download.value.suggested_filename == "changes.csv"
    with (tmp_path / "changes.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"path": paths[0], "label": other},
            {"path": paths[1], "label": "delete"},
        ]
    assert complaints == []
