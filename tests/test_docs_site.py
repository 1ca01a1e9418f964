"""The site that mkdocs builds of docs/: its reference, its links, and how it looks in Chromium."""

import functools
import html
import http.server
import re
import subprocess
import sys
import threading

import pytest

from tests.test_documentation import PUBLIC, ROOT

pytest.importorskip("mkdocs", reason="needs mkdocs")
from tests.browser import WIDTHS, needs_browser, opened_at, violations  # skips where playwright is not installed

pytestmark = needs_browser

# Rules that it breaks: its search has no name, and its buttons that copy code are landmarks of one name.
OF_THE_THEME = {"aria-dialog-name", "landmark-unique"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a link to nothing, or a docstring that cannot be read, is an error in building it."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    return directory


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_reference_has_the_arguments_of_each_public_name(site):
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    assert [name for name in PUBLIC if f'id="keras_sgdr.{name}"' not in pages] == []
    assert "The rate at the first restart, &gt; 0." in pages


def test_examples_are_shown_whole(site):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "examples.html").read_text(encoding="utf-8")))
    assert [path.name for path in ROOT.glob("examples/*.py") if path.read_text(encoding="utf-8") not in text] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_the_screen_and_ask_no_other_host(browser, site, address, width):
    viewport = {"width": width, "height": 900}
    page, complaints, asked = opened_at(browser, f"{address}/index.html", viewport=viewport)
    for path in sorted(site.rglob("*.html")):
        page.goto(f"{address}/{path.relative_to(site).as_posix()}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), path
    assert complaints == []
    assert [each for each in asked if not each.startswith((address, "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["tutorial", "migration", "reference/schedules"])
def test_pages_can_be_read_by_all(browser, address, name, scheme):
    page, _, _ = opened_at(browser, f"{address}/{name}.html", color_scheme=scheme)
    assert [each for each in violations(page) if each[0] not in OF_THE_THEME] == []


def test_search_finds_a_callback(browser, address):
    page, _, _ = opened_at(browser, f"{address}/index.html?q=SGDRScheduler", viewport={"width": 1280, "height": 900})
    page.locator(".md-search-result__link").first.wait_for(state="visible", timeout=60_000)
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any(re.search(r"reference/schedules\.html", link) for link in found)
