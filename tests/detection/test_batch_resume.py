"""A batch goes on where it was: what verifies is kept, everything else is done again, and the bytes are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from batch_contents import contents
from mendscan.detection import batch, case_work
from mendscan.detection.batch import detect_folder
from mendscan.detection.detector import Detector
from mendscan.errors import Interrupted, SettingsError, WriteError
from mendscan.results import Detection, read_scores
from mendscan.results.figures import save_figure
from mendscan.results.records import read_record
from mendscan.volumes.locking import locked

WriteScan = Callable[..., Path]
Detect = Callable[..., Any]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, write_scan: WriteScan) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "scans"
    for seed, name in enumerate("abcd"):
        write_scan(folder, name, seed=seed)
    (folder / "bad.nii.gz").write_bytes(b"not a scan")
    return folder


@pytest.fixture(scope="module")
def run(model_folder: Path) -> Detect:
    def detect(scans: Path, results: Path, **options: Any) -> Any:
        wanted = {"workers": 0, "device": "cpu", "restorations": 1, "after_save": save_figure} | options
        return detect_folder(model_folder, scans, results, **wanted)

    return detect


@pytest.fixture(scope="module")
def whole(run: Detect, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    run(scans, folder)
    return folder


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "results")


@pytest.fixture
def detected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that networks were asked about."""
    cases: list[str] = []
    genuine = Detector.detect

    def detect(self: Detector, scan: Any, **options: Any) -> Detection:
        cases.append(scan.name)
        return genuine(self, scan, **options)

    monkeypatch.setattr(Detector, "detect", detect)
    return cases


def test_nothing_is_done_twice_and_every_byte_stays(
    run: Detect, scans: Path, results: Path, detected: list[str]
) -> None:
    before = contents(results)
    summary = run(scans, results, resume=True)
    assert detected == []
    assert (summary.kept, summary.failed, len(summary.rows)) == (4, 1, 5)
    assert contents(results) == before


def test_without_resume_everything_is_done_again(
    run: Detect, scans: Path, results: Path, whole: Path, detected: list[str]
) -> None:
    run(scans, results)
    assert sorted(detected) == ["a", "b", "c", "d"]
    assert contents(results) == contents(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lie(path: Path) -> None:
    """Change a figure of a record, as by hand."""
    record = json.loads(path.read_text())
    record["row"]["score"] += 1
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("maps/b.nii.gz", flip),
        ("maps/b.nii.gz", cut),
        ("maps/b.nii.gz", empty),
        ("maps/b.nii.gz", Path.unlink),
        ("restored/b.nii.gz", flip),
        ("scans/b.nii.gz", Path.unlink),
        ("details/b.json", cut),
        ("figures/b.png", flip),
        ("records/b.json", Path.unlink),
        ("records/b.json", cut),
        ("records/b.json", empty),
        ("records/b.json", lie),
    ],
)
def test_what_is_damaged_is_done_again_and_nothing_else(
    run: Detect, scans: Path, results: Path, whole: Path, detected: list[str], name: str, damage: Callable[[Path], None]
) -> None:
    damage(results / name)
    summary = run(scans, results, resume=True)
    assert detected == ["b"]
    assert summary.kept == 3
    assert contents(results) == contents(whole)


def test_damaged_tables_are_written_from_the_records(
    run: Detect, scans: Path, results: Path, whole: Path, detected: list[str]
) -> None:
    for name in ("scores.csv", "findings.csv", "results.json", "model-card.md"):
        cut(results / name)
    run(scans, results, resume=True)
    assert detected == []
    assert contents(results) == contents(whole)
    assert (results / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


def test_a_changed_scan_is_done_again(
    run: Detect, scans: Path, results: Path, tmp_path: Path, detected: list[str], write_scan: WriteScan
) -> None:
    changed = shutil.copytree(scans, tmp_path / "changed")
    write_scan(changed, "c", seed=99)
    # The same voxels stored in another order: the same scan to the networks, but its map is another file.
    turned = nib.load(changed / "d.nii.gz").as_reoriented([[0, -1], [1, 1], [2, 1]])
    nib.save(turned, changed / "d.nii.gz")
    said = Listener()
    run(changed, results, resume=True, progress=said)
    assert sorted(detected) == ["c", "d"]
    assert sum("the scan has changed" in line for line in said.lines) == 2
    run(changed, tmp_path / "anew")
    assert contents(results) == contents(tmp_path / "anew")


@pytest.mark.parametrize(
    "option",
    [
        {"seed": 1},
        {"false_positive_rate": 0.3},
        {"after_save": None},
        {"maps": False},
    ],
)
def test_another_request_is_done_again(
    run: Detect, scans: Path, results: Path, tmp_path: Path, detected: list[str], option: dict[str, Any]
) -> None:
    run(scans, results, resume=True, **option)
    assert sorted(detected) == ["a", "b", "c", "d"]
    run(scans, tmp_path / "anew", **option)
    assert contents(results) == contents(tmp_path / "anew")


def test_how_it_is_computed_is_no_other_request(run: Detect, scans: Path, results: Path, whole: Path) -> None:
    summary = run(scans, results, resume=True, workers=2, timeout_s=600.0)
    assert summary.kept == 4
    assert contents(results) == contents(whole)


def test_a_scan_that_failed_is_tried_again_and_one_that_fails_now_keeps_nothing(
    run: Detect, scans: Path, results: Path, tmp_path: Path, detected: list[str], write_scan: WriteScan
) -> None:
    repaired = shutil.copytree(scans, tmp_path / "repaired")
    write_scan(repaired, "bad", seed=7)
    (repaired / "a.nii.gz").write_bytes(b"not a scan")
    summary = run(repaired, results, resume=True)
    assert detected == ["bad"]
    assert (summary.kept, summary.failed) == (3, 1)
    assert read_record(results, "a") is None
    assert list(results.rglob("a.*")) == []
    run(repaired, tmp_path / "anew")
    assert contents(results) == contents(tmp_path / "anew")


def test_a_resumed_batch_that_stops_loses_no_row(
    run: Detect, scans: Path, results: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(case: Any, task: Any) -> Any:
        if case.name == "bad":
            raise KeyboardInterrupt
        return genuine(case, task)

    genuine = case_work.detect_case
    monkeypatch.setattr(batch, "detect_case", stop)
    with pytest.raises(Interrupted, match="--resume goes on"):
        run(scans, results, resume=True)
    cases = list(read_scores(results))
    assert cases == ["a", "b", "c", "d"]  # c and d were not yet looked at
    monkeypatch.setattr(batch, "detect_case", genuine)
    run(scans, results, resume=True)
    assert contents(results) == contents(whole)


def test_a_run_from_the_beginning_that_stops_vouches_for_nothing_old(
    run: Detect, scans: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(case: Any, task: Any) -> Any:
        if case.name == "b":
            raise KeyboardInterrupt
        return genuine(case, task)

    genuine = case_work.detect_case
    monkeypatch.setattr(batch, "detect_case", stop)
    with pytest.raises(Interrupted):
        run(scans, results)
    assert [path.name for path in (results / "records").iterdir()] == ["a.json"]
    assert list(read_scores(results)) == ["a"]


def test_two_runs_in_one_folder_are_refused(run: Detect, scans: Path, results: Path, whole: Path) -> None:
    with locked(results, "detection"), pytest.raises(WriteError) as caught:
        run(scans, results, resume=True)
    assert caught.value.code == "E_LOCKED"
    assert contents(results) == contents(whole)


def test_results_among_the_scans_are_refused(run: Detect, scans: Path) -> None:
    before = sorted(scans.rglob("*"))
    with pytest.raises(SettingsError) as caught:
        run(scans, scans / "results")
    assert caught.value.code == "E_OUTPUT_AMONG_INPUTS"
    assert sorted(scans.rglob("*")) == before


def test_what_a_killed_run_left_unfinished_is_removed(run: Detect, scans: Path, results: Path, whole: Path) -> None:
    for name in (".0123456789abcdef.tmp", "maps/.0123456789abcdef.tmp", "records/.fedcba9876543210.tmp"):
        (results / name).write_bytes(b"half")
    run(scans, results, resume=True)
    assert contents(results) == contents(whole)


class Listener:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        pass

    def advance(self, units: int = 1, **facts: float) -> None:
        pass

    def say(self, message: str) -> None:
        self.lines.append(message)
