"""The check passes what the challenge would take, and names what is wrong with everything else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.errors import ResultsError
from mendscan.evaluation.official import official_figure
from mendscan.submission.building import digests
from mendscan.submission.checking import Check, check_submission
from mendscan.submission.isolation import Isolation, make_room

IS_ROOT = os.geteuid() == 0


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- the real scripts ------------------------------------------------------------------------------------------------


def test_a_submission_passes(submission: Path, toys: Path, tmp_path: Path) -> None:
    """All four scripts, as shut off as the system lets us; nothing is written but what is kept."""
    places = (submission, toys)
    before = [digests(place) for place in places]
    shown = run("mood-check", submission, "-i", toys, "-o", tmp_path / "kept")
    assert shown.exit_code == 0, shown.output
    assert [digests(place) for place in places] == before
    assert shown.output.count("PASS") == 5
    assert "Research use only" in shown.output
    for anatomy in ("brain", "abdom"):
        for mode, suffix in (("pixel", ""), ("sample", ".txt")):
            names = {path.name for path in (tmp_path / "kept" / anatomy / mode).iterdir()}
            assert names == {f"toy_{n}.nii.gz{suffix}" for n in range(3)}
            labels = toys / anatomy / "toy_label" / mode
            figure = official_figure(tmp_path / "kept" / anatomy / mode, labels, mode=mode)  # type: ignore[arg-type]
            assert f"official {mode} average precision: {figure.value:.6f} (3 cases)" in shown.output
    assert run("mood-check", submission, "-i", toys, "-o", tmp_path / "kept").exit_code == 2


# --- scripts that do something wrong ---------------------------------------------------------------------------------

Fake = Callable[..., tuple[Path, Path]]


@pytest.fixture
def fake(submission: Path, toys: Path, tmp_path: Path) -> Fake:
    """A submission for the brain whose scripts copy right predictions and then do what a test says."""

    def write(spoil: str = "", *, mode: str = "pixel") -> tuple[Path, Path]:
        folder, toy = tmp_path / "fake", tmp_path / "toys"
        shutil.copytree(toys / "brain", toy / "brain")
        folder.mkdir()
        shutil.copy(next(submission.glob("*.whl")), folder)
        for name in ("pixel", "sample"):
            (folder / "good" / name).mkdir(parents=True)
        for scan in sorted((toy / "brain" / "toy").iterdir()):
            image = nib.load(scan)
            ramp = np.linspace(0, 0.9, image.get_fdata().size, dtype=np.float32).reshape(image.shape)
            nib.save(nib.Nifti1Image(ramp, image.affine), folder / "good" / "pixel" / scan.name)
            (folder / "good" / "sample" / f"{scan.name}.txt").write_text(f"0.{scan.name[4]}5\n")
        for name in ("pixel", "sample"):
            lines = ['here="$(dirname "$0")"', f'cp "$here"/good/{name}/* "$2"', spoil if name == mode else ""]
            (folder / f"run_{name}_brain.sh").write_text("\n".join(lines) + "\n")
        (folder / "manifest.json").write_text(json.dumps({"files": digests(folder)}))
        return folder, toy

    return write


def add_prediction(folder: Path, name: str, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Put a map into a fake submission, for its script to copy."""
    given = nib.load(folder / "good" / "pixel" / "toy_1.nii.gz")
    nib.save(nib.Nifti1Image(values, given.affine if affine is None else affine), folder / name)
    (folder / "manifest.json").write_text(json.dumps({"files": digests(folder)}))


def check(folder: Path, toys: Path, *, strictest: Isolation = "guarded", minutes: float = 1.0) -> Check:
    return check_submission(folder, toys, strictest=strictest, minutes_per_case=minutes)


def reasons(found: Check) -> list[str]:
    of_cases = [f"{case.case}: {problem}" for s in found.scripts for case in s.cases for problem in case.problems]
    return [*found.problems, *(problem for s in found.scripts for problem in s.problems), *of_cases]


def test_right_predictions_pass(fake: Fake) -> None:
    found = check(*fake())
    assert reasons(found) == []
    assert found.passed
    assert found.absent == ("abdom",)
    sample, pixel = found.scripts
    assert [case.seconds is not None for case in (*sample.cases, *pixel.cases)] == [True] * 6
    assert pixel.figure is not None
    assert sample.figure is not None
    assert sample.figure.cases == pixel.figure.cases == 3
    assert [case.highest for case in sample.cases] == [0.05, 0.15, 0.25]


def of_values(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        right = nib.load(folder / "good" / "pixel" / "toy_1.nii.gz").get_fdata(dtype=np.float32)
        add_prediction(folder, "wrong.nii.gz", make(right))

    return write


def with_one(value: float) -> Callable[[Path], None]:
    def make(right: np.ndarray) -> np.ndarray:
        right[3, 4, 5] = value
        return right

    return of_values(make)


def elsewhere(folder: Path) -> None:
    right = nib.load(folder / "good" / "pixel" / "toy_1.nii.gz")
    add_prediction(folder, "wrong.nii.gz", right.get_fdata(dtype=np.float32), right.affine @ np.diag([1, -1, 1, 1]))


def garbage(folder: Path) -> None:
    (folder / "wrong.nii.gz").write_bytes(b"garbage")
    (folder / "manifest.json").write_text(json.dumps({"files": digests(folder)}))


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (of_values(lambda right: right[:-1]), "toy_1.nii.gz: shape 17×14×11 instead of 18×14×11"),
        (of_values(lambda right: right[..., None, None]), "toy_1.nii.gz: shape 18×14×11×1×1 instead of 18×14×11"),
        (of_values(lambda right: (right > 0.5).astype(np.uint8)), "toy_1.nii.gz: voxels are uint8, not floating point"),
        (with_one(1.01), "toy_1.nii.gz: values from 0 to 1.01 instead of 0 to 1"),
        (with_one(-0.5), "toy_1.nii.gz: values from -0.5 to 0.9 instead of 0 to 1"),
        (with_one(np.nan), "toy_1.nii.gz: NaN or infinite"),
        (with_one(np.inf), "toy_1.nii.gz: NaN or infinite"),
        (elsewhere, "toy_1.nii.gz: the affine is not the scan's"),
        (garbage, "toy_1.nii.gz: the prediction cannot be read"),
    ],
)
def test_wrong_maps(fake: Fake, write: Callable[[Path], None], problem: str) -> None:
    folder, toys = fake('cp "$here"/wrong.nii.gz "$2"/toy_1.nii.gz')
    write(folder)
    found = check(folder, toys)
    assert not found.passed
    assert [reason for reason in reasons(found) if "official" not in reason][0].startswith(problem)  # noqa: RUF015
    assert len([reason for reason in reasons(found) if reason.startswith("toy_")]) == 1
    assert [script.passed for script in found.scripts] == [True, False]


def test_nan_gives_no_official_figure(fake: Fake) -> None:
    folder, toys = fake('cp "$here"/wrong.nii.gz "$2"/toy_1.nii.gz')
    with_one(np.nan)(folder)
    found = check(folder, toys)
    assert any("the official rules give no figure" in reason for reason in reasons(found))
    assert found.scripts[1].figure is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.5 0.6", "2 values instead of one number"),
        (r"0.5\n0.6\n", "2 values instead of one number"),
        ("", "0 values instead of one number"),
        ("high", "no number"),
        ("nan", "NaN or infinite"),
        ("inf", "NaN or infinite"),
        ("1.5", "values from 1.5 to 1.5"),
        ("-0.1", "values from -0.1 to -0.1"),
    ],
)
def test_wrong_scores(fake: Fake, text: str, problem: str) -> None:
    found = check(*fake(f"printf -- '{text}' > \"$2\"/toy_2.nii.gz.txt", mode="sample"))
    assert not found.passed
    assert any(reason.startswith("toy_2.nii.gz: ") and problem in reason for reason in reasons(found))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        ('rm "$2"/toy_0.nii.gz', "toy_0.nii.gz: the prediction is missing"),
        ('mv "$2"/toy_0.nii.gz "$2"/toy_0_pred.nii.gz', "a file that belongs to no case: toy_0_pred.nii.gz"),
        ('touch "$2"/.cache', "a file that belongs to no case: .cache"),
        ('mkdir "$2"/tmp', "a file that belongs to no case: tmp"),
        ('rm "$2"/toy_0.nii.gz; ln -s "$1"/toy_0.nii.gz "$2"/toy_0.nii.gz', "toy_0.nii.gz: not a regular file"),
        ("echo cannot go on >&2; exit 3", "exit code 3: cannot go on"),
        ('echo x > "$1"/notes.txt', "wrote outside of its predictions: toy/notes.txt"),
        ('echo x >> "$1"/toy_0.nii.gz', "wrote outside of its predictions: toy/toy_0.nii.gz"),
        ('rm "$1"/toy_2.nii.gz', "wrote outside of its predictions: toy/toy_2.nii.gz"),
        ('echo x > "$here"/log', "wrote outside of its predictions: fake/log"),
        ('mkdir "$1"/cache', "wrote outside of its predictions: toy/cache/"),
        ('ln -s x "$here"/log', "wrote outside of its predictions: fake/log"),
    ],
)
def test_wrong_behaviour(fake: Fake, spoil: str, problem: str) -> None:
    found = check(*fake(spoil))
    assert not found.passed
    assert problem in reasons(found)


@pytest.mark.skipif(not IS_ROOT, reason="others than root cannot write there")
@pytest.mark.parametrize("variable", ["HOME", "TMPDIR"])
def test_caches_elsewhere_are_seen(fake: Fake, variable: str) -> None:
    found = check(*fake(f'touch "${variable}"/cache'))
    assert f"wrote outside of its predictions: {'home' if variable == 'HOME' else 'tmp'}/cache" in reasons(found)


def test_a_script_that_hangs_is_ended(fake: Fake) -> None:
    found = check(*fake("sleep 300"), minutes=0.01)
    assert any("took more than 0.01 minutes per case and was ended" in reason for reason in reasons(found))


@pytest.mark.parametrize("strictest", ["shut", "offline", "guarded"])
def test_no_script_reaches_a_network(fake: Fake, strictest: Isolation) -> None:
    """The address is one that documents may name and nobody has (RFC 5737)."""
    connect = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=5)"
    folder, toys = fake(f'{sys.executable} -c "{connect}"')
    found = check(folder, toys, strictest=strictest)
    said = " ".join(reasons(found))
    assert "exit code 1" in said
    assert "there is no network" in said or "Network is unreachable" in said


@pytest.mark.parametrize("place", ['"$1"', '"$here"', '"$HOME"', '"$TMPDIR"', "/tmp", "/", "/dev/shm", '"$here"/good'])
def test_where_the_system_shuts_files_off_writing_fails(fake: Fake, tmp_path: Path, place: str) -> None:
    folder, toys = fake(f"echo x > {place}/mendscan-was-here && exit 7 || exit 0")
    (tmp_path / "room").mkdir()
    if make_room(tmp_path / "room", folder).isolation != "shut":
        pytest.skip("the system lets nobody shut file systems off")
    found = check(folder, toys, strictest="shut")
    assert found.isolation == "shut"
    assert reasons(found) == []


def test_the_folder_must_be_as_it_was_written(fake: Fake) -> None:
    folder, toys = fake()
    (folder / "run_pixel_brain.sh").write_text((folder / "run_pixel_brain.sh").read_text() + "# changed\n")
    (folder / "more").write_text("x")
    (folder / "good" / "sample" / "toy_0.nii.gz.txt").unlink()
    problems = check(folder, toys).problems
    assert set(problems) == {
        "run_pixel_brain.sh is not as in the manifest",
        "more is not in the manifest",
        "good/sample/toy_0.nii.gz.txt is missing",
    }


def test_a_missing_script_fails(fake: Fake) -> None:
    folder, toys = fake()
    (folder / "run_pixel_brain.sh").unlink()
    found = check(folder, toys)
    assert "the script is missing" in reasons(found)


def test_the_command_says_fail_and_why(fake: Fake) -> None:
    folder, toys = fake("exit 9")
    shown = run("mood-check", folder, "-i", toys)
    assert shown.exit_code == 3, shown.output
    assert "FAIL" in shown.output
    assert "exit code 9" in shown.output
    assert "run_sample_brain.sh: PASS" in shown.output


def test_without_labels_there_is_no_figure(fake: Fake) -> None:
    folder, toys = fake()
    shutil.rmtree(toys / "brain" / "toy_label")
    found = check(folder, toys)
    assert found.passed
    assert [script.figure for script in found.scripts] == [None, None]


def test_other_folders_are_refused(fake: Fake, tmp_path: Path) -> None:
    folder, toys = fake()
    with pytest.raises(ResultsError, match="not a submission"):
        check(tmp_path, toys)
    with pytest.raises(ResultsError, match="a folder of their own"):
        check_submission(folder, toys, predictions=toys / "brain" / "toy")
    with pytest.raises(ResultsError, match="no toy cases for brain"):
        check(folder, tmp_path / "nowhere")
    next(folder.glob("*.whl")).unlink()
    (folder / "manifest.json").write_text(json.dumps({"files": digests(folder)}))
    with pytest.raises(ResultsError, match="not one wheel"):
        check(folder, toys)
