"""The page of `keras-sgdr serve` as Chromium shows it."""

import pytest

from keras_sgdr.evaluation.predictions import predict_files
from keras_sgdr.serving.server import Server, map_maker
from tests.browser import WIDTHS, needs_browser, opened_at, violations
from tests.data.decode.odd_images import FILES
from tests.serving.conftest import NAMES
from tests.serving.listening import listening

pytestmark = needs_browser


@pytest.fixture(scope="module")
def address(trained_run, classifier):
    with listening(Server(trained_run / "export", make_map=map_maker(classifier))) as address:
        yield address


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_an_image_is_answered_with_classes_probabilities_and_a_map(
    browser,
    address,
    classifier,
    digits_folder,
    width,
    scheme,
    tmp_path,
):
    image = sorted((digits_folder / "seven").iterdir())[0]
    expected = predict_files(classifier, [image])
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page, complaints, asked = opened_at(browser, address, **options)
    assert "For production there is TensorFlow Serving" in page.inner_text("main")
    assert violations(page) == []
    page.locator("#file").set_input_files(image)
    page.locator("#overlay").wait_for(state="visible", timeout=60_000)
    assert page.locator("#best").inner_text() == expected.predicted[0]
    rows = page.locator("#rows tr")
    found = [rows.nth(i).inner_text().split() for i in range(rows.count())]
    ranked = sorted(zip(expected.probabilities[0], expected.class_names, strict=True), reverse=True)
    assert found == [[name, f"{100 * share:.1f}", "%"] for share, name in ranked]
    assert page.evaluate("document.getElementById('overlay').naturalWidth") == 32
    page.screenshot(path=tmp_path / f"{width} {scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    assert complaints == []
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


def test_what_is_no_image_is_told_and_the_next_one_answered(browser, address, tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "good.png").write_bytes(FILES["turned.png"])
    page, _, _ = opened_at(browser, address)
    page.locator("#file").set_input_files(tmp_path / "text.jpg")
    page.locator("#error").wait_for(state="visible", timeout=60_000)
    assert "it is no JPEG, PNG, GIF, BMP or WebP image" in page.inner_text("#error")
    page.locator("#file").set_input_files(tmp_path / "good.png")
    page.locator("#answer").wait_for(state="visible", timeout=60_000)
    assert not page.locator("#error").is_visible()


def test_names_are_shown_as_they_are(browser, exported, tmp_path):
    (tmp_path / "good.jpg").write_bytes(FILES["plain.jpg"])
    with listening(Server(exported.parent)) as address:
        page, complaints, _ = opened_at(browser, address)
        page.locator("#file").set_input_files(tmp_path / "good.jpg")
        page.locator("#answer").wait_for(state="visible", timeout=60_000)
        assert {page.locator("#rows th").nth(i).inner_text() for i in range(3)} == set(NAMES)
        assert not page.locator("#map").is_visible()
        assert complaints == []
