"""Makes `docs/images/report.png`, README's image of a report: its section on mistakes.

keras-sgdr demo && python -m tests.report_picture demo/run
"""

import io
import sys
from pathlib import Path

from PIL import Image

from keras_sgdr import write_report
from tests.browser import CHROMIUM, opened_at, sync_api

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.png"
WIDTH = 1100


def main(run: str) -> None:
    report = write_report(run).resolve()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, _, _ = opened_at(browser, report.as_uri(), viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        top, bottom = (page.locator(name).bounding_box()["y"] - 20 for name in ("h2#mistakes", "h2#unsure"))
        clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
        seen = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
        browser.close()
    # 128 colours are enough for a page, and take a third of the room
    seen.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    sys.stdout.write(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1])
