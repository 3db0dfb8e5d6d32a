"""Takes report.png and viewer.png of a results folder: python docs/images/screenshots.py RESULTS (needs Chromium)."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = (
    *("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MENDSCAN = (sys.executable, "-m", "mendscan")
LARGEST_BYTES = 400_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the pictures go")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=FLAGS)
        save(picture_of_report(browser, given.results), given.folder / "report.png")
        save(picture_of_viewer(browser, given.results), given.folder / "viewer.png")
        browser.close()


def picture_of_report(browser: Browser, results: Path) -> bytes:
    """Return the least likely scan as the report shows it, half of it restored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        subprocess.run(
            [*MENDSCAN, "report", "-i", str(results), "-o", str(path)], check=True, stdout=subprocess.DEVNULL
        )
        page = opened(browser, path.as_uri(), width=1440, height=1400)
        scan = page.locator("section.scan").first
        scan.locator(".wipe-range").fill("45")
        page.mouse.move(0, 0)
        return scan.screenshot()


def picture_of_viewer(browser: Browser, results: Path) -> bytes:
    """Return the viewer's page with the least likely scan at its second finding, or its first."""
    with viewer(results) as address:
        page = opened(browser, address, width=1440, height=900)
        expect(page.locator("#at-restored")).not_to_have_text("–", timeout=60_000)
        findings = page.locator("table.findings tbody tr")
        if findings.count():
            findings.nth(min(1, findings.count() - 1)).click()
        page.mouse.move(0, 0)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page.screenshot()


def opened(browser: Browser, address: str, *, width: int, height: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(address)
    return page


@contextmanager
def viewer(results: Path) -> Iterator[str]:
    """Run ``mendscan view`` and give the address that it prints."""
    command = [*MENDSCAN, "view", "-i", str(results), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = iter(process.stdout or ())
            yield next(found[0] for line in said if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()


def save(png: bytes, target: Path) -> None:
    target.write_bytes(png)
    if len(png) > LARGEST_BYTES:
        raise SystemExit(f"{target}: {len(png)} bytes, expected at most {LARGEST_BYTES}")


if __name__ == "__main__":
    main()
