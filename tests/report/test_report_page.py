"""A results folder becomes a page that says what the tables say, with every picture the right way round."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from mendscan.errors import ResultsError, SettingsError, WriteError
from mendscan.report import report
from mendscan.report.report import write_report
from mendscan.results import CodeNLL, Detection, GateWarning
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume, volume_from_array
from result_folders import of_volume, results_of

SHAPE = (14, 18, 10)
SPACING = (2.0, 1.5, 3.0)
RIGHT_FRONT_TOP = (11, 15, 8)
"""A voxel in RAS+ that lies to the right, in front and above."""
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
HOSTILE = (
    "<script>alert(1)",
    'a" onload="alert(2)',
    "line\nbreak & 'quote'",
    "=HYPERLINK(1)",
    "ümläut—名前",
    "{{ 7*7 }}",
)


class Page(HTMLParser):
    """The elements of a page; refuses tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def picture(self, name: str) -> Image.Image:
        """Return the picture of an element by its id."""
        (address,) = [a["href"] or "" for tag, a in self.elements if tag == "image" and a.get("id") == name]
        return Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))


def blob_scan(axes: str, *, name: str = "case") -> Volume:
    """A scan with one bright voxel to the right, in front and above, in a file with these axes."""
    voxels = np.random.default_rng(0).uniform(0, 10, SHAPE)
    voxels[RIGHT_FRONT_TOP] = 1000
    image = nib.Nifti1Image(voxels, np.diag([*SPACING, 1.0]) + np.array([[0, 0, 0, -14], [0] * 4, [0] * 4, [0] * 4]))
    wanted = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(wanted)
    return volume_from_array(np.asarray(turned.dataobj), turned.affine, name=name)


def blob_map(*more: tuple[tuple[slice, slice, slice], float]) -> np.ndarray:
    map_XYZ = np.full(SHAPE, 0.1, np.float32)
    map_XYZ[10:13, 14:17, 7:10] = 0.7
    map_XYZ[RIGHT_FRONT_TOP] = 0.9
    for where, value in more:
        map_XYZ[where] = value
    return map_XYZ


SECOND = ((slice(2, 4), slice(2, 4), slice(1, 3)), 0.6)


def page_of(folder: Path, **options: object) -> tuple[Page, str]:
    path = folder.parent / "out" / "report.html"
    write_report(folder, path, **options)  # type: ignore[arg-type]
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def brightest(picture: Image.Image) -> tuple[int, int]:
    values = np.asarray(picture)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ILP"])
def test_each_plane_shows_each_side_where_it_says(tmp_path: Path, axes: str) -> None:
    page, text = page_of(results_of(tmp_path / "r", of_volume(blob_scan(axes), blob_map())))
    x, y, z = RIGHT_FRONT_TOP
    for plane, column, from_below, high, sides in (
        ("Z", x, y, SHAPE[1], "LRAP"),
        ("Y", x, z, SHAPE[2], "LRSI"),
        ("X", y, z, SHAPE[2], "PASI"),
    ):
        for layer in ("s", "r"):
            assert brightest(page.picture(f"scan-1-v1-{plane}-{layer}").convert("L")) == (high - 1 - from_below, column)
        figure = text.partition(f'data-plane="scan-1-v1-{plane}"')[2].partition("</figure>")[0]
        labels = re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)">(.)</text>', figure)[:4]
        assert "".join(letter for _, _, letter in labels) == sides
        (left, _, _), (right, _, _), (_, above, _), (_, below, _) = labels
        assert float(left) < float(right)
        assert float(above) < float(below)


@pytest.mark.parametrize("axes", ["RAS", "PIR"])
def test_pictures_are_in_millimetres_and_the_finding_is_outlined_and_crossed(tmp_path: Path, axes: str) -> None:
    _, text = page_of(results_of(tmp_path / "r", of_volume(blob_scan(axes), blob_map(SECOND))))
    figure = text.partition('data-plane="scan-1-v1-Z"')[2].partition("</figure>")[0]
    assert 'width="28" height="27"' in figure
    path = re.search(r'class="outline" d="([^"]+)"', figure)
    assert path is not None
    points = np.array(re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path[1]), dtype=float)
    # Voxels 10 to 12 of 2 mm from the left, 14 to 16 of 1.5 mm from below; the line runs half a voxel around at most.
    assert (points.min(axis=0) > [19, 0]).all()
    assert (points.max(axis=0) < [28, 7]).all()
    assert abs(points[:, 0].mean() - 23) < 1
    cross = re.search(r'class="cross" d="M(\S+) 0v.*?M0 (\S+?)h', figure)
    assert cross is not None
    assert (float(cross[1]), float(cross[2])) == (23.0, 3.75)


def test_the_map_has_the_colour_of_its_value_and_nothing_where_it_is_low(tmp_path: Path) -> None:
    page, _ = page_of(results_of(tmp_path / "r", of_volume(blob_scan("LPS"), blob_map())))
    x, y, _ = RIGHT_FRONT_TOP
    colours = np.asarray(page.picture("scan-1-v1-Z-m").convert("RGBA"))
    wanted = np.rint(np.array(colormaps["inferno"](round(0.9 * 255) / 255)) * 255)
    np.testing.assert_array_equal(colours[SHAPE[1] - 1 - y, x], wanted)
    assert colours[0, 0, 3] == 0


def test_without_an_orientation_no_side_is_named(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).uniform(0, 10, SHAPE).astype(np.float32)
    image = nib.Nifti1Image(voxels, None)
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    nib.save(image, tmp_path / "case.nii.gz")
    scan = read_volume(tmp_path / "case.nii.gz")
    assert (scan.native.sform_code, scan.native.qform_code) == (0, 0)
    page, text = page_of(results_of(tmp_path / "r", of_volume(scan, blob_map())))
    sides = "".join(re.findall(r'<g class="sides".*?</g>', text, flags=re.DOTALL))
    assert set(re.findall(r">(.)</text>", sides)) == {"?"}
    assert "the file does not say where left and right are" in page.text
    assert "axial" not in page.text
    assert "across k" in page.text
    (row,) = table(tmp_path / "out" / "report-findings.csv")
    assert row["centre_x_mm"] == ""


def test_a_tilted_scan_says_so(tmp_path: Path) -> None:
    turn = np.eye(4)
    angle = np.radians(10)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    scan = volume_from_array(blob_scan("RAS").voxels_XYZ, turn @ np.diag([*SPACING, 1.0]), name="case")
    page, _ = page_of(results_of(tmp_path / "r", of_volume(scan, blob_map())))
    assert "axial, tilted by 10°" in page.text
    assert "sagittal i =" in page.text


def test_every_finding_has_its_planes_up_to_the_number_wanted(tmp_path: Path) -> None:
    found = of_volume(blob_scan("LPS"), blob_map(SECOND))
    page, text = page_of(results_of(tmp_path / "r", found), findings=1)
    assert 'id="scan-1-finding-1"' in text
    assert 'id="scan-1-finding-2"' not in text
    assert "Pictured: the 1 strongest." in page.text
    _, text = page_of(tmp_path / "r")
    second = text.partition('id="scan-1-finding-2"')[2].partition('class="under"')[0]
    index = found.volume.native_index(np.array([2.0, 2.0, 1.0])).astype(int)
    for axis, letter in zip(index, "ijk", strict=True):
        assert f"<span>{letter} = {axis}, " in second
    ids = [attributes["id"] for _, attributes in Page(text).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_scan_without_findings_shows_the_highest_voxel(tmp_path: Path) -> None:
    map_XYZ = np.full(SHAPE, 0.1, np.float32)
    map_XYZ[3, 4, 5] = 0.45
    page, text = page_of(results_of(tmp_path / "r", of_volume(blob_scan("RAS"), map_XYZ)))
    assert "No finding planes through the map's highest voxel, 0.45" in page.text
    assert "<span>k = 5, z = 15.0 mm</span>" in text


def test_json_and_tables_say_what_the_page_says(tmp_path: Path) -> None:
    scans = [
        of_volume(blob_scan("LPS", name="b"), blob_map(SECOND), p_value=0.05, score=3.5),
        of_volume(blob_scan("RAS", name="a"), blob_map(), p_value=0.4, score=0.5),
    ]
    page, text = page_of(results_of(tmp_path / "r", *scans, failed=("broken",)))
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = table(tmp_path / "out" / "report-scans.csv")
    findings = table(tmp_path / "out" / "report-findings.csv")
    assert [(row["case"], row["status"]) for row in rows] == [
        ("b", "flagged"),
        ("a", "not flagged"),
        ("broken", "failed"),
    ]
    assert [row["healthy_as_high"] for row in rows] == ["0", "7", ""]
    assert (rows[2]["reason"], rows[2]["remedy"]) == (
        "voxels are NaN or infinite (found 3 of 9, expected finite voxels)",
        "find out what wrote them",
    )
    shown_rows = re.findall(r"<tr data-status.*?</tr>", text, flags=re.DOTALL)
    for row, shown, scan in zip(rows, shown_rows, data["scans"], strict=True):
        cells = [
            " ".join(re.sub(r"<[^>]+>", " ", cell).split())
            for cell in re.findall(r"<t[dh].*?</t[dh]>", shown, re.DOTALL)
        ]
        assert cells[2] == row["case"] == scan["case"]
        assert cells[3].endswith(row["status"])
        assert scan["status"] == row["status"]
        if row["status"] != "failed":
            assert float(cells[4]) == pytest.approx(float(row["score"]), abs=0.005)
            assert float(cells[5]) == float(row["p_value"]) == scan["p_value"]
            assert cells[7] == f"{row['findings']} {float(row['findings_mm3']):,.0f} mm³"
            assert len(scan["findings"]) == int(row["findings"])
    flat = [(scan["case"], str(each["finding"]), each["peak"]) for scan in data["scans"] for each in scan["findings"]]
    assert [(row["case"], row["finding"], float(row["peak"])) for row in findings] == flat
    assert len(flat) == 3
    assert data["cohort"]["flagged"] == 1
    assert "none of 19 healthy scans as high" in page.text
    assert "7 of 19 healthy scans as high" in page.text
    assert "if all were healthy, at most 0.1 on average" in page.text


def with_details(name: str) -> Detection:
    nats = np.ones((10, 2, 3))
    nats[9, 1, 0] = 9.0
    return replace(
        of_volume(blob_scan("LPS", name=name), blob_map()),
        code_nll=CodeNLL(nats, ((-0.5, 13.5), (-0.5, 17.5)), 6.5),
        warnings=(GateWarning("W_FIELD", "the field of view <b>ends</b> early"),),
    )


def test_codes_lie_where_the_scan_does(tmp_path: Path) -> None:
    page, text = page_of(results_of(tmp_path / "r", with_details("case")))
    assert "outlined, 1 of 6 at least as unlikely as λ = 6.5 nats" in page.text
    # The code of the right half and the rear third: 14 mm from the left, 18 mm from the top, 14 by 9 mm.
    assert 'class="outline squares" d="M14 18h14v9h-14z"' in text
    codes = text.partition('class="codes"')[2]
    address = re.search(r'class="code-layer" href="data:image/png;base64,([^"]+)"', codes)
    assert address is not None
    picture = Image.open(io.BytesIO(base64.b64decode(address[1])))
    assert picture.size == (2, 3)
    assert np.asarray(picture.convert("RGBA"))[2, 1, 3] == 255


def test_warnings_of_the_gate_are_shown_with_the_scan_and_in_the_table(tmp_path: Path) -> None:
    page, text = page_of(results_of(tmp_path / "r", with_details("case")))
    assert page.text.count("the field of view <b>ends</b> early") == 2
    assert "Unlike the training scans:" in page.text
    assert "<b>ends</b>" not in text


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    scans = [of_volume(blob_scan("RAS", name=name), blob_map()) for name in HOSTILE]
    folder = results_of(tmp_path / "r", *scans, failed=("<title><script>alert(3)<!--",))
    rows = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(rows.replace("voxels are NaN", "</title><script>alert(5)</script>"))
    (folder / "model-card.md").write_text("# <script>alert(4)</script>\n[x](https://example.org) <b>bold</b>\n")
    page, _ = page_of(folder)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    others = ("<title><script>alert(3)<!--", "<script>alert(4)</script>", "</title><script>alert(5)</script>")
    for name in (*HOSTILE, *others):
        assert " ".join(name.split()) in page.text
    assert "'=HYPERLINK(1)" in [row["case"] for row in table(tmp_path / "out" / "report-scans.csv")]


def test_the_page_needs_nothing_else_and_names_no_folder(tmp_path: Path) -> None:
    folder = results_of(tmp_path / "r", with_details("case"), failed=("broken",))
    (folder / "model-card.md").write_text("| a | b |\n|---|--:|\n| 1 | 2 |\n")
    page, text = page_of(folder)
    assert str(tmp_path) not in text
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()
    addresses = [a[key] or "" for _, a in page.elements for key in ("href", "src") if key in a]
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    bare = re.sub(r"data:image/(png|webp);base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//\w+\.|@import|url\((?!#)", bare)
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    (policy,) = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    folder = results_of(tmp_path / "r", with_details("case"), failed=("broken",))
    for place in ("one", "two"):
        write_report(folder, tmp_path / place / "report.html")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_small_budget_is_kept_and_what_is_missing_is_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    scans = [
        of_volume(
            volume_from_array(noise.uniform(0, 9, (48, 48, 24)), np.eye(4), name=f"case{n}"),
            np.pad(blob_map(SECOND), ((0, 34), (0, 30), (0, 14))),
        )
        for n in range(3)
    ]
    folder = results_of(tmp_path / "r", *scans)
    full = write_report(folder, tmp_path / "full.html")
    assert full.left_out == ""
    less = write_report(folder, tmp_path / "less.html", max_megabytes=0.75 * full.size / 1e6)
    assert less.size <= 0.75 * full.size
    assert less.pictured == 3
    assert "stored with losses" in less.left_out
    assert less.left_out in Page((tmp_path / "less.html").read_text()).text
    limit = 1.2 * write_report(folder, tmp_path / "bare.html", scans=0).size
    least = write_report(folder, tmp_path / "least.html", max_megabytes=limit / 1e6)
    assert least.size <= limit
    assert least.pictured < 3
    assert json.loads((tmp_path / "least.json").read_text())["not_pictured"] == least.left_out


def test_only_the_least_likely_scans_are_pictured_if_asked(tmp_path: Path) -> None:
    scans = [of_volume(blob_scan("RAS", name=name), blob_map(), p_value=p) for name, p in (("a", 0.5), ("b", 0.05))]
    page, _ = page_of(results_of(tmp_path / "r", *scans), scans=1)
    assert "the 1 least likely of 2 scans were asked for" in page.text
    rows = {row["case"]: row for row in table(tmp_path / "out" / "report-scans.csv")}
    assert (rows["a"]["pictured_findings"], rows["b"]["pictured_findings"]) == ("0", "1")
    assert "only the 1 least likely" in rows["a"]["no_pictures_because"]


def test_a_damaged_map_costs_its_own_pictures_only(tmp_path: Path) -> None:
    scans = [of_volume(blob_scan("RAS", name=name), blob_map(), p_value=p) for name, p in (("a", 0.05), ("b", 0.5))]
    folder = results_of(tmp_path / "r", *scans)
    path = folder / "maps" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    (folder / "details" / "a.json").write_text("{")
    written = write_report(folder, tmp_path / "report.html")
    ((case, problem),) = written.problems
    assert case == "a"
    assert "cut off" in problem
    text = Page((tmp_path / "report.html").read_text()).text
    assert problem in text
    assert "No slices, codes and statistics: the details cannot be read" in text
    assert str(tmp_path) not in text
    assert written.pictured == 1


@pytest.mark.parametrize(("gone", "words"), [(("scans", "maps", "restored"), "--no-maps"), (("scans",), "no scan in")])
def test_without_maps_there_are_tables_and_the_reason(tmp_path: Path, gone: tuple[str, ...], words: str) -> None:
    folder = results_of(tmp_path / "r", of_volume(blob_scan("RAS"), blob_map()))
    for name in gone:
        (folder / name / "case.nii.gz").unlink()
    page, _ = page_of(folder)
    assert words in page.text
    assert "Finding" in page.text


def test_too_few_calibration_scans_leave_scans_undecided(tmp_path: Path) -> None:
    folder = results_of(tmp_path / "r", of_volume(blob_scan("RAS"), blob_map()))
    run = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(run | {"score_threshold": None}))
    undecided = (folder / "scores.csv").read_text().replace(",1,local,", ",,local,")
    (folder / "scores.csv").write_text(undecided)
    page, _ = page_of(folder)
    assert "undecided: 19 calibration scans are too few for a rate of 0.05" in page.text


def test_a_folder_of_failures_only(tmp_path: Path) -> None:
    page, _ = page_of(results_of(tmp_path / "r", failed=("x", "y")))
    assert "2 scans could not be scored" in page.text


def test_every_report_says_research_use_only(tmp_path: Path) -> None:
    for options in ({}, {"failed": ("x",)}):
        page, _ = page_of(results_of(tmp_path / f"r{len(options)}", **options))
        assert "Research use only" in page.text
        assert "ot a medical device" in page.text


def test_a_folder_that_is_no_results_folder_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="not a results folder"):
        write_report(tmp_path, tmp_path / "report.html")
    folder = results_of(tmp_path / "r", failed=("x",))
    with pytest.raises(WriteError, match="is an HTML file"):
        write_report(folder, tmp_path / "report.pdf")
    (folder / "results.json").write_text('{"map_threshold": "high"}')
    with pytest.raises(ResultsError, match="a figure is missing or no number"):
        write_report(folder, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slices": []}, "its slices make no sense"),
        ({"slice_axis": "Q"}, "the details cannot be read"),
        ({"slices": [{"position": "nan", "score": 1.0}]}, "its slices make no sense"),
        ({"slices": [{"position": float("nan"), "score": 1.0}]}, "the details cannot be read (found NaN is not JSON)"),
        ({"code_nll": {"nats": [[[1.0]]], "extent": [[0, 1], [0, 1]], "threshold": 3}}, "its codes are not those"),
    ],
)
def test_details_that_make_no_sense_cost_their_charts_only(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = results_of(tmp_path / "r", with_details("case"))
    path = folder / "details" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    page, text = page_of(folder)
    assert words in page.text
    assert 'id="scan-1-finding-1"' in text
    assert 'class="profile"' not in text


@pytest.mark.parametrize(("folder", "name"), [("maps", "map"), ("restored", "restoration")])
def test_a_picture_of_what_is_no_number_is_not_made(tmp_path: Path, folder: str, name: str) -> None:
    results = results_of(tmp_path / "r", of_volume(blob_scan("RAS"), blob_map()))
    path = results / folder / "case.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    page, _ = page_of(results)
    assert f"voxels of its {name} are NaN or infinite" in page.text


def test_templates_and_script_build_no_page_from_text() -> None:
    for path in (Path(report.__file__).parent / "templates").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text), path
        if path.suffix == ".j2":
            assert not re.search(r"\s(on\w+|style)=", text), path
            assert re.findall(r"\|\s*safe", text) == ["|safe"] * text.count("size|safe"), path


def test_a_report_overwrites_no_results(tmp_path: Path) -> None:
    folder = results_of(tmp_path / "r", failed=("x",))
    before = (folder / "results.json").read_bytes()
    with pytest.raises(WriteError, match="would overwrite the results"):
        write_report(folder, folder / "results.html")
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.parametrize("option", [{"findings": 0}, {"scans": -1}])
def test_nothing_to_picture_is_refused(tmp_path: Path, option: dict[str, int]) -> None:
    folder = results_of(tmp_path / "r", failed=("x",))
    with pytest.raises(SettingsError, match="nothing to picture"):
        write_report(folder, tmp_path / "report.html", **option)
