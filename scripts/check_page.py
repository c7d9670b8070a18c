"""Tests the web page in Chromium; takes screenshots at widths of 400 and 1400 pixels, light and dark.

    pip install playwright && playwright install chromium   # or Debian's: apt-get install chromium
    python scripts/check_page.py [--shots FOLDER]           # all checks, against scripts/mock_server.py
    python scripts/check_page.py --url http://127.0.0.1:8000 [--key KEY]   # checks for any server, against `mindscale serve`

CHROMIUM names the browser if Playwright has none of its own; /usr/bin/chromium is found by itself.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import mock_server
from page_checks import CHECKS, COMPARE, STILL, Checks, answer, ask, until
from playwright.sync_api import expect, sync_playwright


def chat_streams_and_stops(checks):
    with checks.page() as page:
        ask(page, "Tell me something long", wait=False)
        body = answer(page).locator(".body")
        until(page, "document.querySelector('.message.assistant .body')?.textContent.length > 3")
        first = body.inner_text()
        if answer(page).get_attribute("aria-busy"):
            page.keyboard.press("Escape")
        until(page, STILL)
        assert body.inner_text().startswith(first[:3])
        expect(page.locator(".conversations li a")).to_have_count(1)
        page.reload()
        page.locator(".conversations a").first.click()
        expect(page.locator(".message")).to_have_count(2)


def models_are_compared(checks):
    with checks.page("#/compare") as page:
        page.wait_for_selector(".compare fieldset input")
        if page.locator(".compare fieldset input").count() < 2:
            return
        page.fill(COMPARE, "你好")
        page.press(COMPARE, "Enter")
        page.wait_for_selector(".answers .token")
        until(page, STILL, timeout=60)
        page.locator(".answers .token").first.hover()
        expect(page.locator("#tip")).to_be_visible()
        assert page.locator("#tip tr").count() >= 2


def sweeps_are_listed(checks):
    with checks.page("#/sweeps") as page:
        until(page, "document.querySelector('.sweeps li') || document.querySelector('.page [role=status]').textContent")
        if page.locator(".sweeps a").count():
            page.locator(".sweeps a").first.click()
            page.wait_for_selector(".data tbody tr")


ANY = [chat_streams_and_stops, models_are_compared, sweeps_are_listed]



def take(page, path, is_full=False):
    page.screenshot(path=path, full_page=is_full)


def shots(checks, folder):
    """Takes screenshots of every page, narrow and wide, light and dark, one of them in Chinese."""
    if checks.server:
        checks.server.start, checks.server.pace = time.monotonic() - 1600, 0.02  # far along, and almost stopped
    for width in (400, 1400):
        for scheme, locale in (("light", "en-GB"), ("dark", "zh-CN")):
            with checks.page(viewport={"width": width, "height": 900}, color_scheme=scheme, locale=locale) as page:
                page.wait_for_selector("#model option", state="attached")
                take(page, folder / f"empty_{width}_{scheme}.png")
                ask(page, "你知道光速是多少吗？ (markdown)")
                ask(page, "How much of it is in your training data?")
                take(page, folder / f"chat_{width}_{scheme}.png")
                page.keyboard.press("Escape")
                page.evaluate("document.activeElement.blur()")
                page.keyboard.press("?")
                take(page, folder / f"help_{width}_{scheme}.png")
                page.keyboard.press("Escape")
                page.goto(f"{checks.base}/#/compare")
                page.fill(COMPARE, "你知道光速是多少吗？")
                page.press(COMPARE, "Enter")
                until(page, "document.querySelector('.answer') && !document.querySelector('.streaming')", timeout=60)
                page.locator(".answer .token").last.hover()
                take(page, folder / f"compare_{width}_{scheme}.png")
                page.goto(f"{checks.base}/#/sweeps")
                page.wait_for_timeout(700)
                take(page, folder / f"sweeps_{width}_{scheme}.png")
                if page.locator(".sweeps a").count():
                    page.locator(".sweeps a").first.click()
                    page.wait_for_selector(".plot path.line")
                    page.locator(".plot").hover(position={"x": 200, "y": 60})
                    page.evaluate("scrollTo(0, 0)")
                    take(page, folder / f"sweep_{width}_{scheme}.png", True)
                    page.locator(".data td.label a").nth(3 if checks.server else 0).click()
                    page.wait_for_timeout(700)
                    take(page, folder / f"trial_{width}_{scheme}.png", True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--shots", type=Path, help="where screenshots go")
    parser.add_argument("--only", help="checks whose name holds this")
    options = parser.parse_args()
    server = None
    if not options.url:
        server = mock_server.serve(pace=2.0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    base = (options.url or f"http://127.0.0.1:{server.server_address[1]}").rstrip("/")
    folder = options.shots or Path(tempfile.mkdtemp(prefix="page-"))
    folder.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("CHROMIUM") or ("/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None)
    failed = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        checks = Checks(browser, base, server, options.key)
        for check in ANY + (CHECKS if server else []):
            name = check.__name__.replace("_", " ")
            if options.only and options.only not in name:
                continue
            try:
                check(checks)
                print(f"passed  {name}", flush=True)
            except Exception as error:  # report it and go on with the others
                failed.append(name)
                print(f"FAILED  {name}\n{type(error).__name__}: {error}", flush=True)
                traceback.print_exc(limit=-3)
        if not options.only or options.shots:
            shots(checks, folder)
            print(f"screenshots: {folder}")
        browser.close()
    sys.exit(f"{len(failed)} failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
