"""What becomes of a command whose standard streams are closed, full, or read by nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CHECK = f'exec "{sys.executable}" -m mendscan check scan.nii'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    voxels = np.random.default_rng(0).normal(100, 20, (12, 12, 12)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "scan.nii")
    return folder


def run(folder: Path, script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(folder: Path, closed: str) -> None:
    ended = run(folder, f"{CHECK} {closed}")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (b"1 of 1 scans" in ended.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_no_file_takes_the_number_of_a_closed_stream(folder: Path) -> None:
    patient = "from mendscan.cli.streams import make_streams_patient as patient; patient()"
    shown = f"{patient}; print(open('scan.nii').fileno(), file=open('said', 'w'))"
    assert run(folder, f'exec "{sys.executable}" -c "{shown}" <&- >&- 2>&-').returncode == 0
    assert (folder / "said").read_text() == "3\n"


@pytest.mark.parametrize("scan", ["scan.nii", "absent.nii"])
def test_a_reader_that_leaves_changes_no_exit_code(folder: Path, scan: str) -> None:
    ended = run(folder, f"{CHECK.replace('scan.nii', scan)} 2>said | true; exit ${{PIPESTATUS[0]}}")
    assert ended.returncode == (0 if scan == "scan.nii" else 4)
    assert (folder / "said").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
@pytest.mark.parametrize(("scan", "code"), [("scan.nii", 2), ("absent.nii", 4)])
def test_a_full_disk_under_what_is_printed_is_said(folder: Path, scan: str, code: int) -> None:
    ended = run(folder, f"{CHECK.replace('scan.nii', scan)} --json >/dev/full")
    assert ended.returncode == code
    assert b"what was printed is incomplete (No space left on device)" in ended.stderr
    assert b"Traceback" not in ended.stderr
