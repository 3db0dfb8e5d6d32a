"""A batch survives what happens to one scan, stops in good order, and never leaves half a file."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batch_contents import contents, score_rows
from mendscan.detection.batch import detect_folder
from mendscan.detection.detector import Detector
from mendscan.detection.stopping import stopped_by_signals
from mendscan.errors import ModelError, WriteError
from mendscan.results import Detection, read_results
from mendscan.results.figures import save_figure
from mendscan.volumes.locking import LOCK_NAME
from processes import alive, wait_until

WriteScan = Callable[..., Path]
Detect = Callable[..., Any]
NAMES = ("a", "dies", "exits", "forgets", "hangs", "odd", "z")
CODES = {
    "dies": "E_WORKER_DIED",
    "exits": "E_WORKER_DIED",
    "forgets": "E_MEMORY",
    "hangs": "E_TIMEOUT",
    "odd": "E_INTERNAL",
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, write_scan: WriteScan) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "scans"
    for seed, name in enumerate(NAMES):
        write_scan(folder, name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def run(model_folder: Path) -> Detect:
    def detect(scans: Path, results: Path, **options: Any) -> Any:
        wanted = {"workers": 0, "device": "cpu", "restorations": 1, "after_save": save_figure} | options
        return detect_folder(model_folder, scans, results, **wanted)

    return detect


def faults() -> Callable[[Detection, Path], None]:
    """A step after saving, which processes are sent as it is, with what happens to each case there."""

    def strike(detection: Detection, folder: Path) -> None:
        import os
        import signal
        import time

        if detection.case == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if detection.case == "exits":
            (folder / "maps" / ".0123456789abcdef.tmp").write_bytes(b"half a map")
            os._exit(0)
        if detection.case == "forgets":
            raise MemoryError
        if detection.case == "hangs":
            time.sleep(600)
        if detection.case == "odd":
            raise KeyError("/data/Jane Doe")

    return strike


def test_whatever_happens_to_a_scan_costs_that_scan_only(
    run: Detect, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="mendscan.failures")
    summary = run(scans, tmp_path / "results", workers=2, timeout_s=8.0, after_save=faults())
    rows = {row["case"]: row for row in summary.rows}
    assert {case: row["code"] for case, row in rows.items() if row["status"] == "failed"} == CODES
    assert summary.failed == len(CODES)
    for case in CODES:
        assert rows[case]["message"].startswith(f"{case}.nii.gz: ")
        assert "Jane" not in rows[case]["message"]
        assert list((tmp_path / "results").rglob(f"{case}.*")) == []
    assert "in strike" in caplog.text  # where the unforeseen error arose, for --debug, from another process
    run(pick(scans, tmp_path / "good", "az"), tmp_path / "alone", after_save=None)
    both, alone = contents(tmp_path / "results"), contents(tmp_path / "alone")
    assert set(both) == set(alone)  # and so no unfinished file and no lock
    for name in alone:
        if "/" in name and not name.startswith("records/"):
            assert both[name] == alone[name]
    # What failed by chance is done when the batch goes on.
    assert run(scans, tmp_path / "results", resume=True, after_save=None).failed == 0


def pick(scans: Path, folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(scans / f"{name}.nii.gz", folder)
    return folder


def test_a_model_that_is_replaced_while_a_batch_runs_ends_it(
    run: Detect, model_folder: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Detector.load

    def load(folder: Path, **options: Any) -> Detector:
        detector = genuine(folder, **options)
        detector.model_hash = "1" * 64  # as this process, but no other, found it
        return detector

    monkeypatch.setattr(Detector, "load", load)
    with pytest.raises(ModelError, match="was replaced"):
        run(scans, tmp_path / "results", workers=1)
    assert not (tmp_path / "results" / "scores.csv").exists()


@pytest.mark.parametrize("length", [250, 251])
def test_a_name_that_no_result_can_have_costs_its_scan_only(
    run: Detect, scans: Path, tmp_path: Path, length: int
) -> None:
    few, name = pick(scans, tmp_path / "few", "az"), "l" * length
    (few / f"{name}.nii").write_bytes(gzip.decompress((few / "a.nii.gz").read_bytes()))
    rows = {row["case"]: row for row in run(few, tmp_path / "results").rows}
    assert {case: row.get("code") for case, row in rows.items()} == {"a": None, "z": None, name: "E_NAME"}


# --- signals ---------------------------------------------------------------------------------------------------------


def command(model: Path, scans: Path, results: Path, *options: object) -> list[str]:
    folders = ["-m", model, "-i", scans, "-o", results, "--restorations", 1, "--device", "cpu"]
    return [str(each) for each in (sys.executable, "-m", "mendscan", "detect", *folders, *options)]


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGUSR1, 0), (signal.SIGHUP, 0)]
)
def test_a_signal_stops_the_batch_in_good_order(
    model_folder: Path, write_scan: WriteScan, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    many = 200  # on a busy machine dozens are done before this process gets its turn
    for seed in range(many):
        write_scan(tmp_path / "scans", f"s{seed:03}", seed=seed)
    results = tmp_path / "results"
    told = command(model_folder, tmp_path / "scans", results, "--workers", workers)
    with (tmp_path / "said").open("w") as said:
        heard = partial(signal.signal, number, signal.SIG_DFL)  # what ignores signals may have started the tests
        batch = subprocess.Popen(told, stdout=said, stderr=said, start_new_session=True, preexec_fn=heard)
        wait_until(lambda: len(list(results.glob("records/s*.json"))) >= 3 or batch.poll() is not None)
        os.killpg(batch.pid, number)  # as a terminal does: to the workers, too
        assert batch.wait(60) == 143
    text = (tmp_path / "said").read_text()
    assert "--resume goes on" in " ".join(text.split())
    assert "Traceback" not in text
    wait_until(lambda: not alive(batch.pid))
    done = sorted(path.stem for path in results.glob("records/*.json"))
    assert 3 <= len(done) < many
    listed = [case.name for case in read_results(results).cases]
    assert listed != []
    assert sorted(listed) == done
    assert not list(results.rglob("*.tmp"))
    assert not (results / LOCK_NAME).exists()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nobody_has_to_listen(model_folder: Path, scans: Path, tmp_path: Path) -> None:
    few = pick(scans, tmp_path / "few", "az")
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does when it has seen enough
    told = command(model_folder, few, tmp_path / "results", "--workers", 1)
    assert subprocess.run(told, stdout=writer, stderr=writer, check=False).returncode == 0
    os.close(writer)
    assert {case.name: case.failed for case in read_results(tmp_path / "results").cases} == {"a": False, "z": False}


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_ends_the_batch_and_leaves_the_old_files(
    run: Detect, model_folder: Path, scans: Path, tmp_path: Path, workers: int
) -> None:
    results, few = tmp_path / "results", pick(scans, tmp_path / "few", "az")
    run(few, results)
    before = contents(results)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    told = command(model_folder, few, results, "--seed", 1, "--workers", workers)
    ended = subprocess.run(told, capture_output=True, text=True, check=False, preexec_fn=no_room)
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 2, said
    assert "the file cannot be written (found File too large, " in said
    assert "Traceback" not in said
    after = contents(results)
    assert {name: content for name, content in after.items() if name in before} == {
        name: content for name, content in before.items() if name in after
    }
    # Only what vouched for them is gone, so that they are done again; nothing unfinished, no lock.
    assert set(after) <= set(before)
    assert {name.split("/")[0] for name in set(before) - set(after)} <= {"records"}


def test_a_results_folder_that_vanishes_ends_the_batch(run: Detect, scans: Path, tmp_path: Path) -> None:
    def remove(detection: Detection, folder: Path) -> None:
        shutil.rmtree(folder)

    few = pick(scans, tmp_path / "few", "az")
    with pytest.raises(WriteError, match="moved or removed"):
        run(few, tmp_path / "results", after_save=remove)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_refused_before_any_work(run: Detect, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o555)
    with pytest.raises(WriteError, match="cannot be written to"):
        run(scans, tmp_path / "results")


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_left_in_the_temporary_folder(model_folder: Path, scans: Path, tmp_path: Path, workers: int) -> None:
    few, temporary = pick(scans, tmp_path / "few", "az"), tmp_path / "temporary"
    temporary.mkdir()
    told = command(model_folder, few, tmp_path / "results", "--workers", workers)
    subprocess.run(told, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, check=True)
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder_is_needed(model_folder: Path, scans: Path, tmp_path: Path) -> None:
    few, nowhere = pick(scans, tmp_path / "few", "az"), tmp_path / "nowhere"
    nowhere.mkdir()
    (nowhere / "sitecustomize.py").write_text(
        "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
    )
    told = command(model_folder, few, tmp_path / "results", "--workers", 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(nowhere), *filter(None, sys.path)])}
    ended = subprocess.run(told, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_results_on_another_disk_and_no_open_file(run: Detect, scans: Path, tmp_path: Path) -> None:
    few = pick(scans, tmp_path / "few", "az")
    run(few, tmp_path / "here")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as elsewhere:
        (tmp_path / "there").symlink_to(elsewhere)
        before = len(list(Path("/proc/self/fd").iterdir()))
        run(few, tmp_path / "there")
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert contents(Path(elsewhere)) == contents(tmp_path / "here")


def test_a_scan_that_is_replaced_meanwhile_is_known_as_it_was_read(run: Detect, scans: Path, tmp_path: Path) -> None:
    few, results = pick(scans, tmp_path / "few", "az"), tmp_path / "results"

    def replace(detection: Detection, folder: Path) -> None:
        if detection.case == "a":
            for name in "az":  # that one has been read, this one has not
                shutil.copy(scans / "odd.nii.gz", few / f"{name}.nii.gz")

    run(few, results, after_save=replace)
    records = {name: json.loads((results / "records" / f"{name}.json").read_text())["scan"] for name in "az"}
    run(few, tmp_path / "anew", after_save=None)
    anew = {name: json.loads((tmp_path / "anew" / "records" / f"{name}.json").read_text())["scan"] for name in "az"}
    assert records["z"] == anew["z"]
    assert records["a"] != anew["a"]


# --- the same bytes --------------------------------------------------------------------------------------------------


def test_neighbours_order_workers_and_threads_change_no_byte(run: Detect, scans: Path, tmp_path: Path) -> None:
    few = pick(scans, tmp_path / "few", ("a", "odd", "z"))
    run(few, tmp_path / "0", workers=0)
    expected = contents(tmp_path / "0")
    assert len(expected) == 4 + 3 * 6
    for workers in (1, 2):
        run(few, tmp_path / str(workers), workers=workers)
        assert contents(tmp_path / str(workers)) == expected
    # One at a time, last first, with two threads each, into one folder: each as it was among the others.
    for name in ("z", "odd", "a"):
        run(few / f"{name}.nii.gz", tmp_path / "alone", workers=2)
        assert all(row in score_rows(tmp_path / "0") for row in score_rows(tmp_path / "alone"))
    alone = contents(tmp_path / "alone")
    assert set(alone) == set(expected)
    for name in set(expected) - {"scores.csv", "findings.csv"}:
        assert alone[name] == expected[name]
