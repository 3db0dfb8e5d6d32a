"""The viewer's page in a browser: what is drawn is what was stored, and nothing leaves the machine."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from viewer_results import AFFINE, BLOBS_XYZ, MARKER, MARKER_XYZ, SHAPE_XYZ, build_results, viewer_over

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MARKER_IJK = (17 - MARKER_XYZ[1], 19 - MARKER_XYZ[2], MARKER_XYZ[0])
IN_PLANE = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_results(tmp_path_factory.mktemp("browsed") / "results")


@pytest.fixture(scope="module")
def port(results: Path) -> Iterator[int]:
    with viewer_over(results) as port:
        yield port


class Watched:
    """A page, and all it complained of or asked for."""

    def __init__(self, page: Page, port: int) -> None:
        self.page, self.port = page, port
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, fragment: str = "", *, ready: bool = True) -> Page:
        self.page.goto(f"http://127.0.0.1:{self.port}/{fragment}")
        if ready:
            self.restored()
        return self.page

    def restored(self, name: str = "") -> None:
        from playwright.sync_api import expect

        expect(self.page.locator("#title")).to_contain_text(name, timeout=20_000)
        expect(self.page.locator("#at-restored")).not_to_have_text("–", timeout=20_000)
        self.settle()

    def settle(self) -> None:
        # Two frames: one to draw what was asked for, one to show it.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.fixture
def watched(chromium: Browser, port: int) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1130, "height": 600}, color_scheme="light")
    context.set_default_timeout(20_000)
    each = Watched(context.new_page(), port)
    yield each
    context.close()
    assert each.complaints == []
    own = f"http://127.0.0.1:{each.port}/"
    assert [url for url in each.asked if not url.startswith((own, "data:", f"blob:{own}"))] == []
    assert not [url for url in each.asked if re.search("anomalous|warned|damaged|broken", url)]


def said(page: Page, what: str) -> str:
    return page.locator(f"#at-{what}").inner_text()


def numbers(text: str) -> list[float]:
    return [float(each.replace("−", "-")) for each in text.split()]


def picture(watched: Watched, selector: str = "#screen") -> np.ndarray:
    watched.settle()
    stored = watched.page.locator(selector).screenshot()
    return np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)


def place(watched: Watched, plane: str, ras: tuple[float, ...], *, radiological: bool = False) -> tuple[float, float]:
    """Return where a voxel is in a plane, in pixels of the canvas: computed here, not asked of the page."""
    tile = watched.page.locator(f".tile[data-plane={plane}]").bounding_box()
    stage = watched.page.locator("#screen").bounding_box()
    assert tile is not None
    assert stage is not None
    across, up = ((ras[axis] + 0.5) / SHAPE_XYZ[axis] for axis in IN_PLANE[plane])
    across = 1 - across if radiological and plane != "sagittal" else across
    return tile["x"] - stage["x"] + across * tile["width"], tile["y"] - stage["y"] + (1 - up) * tile["height"]


def colour(watched: Watched, plane: str, ras: tuple[float, ...], **options: Any) -> np.ndarray:
    x, y = place(watched, plane, ras, **options)
    return picture(watched)[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].mean(axis=(0, 1))


def click(watched: Watched, plane: str, ras: tuple[float, ...], **options: Any) -> None:
    x, y = place(watched, plane, ras, **options)
    watched.page.locator("#canvas").click(position={"x": x, "y": y})
    watched.settle()


def go_to(watched: Watched, ras: tuple[float, ...], **options: Any) -> None:
    click(watched, "axial", ras, **options)
    click(watched, "coronal", ras, **options)


def test_the_list_is_ranked_and_failed_scans_come_last(watched: Watched) -> None:
    page = watched.open()
    names = page.locator("#scans .scan-name").all_inner_texts()
    assert names == ["anomalous", "plain", "warned", "damaged", "broken_file"]
    assert "p 0.050" in page.locator("#scans li").first.inner_text()
    assert "flagged" in page.locator("#scans li").first.inner_text()
    assert "broken_file.nii: 3 NaN" in page.locator("#scans li").last.inner_text()
    page.fill("#filter", "warned")
    assert page.locator("#scans li:visible").count() == 1
    page.fill("#filter", "failed")
    assert page.locator("#scans li:visible .scan-name").all_inner_texts() == ["broken_file"]
    assert page.locator("header").inner_text().count("Research use only; not a medical device.") == 1
    assert page.title() == "mendscan: scan 1 of 5"


def test_the_canvas_is_drawn(watched: Watched) -> None:
    watched.open()
    pixels = picture(watched)
    greys = pixels[np.ptp(pixels, axis=-1) < 3].mean(axis=-1)
    assert (greys > 60).mean() > 0.1  # the scan
    assert (greys < 5).mean() > 0.1  # what is around it
    for plane in ("axial", "coronal", "sagittal", "render"):
        box = watched.page.locator(f".tile[data-plane={plane}]").bounding_box()
        stage = watched.page.locator("#screen").bounding_box()
        assert box is not None
        assert stage is not None
        left, top = round(box["x"] - stage["x"]), round(box["y"] - stage["y"])
        part = pixels[top : top + round(box["height"]), left : left + round(box["width"])]
        assert part.std() > 15, plane


def test_a_voxel_that_is_clicked_is_the_one_that_was_stored(watched: Watched, results: Path) -> None:
    page = watched.open("#1")
    go_to(watched, MARKER_XYZ)
    assert numbers(said(page, "voxel")) == list(MARKER_IJK)
    np.testing.assert_allclose(numbers(said(page, "mm")), AFFINE[:3, :3] @ MARKER_IJK + AFFINE[:3, 3], atol=0.006)
    for kind, folder in (("scan", "scans"), ("map", "maps"), ("restored", "restored")):
        stored = nib.load(results / folder / "anomalous.nii.gz").get_fdata()[MARKER_IJK]
        assert numbers(said(page, kind)) == [pytest.approx(stored, abs=0.001)]
    assert numbers(said(page, "scan")) == [MARKER]


def test_the_marker_is_drawn_where_it_is_stored(watched: Watched) -> None:
    x, y, z = MARKER_XYZ
    watched.open("#1")
    watched.page.keyboard.press("m")
    go_to(watched, (x + 4, y - 4, z))
    at, beside, opposite = (colour(watched, "axial", ras) for ras in ((x, y, z), (x + 1, y, z), (15 - x, y, z)))
    assert at.mean() > beside.mean() + 60
    assert at.mean() > opposite.mean() + 60
    go_to(watched, (x, y - 4, z - 4))
    at, above = (colour(watched, "sagittal", ras) for ras in ((x, y, z), (x, y, z + 1)))
    assert at.mean() > above.mean() + 60


def test_the_map_is_drawn_above_the_threshold_only(watched: Watched) -> None:
    x, y, z = BLOBS_XYZ[1]
    page = watched.open("#1.2")
    go_to(watched, (x + 5, y + 5, z))
    shown = colour(watched, "axial", (x, y, z))
    assert shown[0] > shown[2] + 50  # 0.7 is orange
    outside = colour(watched, "axial", (x + 8, y + 3, z))
    assert np.ptp(outside) < 4  # 0.1 is not drawn at all, not even faintly
    page.locator("#threshold").fill("0.8")
    assert np.ptp(colour(watched, "axial", (x, y, z))) < 4
    assert "cm³" in page.locator("#threshold-value").inner_text()
    page.locator("#threshold").fill("0.5")
    page.locator("#opacity").fill("0.3")
    faint = colour(watched, "axial", (x, y, z))
    assert 10 < faint[0] - faint[2] < shown[0] - shown[2] - 20
    page.keyboard.press("m")
    assert np.ptp(colour(watched, "axial", (x, y, z))) < 4


def test_a_finding_that_is_clicked_is_gone_to(watched: Watched) -> None:
    page = watched.open("#1")
    for number, (x, y, z) in enumerate(BLOBS_XYZ):
        page.locator(".findings tbody tr").nth(number).click()
        centre = numbers(
            page.locator(".findings tbody tr").nth(number).locator("td").last.inner_text().replace(",", "")
        )
        np.testing.assert_allclose(numbers(said(page, "mm")), centre, atol=0.06)
        assert numbers(said(page, "voxel")) == [17 - y, 19 - z, x]
        assert page.url.endswith(f"#1.{number + 1}")
    page.keyboard.press("n")
    page.wait_for_url("**/#1.1")
    page.keyboard.press("p")
    page.wait_for_url("**/#1.2")


def test_the_restoration_takes_the_place_of_the_scan(watched: Watched) -> None:
    x, y, z = MARKER_XYZ
    page = watched.open("#1")
    page.keyboard.press("m")
    go_to(watched, (x + 4, y - 4, z))
    scan = colour(watched, "axial", MARKER_XYZ)
    page.keyboard.press("x")
    restored = colour(watched, "axial", MARKER_XYZ)
    assert scan.mean() > restored.mean() + 60
    assert page.locator("#flip").get_attribute("aria-pressed") == "true"
    page.locator("#blend").fill("0.5")
    half = colour(watched, "axial", MARKER_XYZ)
    assert restored.mean() + 5 < half.mean()
    page.keyboard.press("x")
    assert colour(watched, "axial", MARKER_XYZ).mean() == pytest.approx(scan.mean(), abs=2)


def test_keys_lead_through_scans_and_voxels(watched: Watched) -> None:
    page = watched.open()
    page.keyboard.press("j")
    watched.restored("plain")
    assert page.url.endswith("#2")
    assert "None above the healthy threshold." in page.locator("#panel").inner_text()
    page.keyboard.press("k")
    watched.restored("anomalous")
    for key in "jjkjjk":  # faster than scans are loaded
        page.keyboard.press(key)
    watched.restored("warned")
    page.keyboard.press("k")
    watched.restored("plain")
    page.keyboard.press("k")
    watched.restored("anomalous")
    go_to(watched, (8, 9, 10))
    before = np.array(numbers(said(page, "voxel")))
    for key, change in (("ArrowRight", (0, 0, 1)), ("ArrowUp", (-1, 0, 0)), ("PageUp", (0, -1, 0))):
        page.keyboard.press(key)
        after = np.array(numbers(said(page, "voxel")))
        assert (after - before).tolist() == list(change), key
        before = after
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("5")
    assert page.locator(".tile").count() == 1
    assert page.locator(".tile .plane").inner_text() == "3-D from the left"


def test_the_sides_are_labelled_and_turn_with_the_convention(watched: Watched) -> None:
    page = watched.open("#1")

    def sides(plane: str) -> list[str]:
        return [
            page.locator(f".tile[data-plane={plane}] .{side}").inner_text()
            for side in ("left", "right", "top", "bottom")
        ]

    assert [sides(plane) for plane in IN_PLANE] == [["L", "R", "A", "P"], ["L", "R", "S", "I"], ["P", "A", "S", "I"]]
    page.keyboard.press("r")
    watched.settle()
    assert [sides(plane) for plane in IN_PLANE] == [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["P", "A", "S", "I"]]
    go_to(watched, MARKER_XYZ, radiological=True)
    assert numbers(said(page, "scan")) == [MARKER]


def test_a_scan_that_does_not_say_how_it_lies_has_no_left_and_right(watched: Watched) -> None:
    page = watched.open("#3")
    assert set(page.locator(".side").all_inner_texts()) == {"?"}
    assert page.locator(".tile[data-plane=render] .plane").inner_text() == "3-D"
    told = page.locator("#panel").inner_text()
    assert "Orientation unknown" in told
    assert page.locator("#side").inner_text() == "Left and right unknown"
    assert "the field of view misses the top" in told
    assert "warning" in page.locator("#scans li").nth(2).inner_text()


def test_a_damaged_map_is_told_and_the_scan_is_shown(watched: Watched) -> None:
    page = watched.open("#4")
    page.locator("text=the anomaly map: the compressed data are damaged or cut off").wait_for()
    assert (said(page, "map"), said(page, "scan")) == ("–", "300")
    assert page.locator("#threshold").is_disabled()
    page.keyboard.press("k")
    watched.restored("warned")
    assert "damaged" not in page.locator("#panel").inner_text()


def test_a_failed_scan_says_why(watched: Watched) -> None:
    page = watched.open("#5", ready=False)
    page.locator("text=This scan could not be scored; the reason is beside.").wait_for()
    assert "broken_file.nii: 3 NaN" in page.locator("#panel").inner_text()
    assert page.locator(".tile").count() == 0
    assert page.locator("#flip").is_disabled()


def test_a_click_on_the_slice_scores_goes_to_the_slice(watched: Watched) -> None:
    page = watched.open("#1")
    profile = page.locator(".profile")
    box = profile.bounding_box()
    assert box is not None
    profile.click(position={"x": box["width"] * 9.5 / 20, "y": box["height"] / 2})
    assert numbers(said(page, "voxel"))[1] == 19 - 9


def test_with_a_token_the_address_shows_it_no_longer(chromium: Browser, results: Path) -> None:
    token = "t0ken-of-more-than-16-letters"
    with viewer_over(results, token=token) as port:
        context = chromium.new_context()
        watched = Watched(context.new_page(), port)
        page = watched.open(f"?token={token}#2")
        assert page.url == f"http://127.0.0.1:{port}/#2"
        assert page.evaluate("document.cookie") == ""
        other = chromium.new_context()
        refused = other.new_page().goto(f"http://127.0.0.1:{port}/")
        assert refused is not None
        assert refused.status == 401
        other.close()
        context.close()
    assert watched.complaints == []


def test_nothing_is_wider_than_the_window(watched: Watched) -> None:
    page = watched.open("#1")
    for width in (420, 760, 1000, 1440):
        page.set_viewport_size({"width": width, "height": 700})
        watched.settle()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        parts = page.locator("#panel, #controls, #readout, nav, header")
        wide = parts.evaluate_all(
            "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.id)"
        )
        assert wide == [], width
    for theme in ("dark", "light"):
        page.keyboard.press("t")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (theme == "dark")
