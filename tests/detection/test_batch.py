"""A folder of scans: each as if it were alone, and a bad one fails alone."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from batch_contents import contents
from mendscan.detection.batch import detect_folder
from mendscan.detection.calibration import Calibration
from mendscan.detection.detector import Detector
from mendscan.detection.networks import Networks
from mendscan.errors import CohortError, ModelError, SettingsError, WriteError
from mendscan.models.bundle import save_bundle
from mendscan.results import FINDING_COLUMNS, SCORE_COLUMNS, Detection, read_results, read_run, read_scores
from mendscan.volumes.reading import ScanReader
from mendscan.volumes.writing import make_folder

WriteScan = Callable[..., Path]


@pytest.fixture
def three_scans(tmp_path: Path, write_scan: WriteScan) -> Path:
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        write_scan(tmp_path / "scans", name, seed=seed)
    return tmp_path / "scans"


@pytest.fixture
def detect(model_folder: Path) -> Callable[..., Any]:
    def run(scans: Path, results: Path, **options: Any) -> Any:
        return detect_folder(model_folder, scans, results, **({"workers": 0, "device": "cpu"} | options))

    return run


def outputs(results: Path, *, case: str | None = None) -> dict[str, bytes]:
    """Maps and restorations by path, of all cases or one."""
    paths = [p for folder in ("maps", "restored") for p in sorted((results / folder).glob("*"))]
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in paths if case in (None, p.name.split(".")[0])}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def scores(results: Path) -> list[dict[str, str]]:
    return table(results / "scores.csv")


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total, self.steps, self.said, self.stages = 0, 0, [], []

    def begin(self, what: str, total: int) -> None:
        self.total, self.steps = total, 0
        self.stages.append(what)

    def advance(self, steps: int = 1) -> None:
        self.steps += steps

    def say(self, text: str) -> None:
        self.said.append(text)


# --- the neighbours do not matter ------------------------------------------------------------------------------------


def test_a_scan_alone_and_among_others_gives_the_same_bytes(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, detector: Detector
) -> None:
    detect(three_scans, tmp_path / "together")
    together = outputs(tmp_path / "together")
    assert len(together) == 6
    for n, name in enumerate("abc"):
        detect(three_scans / f"{name}.nii.gz", tmp_path / name)
        assert outputs(tmp_path / name) == outputs(tmp_path / "together", case=name)
        assert scores(tmp_path / name) == [scores(tmp_path / "together")[n]]
        detector.detect(three_scans / f"{name}.nii.gz").save(tmp_path / "api")
    assert outputs(tmp_path / "api") == together


def test_order_and_file_names_do_not_matter(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    for name, seed in (("z", 0), ("y", 1), ("x", 2)):
        write_scan(tmp_path / "renamed", name, seed=seed)
    detect(three_scans, tmp_path / "1")
    detect(tmp_path / "renamed", tmp_path / "2")
    first, second = outputs(tmp_path / "1"), outputs(tmp_path / "2")
    for old, new in (("a", "z"), ("b", "y"), ("c", "x")):
        for folder in ("maps", "restored"):
            assert first[f"{folder}/{old}.nii.gz"] == second[f"{folder}/{new}.nii.gz"]
    assert len(set(first.values())) == 6


def test_the_number_of_workers_does_not_matter(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    spoil(three_scans, write_scan)
    for workers in (0, 1, 2):
        detect(three_scans, tmp_path / str(workers), workers=workers)
    assert len(outputs(tmp_path / "0")) == 6
    for workers in (1, 2):
        assert outputs(tmp_path / str(workers)) == outputs(tmp_path / "0")
        assert scores(tmp_path / str(workers)) == scores(tmp_path / "0")
        for name in ("findings.csv", "results.json"):
            assert (tmp_path / str(workers) / name).read_bytes() == (tmp_path / "0" / name).read_bytes()


def test_the_seed_decides_the_bytes(detect: Callable[..., Any], three_scans: Path, tmp_path: Path) -> None:
    for folder, seed in (("1", 3), ("2", 3), ("3", 4)):
        detect(three_scans / "a.nii.gz", tmp_path / folder, seed=seed)
    assert outputs(tmp_path / "1") == outputs(tmp_path / "2")
    other = outputs(tmp_path / "3")
    assert all(content != other[name] for name, content in outputs(tmp_path / "1").items())


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_results_folder(detect: Callable[..., Any], three_scans: Path, tmp_path: Path, detector: Detector) -> None:
    results = tmp_path / "results"
    summary = detect(three_scans, results, restorations=2)
    assert summary.failed == 0
    assert [row["case"] for row in summary.rows] == ["a", "b", "c"]
    folders = ["details", "maps", "records", "restored", "scans"]
    tables = ["findings.csv", "model-card.md", "results.json", "scores.csv", "timing.csv"]
    assert sorted(p.name for p in results.iterdir()) == sorted(folders + tables)
    rows = table(results / "scores.csv")
    assert tuple(rows[0]) == SCORE_COLUMNS
    assert [(row["case"], row["status"], row["code"]) for row in rows] == [(name, "ok", "") for name in "abc"]
    assert [float(row["score"]) for row in rows] == list(read_scores(results).values())
    for row in rows:
        detection = detector.detect(three_scans / f"{row['case']}.nii.gz", restorations=2)
        assert float(row["score"]) == pytest.approx(detection.score, abs=1e-6)
        assert float(row["p_value"]) == pytest.approx(detection.p_value, abs=1e-6)
        assert float(row["map_max"]) == pytest.approx(float(detection.anomaly_map.max()), abs=1e-6)
        assert int(row["findings"]) == len(detection.findings)
        scan, saved = (nib.load(folder / f"{row['case']}.nii.gz") for folder in (three_scans, results / "maps"))
        assert saved.shape == scan.shape
        np.testing.assert_array_equal(saved.affine, scan.affine)
    findings = table(results / "findings.csv")
    assert tuple(findings[0]) == FINDING_COLUMNS
    order = [(finding["case"], int(finding["finding"])) for finding in findings]
    assert order == sorted(order)
    run = read_run(results)
    assert (run["seed"], run["restorations"], run["maps"], run["map_threshold"]) == (0, 2, True, 0.5)
    assert run["calibration_scans"] == 8
    assert (run["false_positive_rate"], run["smallest_p_value"]) == (0.05, 1 / 9)
    assert run["score_threshold"] is run["false_positives_per_scan"] is run["finding_threshold"] is None
    assert str(tmp_path) not in json.dumps(run)


def test_without_maps_there_are_tables_and_details(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    detect(three_scans, tmp_path / "with")
    detect(three_scans, tmp_path / "without", maps=False)
    assert sorted(p.name for p in (tmp_path / "without").iterdir() if p.is_dir()) == ["details", "records"]
    assert table(tmp_path / "without" / "findings.csv") == []
    assert read_scores(tmp_path / "without") == read_scores(tmp_path / "with")


def test_progress_and_after_save_hear_of_every_scan(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    listener, saved = Listener(), []

    def after_save(detection: Detection, folder: Path) -> None:
        assert (folder / "maps" / f"{detection.case}.nii.gz").is_file()
        saved.append(detection.case)

    (three_scans / "bad.nii.gz").write_bytes(b"not a scan")
    detect(three_scans, tmp_path / "results", progress=listener, after_save=after_save)
    assert (listener.total, listener.steps) == (4, 4)
    assert sorted(saved) == ["a", "b", "c"]
    # Eight calibration scans are too few for the default rate of 5 %: said once, and no scan is flagged.
    assert [said.split(":")[0] for said in listener.said[:1]] == ["no scan is flagged"]
    assert listener.said[1] == "1 of 4 scans cannot be used, the others go on: E_NOT_NIFTI bad.nii.gz"
    assert [said for said in listener.said[2:] if not said.startswith("warning: ")] == listener.said[-1:]
    assert listener.said[-1].startswith("failed: bad.nii.gz")


# --- wanted rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1 / 9, 0.3, 0.5, 0.9])
def test_scans_are_flagged_by_their_p_value_and_so_by_the_threshold(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan, rate: float
) -> None:
    for seed in range(3, 9):
        write_scan(three_scans, f"more{seed}", seed=seed)
    detect(three_scans, tmp_path / "results", maps=False, false_positive_rate=rate)
    threshold = read_run(tmp_path / "results")["score_threshold"]
    rows = table(tmp_path / "results" / "scores.csv")
    for row in rows:
        assert row["flagged"] == str(int(float(row["p_value"]) <= rate + 1e-6))
        assert row["flagged"] == str(int(float(row["score"]) > threshold + 1e-6))
    assert rate < 0.3 or {row["flagged"] for row in rows} == {"0", "1"}


def test_with_too_few_healthy_scans_nothing_is_flagged_or_cleared(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    detect(three_scans, tmp_path / "results", maps=False, false_positive_rate=0.111)
    assert [row["flagged"] for row in table(tmp_path / "results" / "scores.csv")] == ["", "", ""]
    assert read_run(tmp_path / "results")["score_threshold"] is None


def test_findings_are_kept_by_the_wanted_number(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, detector: Detector
) -> None:
    detect(three_scans, tmp_path / "all")
    detect(three_scans, tmp_path / "few", false_positives_per_scan=1.0)
    run, every, kept = (read_run(tmp_path / "few"), *(table(tmp_path / n / "findings.csv") for n in ("all", "few")))
    threshold = detector.calibration.finding_threshold(false_positives_per_scan=1.0)
    assert (run["finding_threshold"], run["false_positives_per_scan"]) == (threshold, 1.0)
    assert run["findings_counted_per_scan"] == 3
    assert 0 < len(kept) < len(every)
    assert [row["centre_i"] for row in kept] == [row["centre_i"] for row in every if float(row["peak"]) > threshold]
    for case in "abc":
        numbers = [int(row["finding"]) for row in kept if row["case"] == case]
        assert numbers == list(range(1, len(numbers) + 1))
        row = next(row for row in scores(tmp_path / "few") if row["case"] == case)
        assert int(row["findings"]) == len(numbers)
    for row in every:
        assert float(row["expected_false_per_scan"]) >= 0.1111
    assert outputs(tmp_path / "few") == outputs(tmp_path / "all")


def test_a_wanted_number_does_not_depend_on_workers(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    for workers in (0, 2):
        wanted = {"false_positives_per_scan": 1.0, "false_positive_rate": 0.4}
        detect(three_scans, tmp_path / str(workers), workers=workers, **wanted)
    assert scores(tmp_path / "0") == scores(tmp_path / "2")
    for name in ("findings.csv", "results.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_wanted_numbers_that_cannot_be_kept_are_refused_before_anything_is_written(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    for wanted in (
        {"false_positive_rate": 0.0},
        {"false_positive_rate": 1.5},
        {"false_positives_per_scan": 0.1},
        {"false_positives_per_scan": 1.0, "scores": "paper"},
    ):
        with pytest.raises((SettingsError, ModelError)):
            detect(three_scans, tmp_path / "results", **wanted)
    assert not (tmp_path / "results").exists()


def test_a_model_of_an_earlier_version_detects_but_refuses_a_wanted_number(
    model_folder: Path, networks: Networks, calibration: Calibration, three_scans: Path, tmp_path: Path
) -> None:
    save_bundle(
        make_folder(tmp_path / "earlier"),
        settings=networks.settings,
        networks=networks.parts,
        calibration={name: value for name, value in calibration.to_json().items() if name != "healthy_peaks"},
        calibration_arrays={name: torch.from_numpy(array) for name, array in calibration.arrays().items()},
        plan={},
        split={},
        card="# Earlier\n",
    )
    with pytest.raises(ModelError, match="training again"):
        detect_folder(
            tmp_path / "earlier", three_scans, tmp_path / "1", workers=0, device="cpu", false_positives_per_scan=1.0
        )
    for model, folder in ((tmp_path / "earlier", "2"), (model_folder, "3")):
        detect_folder(model, three_scans, tmp_path / folder, workers=0, device="cpu")
    assert outputs(tmp_path / "2") == outputs(tmp_path / "3")
    assert {row["expected_false_per_scan"] for row in table(tmp_path / "2" / "findings.csv")} == {""}


def test_what_is_wrong_is_said_of_all_scans_before_the_work(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    codes, listener = spoil(three_scans, write_scan), Listener()
    write_scan(three_scans, "labels", voxels=(np.random.default_rng(0).random((8, 9, 10)) > 0.5).astype(np.uint8))
    detect(three_scans, tmp_path / "results", progress=listener)
    first = listener.said.index(next(line for line in listener.said if line.startswith("failed:")))
    before = " ".join(listener.said[:first])
    assert "5 of 9 scans cannot be used" in before
    assert all(code in before for code in codes.values())
    assert "W_LABELS" in before
    assert listener.stages == ["check", "detect"]


def test_holes_are_refused_or_filled_and_that_is_told(
    detect: Callable[..., Any], tmp_path: Path, write_scan: WriteScan
) -> None:
    voxels = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    voxels[2, 3, 4] = np.nan
    write_scan(tmp_path / "scans", "holed", voxels=voxels)
    assert detect(tmp_path / "scans", tmp_path / "refused").failed == 1
    filling = ScanReader(nan="fill")
    assert detect(tmp_path / "scans", tmp_path / "filled", reader=filling).failed == 0
    assert [read_run(tmp_path / name)["nan"] for name in ("refused", "filled")] == ["refuse", "fill"]
    details = json.loads((tmp_path / "filled" / "details" / "holed.json").read_text())
    assert [each["code"] for each in details["remarks"]] == ["W_NAN"]
    again = detect(tmp_path / "scans", tmp_path / "filled", resume=True, reader=ScanReader(2**20, nan="fill"))
    assert again.kept == 1
    assert detect(tmp_path / "scans", tmp_path / "filled", resume=True).failed == 1


def test_two_runs_differ_in_nothing_but_the_seconds(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        detect(three_scans, tmp_path / name)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    timing = table(tmp_path / "first" / "timing.csv")
    assert [row["case"] for row in timing] == ["a", "b", "c"]
    assert all(float(row["seconds"]) >= 0 for row in timing)


# --- failures --------------------------------------------------------------------------------------------------------


def spoil(folder: Path, write_scan: WriteScan) -> dict[str, str]:
    """Write one scan of each kind of badness; return the code of each."""
    voxels = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    whole = gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes(), mtime=0)
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "page.nii.gz").write_bytes(b"<html>not found</html>" * 50)
    voxels[2, 3, 4] = np.nan
    write_scan(folder, "nan", voxels=voxels)
    write_scan(folder, "flat", voxels=np.full((8, 8, 8), 7, np.int16))
    return {
        "cut": "E_TRUNCATED",
        "empty": "E_EMPTY",
        "page": "E_NOT_NIFTI",
        "nan": "E_NAN",
        "flat": "E_CONSTANT",
    }


def test_bad_scans_fail_alone(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    detect(three_scans, tmp_path / "good")
    codes = spoil(three_scans, write_scan)
    summary = detect(three_scans, tmp_path / "mixed")
    assert summary.failed == len(codes)
    assert outputs(tmp_path / "mixed") == outputs(tmp_path / "good")
    rows = {row["case"]: row for row in scores(tmp_path / "mixed")}
    assert list(rows) == sorted(["a", "b", "c", *codes])
    assert [rows[name] for name in "abc"] == scores(tmp_path / "good")
    for case, code in codes.items():
        row = rows[case]
        assert (row["status"], row["code"]) == ("failed", code)
        assert row["message"]
        assert str(tmp_path) not in row["message"]
        assert "scans" not in row["message"]
        assert "Traceback" not in row["message"]
        filled = {column for column, cell in row.items() if cell}
        assert filled == {"case", "status", "code", "message"}
    assert set(read_scores(tmp_path / "mixed")) == {"a", "b", "c"}


def test_all_bad_is_a_table_of_failures(detect: Callable[..., Any], tmp_path: Path, write_scan: WriteScan) -> None:
    (tmp_path / "scans").mkdir()
    codes = spoil(tmp_path / "scans", write_scan)
    summary = detect(tmp_path / "scans", tmp_path / "results")
    assert summary.failed == len(summary.rows) == len(codes)
    assert read_scores(tmp_path / "results") == {}
    assert outputs(tmp_path / "results") == {}


def test_a_name_too_long_for_results_costs_this_scan_only(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    longest = "x" * 248
    (three_scans / "c.nii.gz").rename(three_scans / f"{longest}.nii.gz")
    (three_scans / "b.nii.gz").rename(three_scans / f"{longest[:-1]}é.nii")  # .nii.gz at its end makes 256 bytes
    for resume in (False, False, True):
        assert detect(three_scans, tmp_path / "results", resume=resume).failed == 1
    rows = scores(tmp_path / "results")
    assert [(row["status"], row["code"]) for row in rows] == [("ok", ""), ("ok", ""), ("failed", "E_NAME")]
    assert "no results can have the scan's name (found File name too long)" in rows[2]["message"]
    assert {path.name[0] for path in (tmp_path / "results").rglob("*.nii.gz")} == {"a", "x"}
    assert len(outputs(tmp_path / "results")) == 4


def test_a_name_that_is_no_utf8_is_read_back(detect: Callable[..., Any], three_scans: Path, tmp_path: Path) -> None:
    (three_scans / "c.nii.gz").rename(three_scans / "caf\udce9.nii.gz")
    detect(three_scans, tmp_path / "results")
    case = read_results(tmp_path / "results").case(r"caf\udce9")
    assert case.has_map
    assert case.details() is not None


def test_messages_never_name_the_folder(detect: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "Jane  Doe"
    folder.mkdir()
    (folder / "bad.nii.gz").write_bytes(b"not a scan")
    detect(folder, tmp_path / "results")
    (row,) = scores(tmp_path / "results")
    assert "Doe" not in row["message"]


def test_a_failed_scan_leaves_no_map_of_an_earlier_run(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    detect(three_scans, tmp_path / "results")
    (three_scans / "b.nii.gz").write_bytes(b"not a scan")
    detect(three_scans, tmp_path / "results")
    assert {row["case"]: row["status"] for row in scores(tmp_path / "results")}["b"] == "failed"
    assert outputs(tmp_path / "results", case="b") == {}


def test_a_file_in_place_of_the_maps_folder_is_a_typed_error(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "maps").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be made"):
        detect(three_scans, tmp_path / "results")
    assert not (tmp_path / "results" / "scores.csv").exists()


def test_the_threads_of_the_caller_stay(detect: Callable[..., Any], three_scans: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        detect(three_scans / "a.nii.gz", tmp_path / "results", maps=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_refused_before_any_work(
    detect: Callable[..., Any], three_scans: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CohortError) as caught:
        detect(tmp_path / "nothing", tmp_path / "results")
    assert caught.value.code == "E_NO_SCANS"
    with pytest.raises(ModelError):
        detect_folder(tmp_path / "no model", three_scans, tmp_path / "results", workers=0)
    write_scan(three_scans / "deeper", "a", seed=5)
    with pytest.raises(CohortError) as caught:
        detect(three_scans, tmp_path / "results")
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert not (tmp_path / "results").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be made"):
        detect(three_scans / "b.nii.gz", tmp_path / "file" / "results")
