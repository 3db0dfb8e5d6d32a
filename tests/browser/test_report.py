"""The report in a browser: it opens from the disk, asks for nothing, and does what its controls say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mendscan.report.report import write_report
from mendscan.report.showing import show
from mendscan.volumes.volume import volume_from_array
from result_folders import of_volume, results_of

NAMES = ("first", "<img src=x onerror=alert(1)>", 'quote " and\nline')


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    scans = []
    for number, name in enumerate(NAMES):
        voxels = np.random.default_rng(number).uniform(0, 100, (20, 24, 16))
        scan = volume_from_array(voxels, np.diag([2.0, 2.0, 2.5, 1.0]), name=name)
        map_XYZ = np.zeros(scan.shape, np.float32)
        map_XYZ[3:8, 3:8, 3:8], map_XYZ[12:15, 12:15, 12:14] = 0.8, 0.6
        scans.append(of_volume(scan, map_XYZ, p_value=0.05 + 0.1 * number, score=3.0 - number))
    results_of(folder / "results", *scans, failed=("broken",))
    (folder / "results" / "model-card.md").write_text("# Card\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n")
    write_report(folder / "results", folder / "report.html")
    return (folder / "report.html").as_uri()


class Watched:
    """A page, and everything it asked for or complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1300, "height": 900}, reduced_motion="reduce")
    found = Watched(context.new_page())
    found.page.goto(address)
    yield found
    context.close()
    assert found.complaints == []
    assert found.requests
    assert all(url.startswith(("file:", "data:")) for url in found.requests), found.requests


@pytest.fixture
def page(watched: Watched) -> Any:
    return watched.page


def colour_at(page: Any, selector: str, across: float, down: float) -> tuple[int, int, int]:
    """Return the colour that is seen at a place of an element, from its upper left."""
    import io

    from PIL import Image

    seen = Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")
    red, green, blue = seen.getpixel((int(across * (seen.width - 1)), int(down * (seen.height - 1))))  # type: ignore[misc]
    return red, green, blue


def test_the_slider_lays_the_healthy_version_over_the_scan(page: Any) -> None:
    panel = "#scan-1 .view.chosen .panel.wiped >> nth=0"
    place = (0.3, 0.37)
    before = colour_at(page, panel, *place)
    page.locator("#scan-1 .wipe-range").fill("100")
    after = colour_at(page, panel, *place)
    assert after != before
    assert after == colour_at(page, "#scan-1 .view.chosen .panel >> nth=1", *place)
    assert page.locator("#scan-1 .wipe-range").get_attribute("aria-valuetext") == "healthy version"


def test_the_slider_moves_by_keys_and_by_dragging_a_picture(page: Any) -> None:
    slider = page.locator("#scan-1 .wipe-range")
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    box = page.locator("#scan-1 .view.chosen .panel.wiped").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert 45 <= float(slider.input_value()) <= 55
    widths = page.locator("#scan-1 .view.chosen .wipe").evaluate_all(
        "all => all.map(each => each.getAttribute('width'))"
    )
    assert all(float(width) > 0 for width in widths)


def test_a_finding_of_the_table_shows_its_slices(page: Any) -> None:
    assert page.locator("#scan-1-finding-1").is_visible()
    assert page.locator("#scan-1-finding-2").is_hidden()
    page.locator("#scan-1 .findings tbody tr >> nth=1").click()
    assert page.locator("#scan-1-finding-2").is_visible()
    assert page.locator("#scan-1-finding-1").is_hidden()
    assert page.url.endswith("#scan-1-finding-2")
    assert page.locator("#scan-2-finding-1").is_visible()


def test_an_address_leads_to_a_finding(page: Any, address: str) -> None:
    page.goto(f"{address}#scan-2-finding-2")
    page.wait_for_function("document.querySelector('#scan-2-finding-2').classList.contains('chosen')")
    assert page.locator("#scan-2-finding-2").is_visible()


def test_the_map_fades_and_outlines_can_be_hidden(page: Any) -> None:
    panel = "#scan-1 .view.chosen .panel >> nth=2"
    place = (0.28, 0.78)
    coloured = colour_at(page, panel, *place)
    assert max(coloured) - min(coloured) > 40
    page.locator("#scan-2 .map-range").fill("0")
    plain = colour_at(page, panel, *place)
    assert max(plain) - min(plain) <= 2
    page.locator("#scan-1 .outline-box").uncheck()
    assert page.locator("#scan-1 .view.chosen .panel .outline").first.is_hidden()


def test_keys_go_from_scan_to_scan_and_to_the_table(page: Any) -> None:
    focused = "document.activeElement.id"
    page.keyboard.press("j")
    assert page.evaluate(focused) == "scan-1"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "scan-2"
    page.keyboard.press("2")
    assert page.locator("#scan-2-finding-2").is_visible()
    page.keyboard.press("r")
    assert page.locator("#scan-2 .wipe-range").input_value() == "100"
    page.keyboard.press("k")
    assert page.evaluate(focused) == "scan-1"
    page.keyboard.press("/")
    assert page.evaluate(focused) == "filter"
    page.keyboard.type("quote")
    assert page.locator("#ranking tbody tr:visible").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#ranking tbody tr:visible").count() == len(NAMES) + 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_the_table_is_sorted_and_filtered(page: Any) -> None:
    first = page.locator("#ranking tbody th").first
    assert first.inner_text() == "first"
    page.locator("#ranking thead button", has_text="score").click()
    assert first.inner_text() == NAMES[2].replace("\n", " ")
    page.locator("#ranking thead button", has_text="score").click()
    assert first.inner_text() == "first"
    assert page.locator("#ranking tbody th").last.inner_text() == "broken"
    page.locator("#filters button", has_text="failed").click()
    assert page.locator("#ranking tbody tr:visible").count() == 1


def test_a_plane_is_enlarged_with_scan_healthy_version_and_map(page: Any) -> None:
    page.locator("#scan-1 .view.chosen .enlarge").first.click()
    assert page.locator("#large").is_visible()
    assert "axial" in page.locator("#large-title").inner_text()
    place = (0.3, 0.37)
    page.locator("#large-wipe").fill("0")
    scan = colour_at(page, "#large-picture svg", *place)
    page.locator("#large-wipe").fill("100")
    assert colour_at(page, "#large-picture svg", *place) != scan
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()


def test_dark_and_light(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert dark != light
    page.locator("#theme").click()
    assert page.evaluate(background) == light
    page.locator("#theme").click()
    assert page.evaluate(background) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
          const parts = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map(
            (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
          ).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = parts(getComputedStyle(at).backgroundColor);
              if (colour.length === 3) return colour;
            }
            return [255, 255, 255];
          };
          return [...document.querySelectorAll("p, dt, dd, th, td, h1, h2, h4, a, button, small, .chip, label")]
            .filter((each) => each.offsetParent && each.textContent.trim() && !each.closest(".top"))
            .map((each) => {
              const [a, b] = [light(parts(getComputedStyle(each).color)), light(behind(each))].sort((x, y) => y - x);
              return [(a + 0.05) / (b + 0.05), each.outerHTML.slice(0, 80)];
            });
        }"""
    )
    assert len(ratios) > 50
    assert min(ratios)[0] >= 4.5, min(ratios)


def test_without_scripts_everything_is_there(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(address)
    for name in ("#scan-1-finding-1", "#scan-1-finding-2", "#scan-3-finding-2"):
        assert page.locator(name).is_visible()
    for name in ("#filters", "#scan-1 .pictures > .controls", "#theme", ".enlarge >> nth=0"):
        assert page.locator(name).is_hidden()
    context.close()


def test_a_narrow_window_is_not_wider_than_itself(chromium: Any, address: str) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_print_has_a_page_for_each_scan_and_no_controls(page: Any) -> None:
    page.emulate_media(media="print")
    for name in ("#filters", "#scan-1 .pictures > .controls", "#theme", ".top nav", "#scan-1-finding-2"):
        assert page.locator(name).is_hidden()
    assert page.locator("footer").is_visible()
    breaks = page.locator(".scan").evaluate_all("all => all.map(each => getComputedStyle(each).breakBefore)")
    assert breaks == ["page"] * len(NAMES)


def test_in_a_notebook_a_scan_has_its_slider_within_a_frame(chromium: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).uniform(0, 100, (20, 24, 16))
    scan = volume_from_array(voxels, np.eye(4), name="scan")
    map_XYZ = np.zeros(scan.shape, np.float32)
    map_XYZ[3:8, 3:8, 3:8] = 0.8
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><body>{show(scan, of_volume(scan, map_XYZ))._repr_html_()}", encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1000, "height": 950})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(cell.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator(".wipe-range").fill("40")
    assert frame.locator(".wipe-range").get_attribute("aria-valuetext") == "40 % healthy version"
    assert frame.locator(".view.chosen .panel").first.is_visible()
    assert not frame.locator("#cohort").is_visible()
    assert frame.locator(".in-print").first.is_visible()
    assert complaints == []
    page.close()
