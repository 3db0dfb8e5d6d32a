"""Row 17: scans with odd names, wherever these come out: on the terminal, in tables, in reports and in the viewer."""

from __future__ import annotations

import csv
import functools
import html
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
from typer.testing import CliRunner

from attacks.attack import Attack, Outcome
from attacks.file_level import EVIL_NAMES
from attacks.model_level import honest
from mendscan.cli import app
from mendscan.results import read_results
from result_folders import detection, results_of
from tiny_model import OBLIQUE, head
from viewer.asking import asking
from viewer_results import viewer_over

NAMES = {what: name.removesuffix(".nii") for what, name in EVIL_NAMES.items()}
FORMULAS = {
    "an equals sign": ("=cmd|calc!A0", "'=cmd|calc!A0"),
    "a plus sign": ("+1+1", "'+1+1"),
    "a minus sign": ("-1+1", "'-1+1"),
    "an at sign": ("@SUM(1)", "'@SUM(1)"),
    "a tabulator": ("\t=1+1", "'\t'=1+1"),
    "a carriage return": ("\r=1+1", "'\r'=1+1"),
    "a full-width equals sign": ("＝1+1", "'＝1+1"),
    "a formula behind a semicolon": ("a;=1+1", "a;'=1+1"),
    "a quoted formula behind a semicolon": ('a;"=1+1', "a;'\"=1+1"),
    "a formula behind an apostrophe": ("'=1+1", "''=1+1"),
}
"""Names that spreadsheets take for formulas, some only where semicolons separate, and what is written instead."""
FILES_OF_A_REPORT = frozenset({"report.html", "report.json", "report-scans.csv", "report-findings.csv"})


def results_with(name: str) -> Callable[[Path], Path]:
    """Results of a scan of this name, and of one that failed."""
    return lambda folder: results_of(folder / "results", detection(name, p_value=0.05), failed=(f"{name} failed",))


def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command; what it prints moves, colours, hides and turns nothing."""
    shown = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert shown.exit_code in codes, shown.output
    assert all(character.isprintable() or character == "\n" for character in shown.output), ascii(shown.output)


def reported(results: Path) -> None:
    """Let ``mendscan report`` show the results: the name is text on the page, and on the terminal nothing else."""
    page, case = results.parent / "report.html", read_results(results).cases[0]
    for damage in (False, True):  # a map that cannot be read is told with the name of its scan
        if damage:
            case.map_path.write_bytes(b"damaged")
        run("report", "-i", results, "-o", page)
        text = page.read_text(encoding="utf-8")
        assert html.escape(case.name) in text
        assert text.lower().count("<script") == 1
    assert_no_formula(results.parent / "report-scans.csv", results.parent / "report-findings.csv")


def tabled(results: Path, name: str, written: str) -> None:
    """Read the tables as a spreadsheet does, and as mendscan does."""
    assert_no_formula(results / "scores.csv", results / "findings.csv")
    with (results / "scores.csv").open(newline="", encoding="utf-8") as opened:
        assert [row["case"] for row in csv.DictReader(opened)] == [written, f"{written} failed"]
    found = read_results(results)
    assert {case.name for case in found.cases} == {name, f"{name} failed"}
    assert found.case(name).has_map
    assert found.case(name).findings


def assert_no_formula(*tables: Path) -> None:
    """No cell is one, but for negative numbers, wherever the spreadsheet's country begins its cells."""
    for table in tables:
        for separator in (",", ";", "\t"):
            with table.open(newline="", encoding="utf-8") as opened:
                cells = [cell.lstrip("\t\r\n") for row in csv.reader(opened, delimiter=separator) for cell in row]
            assert not [cell for cell in cells if re.match(r"[=+@＝＋－＠]|-(?![0-9.e-]+$)", cell)], cells


def leading_out(folder: Path) -> Path:
    """Results whose table, as a stranger may have written it, names a scan elsewhere."""
    results = results_with("a")(folder)
    for table in ("scores.csv", "findings.csv"):
        rows = (results / table).read_text(encoding="utf-8")
        (results / table).write_text(rows.replace("\na,", "\n../../secret/a,"), encoding="utf-8")
    return results


def viewed(results: Path) -> None:
    """Let the viewer tell of the scan: by number, as JSON that no browser takes for a page."""
    with viewer_over(results) as port:
        ask = asking(port)
        listed, scan = ask("/api/results"), ask("/api/cases/0")
        assert ask("/api/cases/0/scan").status == ask("/api/cases/0/map").status == 200
    for answer in (listed, scan):
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert not {"set-cookie", "location"} & set(answer.headers)
    name = read_results(results).cases[0].name
    assert listed.json["cases"][0]["name"] == scan.json["name"] == name


def scan_of(name: str) -> Callable[[Path], Path]:
    """A scan of this name, and a model."""

    def make(folder: Path) -> Path:
        honest(folder)
        (folder / "scans").mkdir()
        (folder / "scans" / f"{name}.nii").write_bytes(nib.Nifti1Image(head(3), OBLIQUE).to_bytes())
        return folder

    return make


def detected(folder: Path) -> Outcome:
    """Let ``mendscan detect`` write results elsewhere, and read them."""
    with tempfile.TemporaryDirectory() as made:
        results = Path(made) / "results"
        asked = ("-m", folder / "model", "-i", folder / "scans", "-o", results, "--workers", 0, "--restorations", 1)
        run("detect", *asked, codes=(0, 4))
        (case,) = read_results(results).cases
        assert case.failed or (case.has_map and case.details())
        assert case.has_map != case.failed
        return Outcome(case.row["code"], case.row["message"])


def report(what: str) -> Attack:
    why = "text on the page, not markup; the terminal shows no escape"
    make = results_with(NAMES[what])
    return Attack(17, f"report of a scan: name with {what}", "", make, why, reported, FILES_OF_A_REPORT)


def table(what: str) -> Attack:
    name, written = FORMULAS[what]
    why = f"written {written!r}, which is text to a spreadsheet; read back as it was"
    through = functools.partial(tabled, name=name, written=written)
    return Attack(17, f"table of scans: name with {what}", "", results_with(name), why, through)


def page(what: str) -> Attack:
    why = "JSON that is no page; the page writes it as text, under a policy that allows no other script"
    return Attack(17, f"viewer of a scan: name with {what}", "", results_with(NAMES[what]), why, viewed)


def results_of_scan(what: str, name: str, why: str = "", expected: str = "") -> Attack:
    return Attack(17, f"detection in a scan: name with {what}", expected, scan_of(name), why, detected)


AS_TEXT = "results are found by it again; terminal and picture show it as text"
ESCAPED = "what is no UTF-8 is escaped in all names of results, and they are found"
NAME_LEVEL = (
    *map(report, ("a line break", "a terminal's escape", "a script", "a formula")),
    *map(table, FORMULAS),
    Attack(17, "table of scans: name that leads out of the folder", "E_RESULTS", leading_out, "", read_results),
    *map(page, ("a line break", "a terminal's escape", "a script", "another spelling of é")),
    results_of_scan("a line break", NAMES["a line break"], AS_TEXT),
    results_of_scan("a terminal's escape", NAMES["a terminal's escape"], AS_TEXT),
    results_of_scan("a mathematical formula", "a$^$b", AS_TEXT),
    results_of_scan("a byte that is no UTF-8", "caf\udce9", ESCAPED),
    results_of_scan("255 bytes", NAMES["255 bytes"], expected="E_NAME"),
)
