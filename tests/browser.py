"""Pages in Chromium, and axe-core's rules; the tests that need them are skipped where they are not installed."""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 390)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")


def opened_at(browser, url, **options):
    """The page, what it wrote to the console, and what it asked for."""
    page = browser.new_context(**options).new_page()
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    return page, complaints, asked


def violations(page):
    """What axe-core finds wrong, each with the places."""
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
