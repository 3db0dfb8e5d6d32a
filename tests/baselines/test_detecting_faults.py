"""A baseline's batch survives what happens to one scan, stops in good order, and mixes no two runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.conftest import save_scan
from batch_contents import contents, score_rows
from mendscan.baselines import detecting
from mendscan.baselines.baseline import Baseline
from mendscan.baselines.calibrating import Calibrated, calibrate
from mendscan.baselines.detecting import detect_with
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.positional import fit_atlas
from mendscan.baselines.saving import save_calibrated
from mendscan.cohort.preparing import Prepared, prepare
from mendscan.config import Settings
from mendscan.errors import Interrupted, SettingsError, WriteError
from mendscan.results import read_results, read_scores
from mendscan.volumes.locking import LOCK_NAME, locked
from mendscan.volumes.reading import read_volume
from processes import alive, wait_until
from training.conftest import phantom

LONG = "l" * 250
"""The name of a file, but not with the longer suffix of a map."""
CODES = {"dies": "E_WORKER_DIED", "exits": "E_WORKER_DIED", "forgets": "E_MEMORY", "odd": "E_INTERNAL", LONG: "E_NAME"}


@pytest.fixture(scope="module")
def atlas(cohort: HealthyCohort) -> Calibrated:
    return calibrate(fit_atlas(cohort), cohort)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "scans"
    for seed, name in enumerate(("a", *CODES, "z")):
        save_scan(folder / f"{name}.nii", phantom(np.random.default_rng(seed)))
    return folder


def fingerprint(prepared: Prepared) -> str:
    return hashlib.sha256(prepared.slices_SHW.tobytes()).hexdigest()


def struck(calibrated: Calibrated, scans: Path, strike: Callable[[str], None]) -> Calibrated:
    """The same baseline, with what happens to each case when its map is computed."""
    settings: Settings = calibrated.settings
    names = {fingerprint(prepare(read_volume(path), settings.preparation)): path.stem for path in scans.glob("*")}
    inner = calibrated.baseline

    class Struck(type(inner)):  # type: ignore[misc]  # made here, so that processes are sent it as it is
        def __init__(self) -> None:
            self.__dict__.update(inner.__dict__)

        def residual(self, prepared: Prepared) -> Any:
            import hashlib

            strike(names[hashlib.sha256(prepared.slices_SHW.tobytes()).hexdigest()])
            return inner.residual(prepared)

    baseline: Baseline = Struck()
    return replace(calibrated, baseline=baseline)


def faults() -> Callable[[str], None]:
    def strike(name: str) -> None:
        import os
        import signal

        if name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "exits":
            os._exit(0)
        if name == "forgets":
            raise MemoryError
        if name == "odd":
            raise KeyError("/data/Jane Doe")

    return strike


def test_whatever_happens_to_a_scan_costs_that_scan_only(atlas: Calibrated, scans: Path, tmp_path: Path) -> None:
    summary = detect_with(struck(atlas, scans, faults()), scans, tmp_path / "results", workers=2)
    rows = {row["case"]: row for row in summary.rows}
    assert {case: row["code"] for case, row in rows.items() if row["status"] == "failed"} == CODES
    assert summary.failed == len(CODES)
    for case in CODES:
        assert rows[case]["message"].startswith(f"{case}.nii: ")
        assert "Jane" not in rows[case]["message"]
        assert list((tmp_path / "results").rglob(f"{case}.*")) == []
    (tmp_path / "good").mkdir()
    for name in "az":
        shutil.copy(scans / f"{name}.nii", tmp_path / "good")
    detect_with(atlas, tmp_path / "good", tmp_path / "alone", workers=0)
    both, alone = contents(tmp_path / "results"), contents(tmp_path / "alone")
    assert set(both) == set(alone)  # and so no unfinished file and no lock
    assert {name for name in both if both[name] != alone[name]} == {"scores.csv"}
    done = [row for row in score_rows(tmp_path / "results") if row["status"] == "ok"]
    assert done == score_rows(tmp_path / "alone")


def test_a_second_run_in_the_folder_is_refused(atlas: Calibrated, scans: Path, tmp_path: Path) -> None:
    with locked(tmp_path, "detection"), pytest.raises(WriteError) as caught:
        detect_with(atlas, scans, tmp_path, workers=0)
    assert caught.value.code == "E_LOCKED"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_batch(
    atlas: Calibrated, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise WriteError("the file cannot be written", where=path, code="E_NO_SPACE")

    monkeypatch.setattr(detecting, "write_map", full)
    with pytest.raises(WriteError) as caught:
        detect_with(atlas, scans, tmp_path / "results", workers=0)
    assert caught.value.code == "E_NO_SPACE"
    assert not (tmp_path / "results" / LOCK_NAME).exists()


def test_results_among_the_scans_are_refused(atlas: Calibrated, scans: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        detect_with(atlas, scans, scans / "results", workers=0)
    assert caught.value.code == "E_OUTPUT_AMONG_INPUTS"


def test_a_stopped_run_leaves_whole_results_and_none_of_an_earlier_one(
    atlas: Calibrated, scans: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    detect_with(atlas, scans, results, workers=0)
    assert "z" in read_scores(results)

    def stop(name: str) -> None:
        if name == "forgets":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        detect_with(struck(atlas, scans, stop), scans, results, workers=0)
    assert set(read_scores(results)) == {"a", "dies", "exits"}
    for folder in ("maps", "records"):
        assert {path.name.split(".")[0] for path in (results / folder).iterdir()} == {"a", "dies", "exits"}
    assert [case.name for case in read_results(results).cases if case.failed] == []


RUN = """
import sys
from mendscan.baselines.detecting import detect_with
from mendscan.baselines.saving import load_calibrated
from mendscan.errors import Interrupted
try:
    detect_with(load_calibrated(sys.argv[1], device="cpu"), sys.argv[2], sys.argv[3], workers=2)
except Interrupted:
    sys.exit(143)
"""


def test_a_signal_ends_the_processes_too(atlas: Calibrated, tmp_path: Path) -> None:
    for seed in range(60):
        save_scan(tmp_path / "scans" / f"s{seed:02}.nii.gz", phantom(np.random.default_rng(seed)))
    save_calibrated(tmp_path / "atlas", atlas)
    results = tmp_path / "results"
    folders = [str(tmp_path / name) for name in ("atlas", "scans", "results")]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what ignores signals may have started the tests
    batch = subprocess.Popen([sys.executable, "-c", RUN, *folders], start_new_session=True, preexec_fn=heard)
    wait_until(lambda: len(list(results.glob("records/s*.json"))) >= 3 or batch.poll() is not None)
    os.killpg(batch.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    assert batch.wait(60) == 143
    wait_until(lambda: not alive(batch.pid))
    done = sorted(path.stem for path in results.glob("records/*.json"))
    assert 3 <= len(done) < 60
    assert sorted(read_scores(results)) == done
    assert not list(results.rglob("*.tmp"))
    assert not (results / LOCK_NAME).exists()
