"""A whole benchmark of phantoms in a few steps: what is compared, what is written, and that it goes on where it was."""

import gzip
import json
import re
from pathlib import Path

import pytest

from leaks import contents, dated, hits
from mendscan.benchmark import methods
from mendscan.benchmark.methods import OWN, PAPER
from mendscan.benchmark.running import _different_scans, _split, run_benchmark
from mendscan.detection.batch_work import BatchSummary
from mendscan.errors import CohortError, Interrupted, ResultsError, SettingsError, WriteError
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from training.conftest import SMALL, write_phantoms
from volumes.dicom_files import some_voxels, write_series

METHODS = [OWN, PAPER, "atlas", "atlas-standardised", "vae", "vae-standardised"]
SCANS, HELD_OUT = 15, 3


class Told:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None: ...

    def advance(self, units: int = 1, **facts: float) -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)


def run(folder: Path, healthy: Path, told: Told | None = None, **changed: object):
    options = {
        "steps": 4,
        "baselines": ("atlas", "vae"),
        "device": "cpu",
        "assignments": SMALL,
        "resamples": 40,
        **changed,
    }
    return run_benchmark(healthy, folder, progress=told, **options)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, SCANS, seed=3)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, healthy: Path):
    """A benchmark that was stopped once, before its last baseline, and went on."""
    folder = tmp_path_factory.mktemp("benchmark")
    fit, stopped = methods.fit_baseline, []

    def stop_at_vae(name, *rest):
        if name == "vae" and not stopped:
            stopped.append(name)
            raise Interrupted("stopped at step 1", remedy="go on with --resume")
        return fit(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "fit_baseline", stop_at_vae)
        with pytest.raises(Interrupted, match="same command") as error:
            run(folder, healthy)
        assert "resume" not in str(error.value)
        before = (folder / "model" / "manifest.json").stat().st_mtime_ns
        told = Told()
        evaluations = run(folder, healthy, told)
    assert (folder / "model" / "manifest.json").stat().st_mtime_ns == before
    return folder, evaluations, told.said


def test_every_method_is_evaluated_on_the_same_cases(finished) -> None:
    _, evaluations, _ = finished
    assert list(evaluations) == METHODS
    cases = [case.name for case in evaluations[OWN].cases]
    assert len(cases) == 3 * HELD_OUT
    for evaluation in evaluations.values():
        assert [case.name for case in evaluation.cases] == cases
        assert evaluation.counts["counted_as_zeros"] == 0
        assert evaluation["voxel_ap"] is not None
        assert evaluation["sample_auroc"] is not None


def test_what_was_done_is_not_done_again(finished) -> None:
    said = finished[2]
    assert any(line.startswith("done before: train mendscan") for line in said)
    assert any(re.fullmatch(r"step \d+: fit vae", line) for line in said)
    assert not any(re.fullmatch(r"step \d+: (train mendscan|fit atlas)", line) for line in said)


def test_no_file_says_where_or_when_it_was_written(finished, healthy) -> None:
    folder, written_after = finished[0], healthy.stat().st_mtime
    written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 50
    places = tuple(str(place).lower().encode() for place in (folder, healthy))
    assert [path for path in written if hits(contents(path), places)] == []
    assert dated(written, written_after) == {}


def test_no_method_has_seen_a_test_scan(finished) -> None:
    folder = finished[0]
    split = json.loads((folder / "model" / "split.json").read_text())
    learnt_from = {content for part in split.values() for content in part}
    kept_apart = {read_volume(path).content_hash for path in find_scans(folder / "held-out")}
    assert len(learnt_from) == SCANS - HELD_OUT
    assert len(kept_apart) == HELD_OUT
    assert not learnt_from & kept_apart
    subjects = {name.rsplit("_", 1)[0] for name in (path.name for path in find_scans(folder / "test" / "scans"))}
    assert subjects == {path.name.removesuffix(".nii.gz") for path in find_scans(folder / "held-out")}


def test_own_and_paper_are_one_model_read_in_two_ways(finished) -> None:
    folder, evaluations, _ = finished
    own, paper = evaluations[OWN], evaluations[PAPER]
    assert [case.score for case in own.cases] != [case.score for case in paper.cases]
    assert own["voxel_auroc"] != paper["voxel_auroc"]
    models = {json.loads((folder / "results" / name / "results.json").read_text())["model"] for name in (OWN, PAPER)}
    assert len(models) == 1


def test_the_page_says_everything_and_needs_nothing_else(finished) -> None:
    folder, evaluations, _ = finished
    text, page = (folder / "README.md").read_text(), (folder / "index.html").read_text()
    for name in ("comparison", "strata", "gallery"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == text.count(".png)") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)
    for evaluation in evaluations.values():
        assert f"{evaluation['voxel_ap']:.3f} [" in text
    for words in ("4 steps", f"{HELD_OUT} scans were kept apart", "not a medical device", "place "):
        assert words in text
    for row in (line for line in text.splitlines() if line.startswith("| ")):
        assert "nan" not in row
    for method in METHODS:
        assert (folder / "evaluations" / method / "evaluation.json").is_file()


def test_a_finished_benchmark_takes_only_its_evaluation_again(finished, healthy: Path) -> None:
    folder, evaluations, _ = finished
    told = Told()
    again = run(folder, healthy, told)
    assert not [line for line in told.said if line.startswith("step ")]
    assert again[OWN].figures == evaluations[OWN].figures


@pytest.mark.parametrize("changed", [{"steps": 5}, {"seed": 1}, {"radius_mm": (3.0, 4.0)}, {"assignments": ()}])
def test_the_folder_of_another_benchmark_is_refused(finished, healthy: Path, changed: dict[str, object]) -> None:
    before = (finished[0] / "journal.json").read_bytes()
    name = next(iter(changed)).replace("assignments", "set")
    with pytest.raises(ResultsError, match=rf"found {name} changed"):
        run(finished[0], healthy, **changed)
    assert (finished[0] / "journal.json").read_bytes() == before


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path, healthy: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown baseline.*atlass"):
        run(tmp_path / "out", healthy, baselines=("atlass",))
    with pytest.raises(SettingsError, match="minutes or steps"):
        run(tmp_path / "out", healthy, minutes=1.0)
    assert not (tmp_path / "out").exists()


def test_too_few_scans_are_refused(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", 6, seed=4)
    with pytest.raises(CohortError, match=r"too few scans.*6.*at least 10"):
        run(tmp_path / "out", tmp_path / "few")


def test_a_series_is_kept_apart_as_a_file(tmp_path: Path) -> None:
    for n in range(8):
        write_series(tmp_path / "scans" / f"P{n}", some_voxels() + n)
    write_series(tmp_path / "scans" / "P8", some_voxels() + 8)
    write_series(tmp_path / "scans" / "P8", some_voxels() + 9, number=4, name="b{index}")
    found = find_scans(tmp_path / "scans")
    _split(found, tmp_path / "bench")
    written = [path for part in ("held-out", "healthy") for path in find_scans(tmp_path / "bench" / part)]
    assert len(written) == 10
    assert {read_volume(path).content_hash for path in written} == {read_volume(path).content_hash for path in found}


def test_the_users_scans_are_never_overwritten(tmp_path: Path) -> None:
    """`mendscan demo` writes DEMO/healthy, and a benchmark of it into DEMO would link those scans to themselves."""
    for name in ("healthy", "data/held-out"):
        write_phantoms(tmp_path / name, 10, seed=5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    with pytest.raises(SettingsError, match="would overwrite the inputs"):
        run(tmp_path, tmp_path / "healthy")
    with pytest.raises(SettingsError, match="among the inputs"):
        run(tmp_path / "healthy" / "out", tmp_path / "healthy")
    with pytest.raises(WriteError, match=r"holds files already.*held-out"):
        run(tmp_path / "data", tmp_path / "healthy")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")} == before


def test_a_scan_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    """Its copy could be learnt from while it is kept apart."""
    paths = write_phantoms(tmp_path, 3, seed=6)
    copy = tmp_path / "copy.nii"
    copy.write_bytes(gzip.decompress(paths[1].read_bytes()))
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    told = Told()
    scans, digest = _different_scans([*paths, copy, tmp_path / "broken.nii"], told)
    assert scans == paths
    assert digest == _different_scans(paths[::-1], told)[1]
    left_out = [line for line in told.said if line.startswith("left out:")]
    assert ["broken.nii" in left_out[0], "copy.nii" in left_out[1]] == [True, True]


def test_other_scans_of_the_same_names_are_another_benchmark(finished, healthy: Path, tmp_path: Path) -> None:
    for path in find_scans(healthy):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_phantoms(tmp_path, 1, seed=99)
    with pytest.raises(ResultsError, match="found contents changed"):
        run(finished[0], tmp_path)


def test_a_scan_that_failed_is_no_result() -> None:
    summary = BatchSummary(({"case": "a", "status": "ok"}, {"case": "b", "status": "failed"}), 1)
    with pytest.raises(ResultsError, match=r"would count as zeros \(found b\)"):
        methods._refuse_failures(summary, Path("results"))
