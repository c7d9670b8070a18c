"""Takes the screenshot of a committed report for the README, with Chromium.

    pip install playwright pillow && playwright install chromium   # or Debian's: apt-get install chromium
    mindscale report experiments/scaling.toml
    python scripts/make_screenshot.py [--report results/scaling/report.html] [--out docs/report.png]

CHROMIUM names the browser if Playwright has none of its own; /usr/bin/chromium is found by itself.
"""

import argparse
import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

LARGEST = 200_000  # bytes


def picture(report, width, height):
    """Returns an image of the top of the page, as it opens."""
    program = os.environ.get("CHROMIUM") or ("/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        shot = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("results/scaling/report.html"))
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    parser.add_argument("--width", type=int, default=1320)
    parser.add_argument("--height", type=int, default=900)
    options = parser.parse_args()
    image = picture(options.report, options.width, options.height)
    image.quantize(128).save(options.out, optimize=True)  # flat colours: a palette is a third of the size
    size = options.out.stat().st_size
    print(f"{options.out}: {image.width} x {image.height}, {size} bytes")
    assert size < LARGEST, f"{options.out} has {size} bytes, expected less than {LARGEST}; take a lower --height"


if __name__ == "__main__":
    main()
