"""The anomaly suite: the layout is the contract, the strata are balanced, and training never sees any of it."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort.conftest import Listener, structured_scan, write_scan
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.anomaly_strata import CONTRASTS, SIZES
from mendscan.cohort.artefacts import ARTEFACTS
from mendscan.cohort.labelled_cohort import LabelledCohort
from mendscan.cohort.selection_kinds import SELECTION_KINDS
from mendscan.cohort.suite import write_suite
from mendscan.errors import CohortError, ScanError, SettingsError, UnreadableScanError, WriteError

SOURCE = Path(__file__).parents[2] / "src" / "mendscan"
RADIUS_MM = (4.0, 8.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    return [
        write_scan(
            folder / f"s{k}.nii.gz", structured_scan(k, background=k % 2 == 0), codes=("RAS", "LPI", "SAR")[k % 3]
        )
        for k in range(6)
    ]


@pytest.fixture(scope="module")
def written(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> LabelledCohort:
    folder = tmp_path_factory.mktemp("suite") / "new"
    return write_suite(sources, folder, seed=3, healthy=3, per_scan=(5, 5), radius_mm=RADIUS_MM, workers=0)


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open() as opened:
        return list(csv.DictReader(opened))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def voxels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


# Layout


def test_layout_is_the_contract(written: LabelledCohort) -> None:
    by_scope = {
        scope: [case.name for case in written.cases if case.scope == scope] for scope in ("local", "healthy", "scan")
    }
    assert {scope: len(cases) for scope, cases in by_scope.items()} == {"local": 6, "healthy": 3, "scan": 6}
    names = [case.name for case in written.cases]
    expected = {"anomalies.csv", "cases.csv", *(f"scans/{name}.nii.gz" for name in names)}
    expected |= {f"labels/sample/{name}.nii.gz.txt" for name in names}
    expected |= {f"labels/pixel/{name}.nii.gz" for scope in ("local", "healthy") for name in by_scope[scope]}
    expected |= {f"labels/lesions/{name}.nii.gz" for name in by_scope["local"]}
    assert set(files_of(written.folder)) == expected
    assert [path.name for path in written.scans] == [f"{name}.nii.gz" for name in names]


def test_cases_name_their_subject_and_scope(written: LabelledCohort) -> None:
    rows = table(written.folder, "cases.csv")
    assert list(rows[0]) == ["case", "subject", "scope", "anomalous"]
    suffixes = {"local": "local", "healthy": "healthy", "scan": "artefact"}
    for row in rows:
        assert row["case"] == f"{row['subject']}_{suffixes[row['scope']]}"
        assert row["anomalous"] == ("0" if row["scope"] == "healthy" else "1")
        sample = written.folder / "labels" / "sample" / f"{row['case']}.nii.gz.txt"
        assert sample.read_text() == row["anomalous"]
    assert Counter(row["subject"] for row in rows).most_common(1)[0][1] == 3


def test_table_of_anomalies_and_lesion_numbers_agree(written: LabelledCohort) -> None:
    rows = table(written.folder, "anomalies.csv")
    place = ["x_mm", "y_mm", "z_mm", "x_index", "y_index", "z_index", "radius_mm", "voxels", "size"]
    assert list(rows[0]) == ["case", "lesion", "scope", "kind", *place, "strength", "contrast"]
    local = [row for row in rows if row["scope"] == "local"]
    for case in {row["case"] for row in local}:
        pixel = voxels_of(written.folder / "labels" / "pixel" / f"{case}.nii.gz")
        lesions = voxels_of(written.folder / "labels" / "lesions" / f"{case}.nii.gz")
        np.testing.assert_array_equal(pixel == 1, lesions > 0)
        own = [row for row in local if row["case"] == case]
        assert [int(row["lesion"]) for row in own] == list(range(1, len(own) + 1))
        assert {k: n for k, n in enumerate(np.bincount(lesions.ravel().astype(int))) if k} == {
            int(row["lesion"]): int(row["voxels"]) for row in own
        }
        affine = nib.load(written.folder / "labels" / "lesions" / f"{case}.nii.gz").affine
        for row in own:
            places = np.argwhere(lesions == int(row["lesion"])) @ affine[:3, :3].T + affine[:3, 3]
            centre_mm = [float(row[f"{axis}_mm"]) for axis in "xyz"]
            assert np.linalg.norm(places.mean(axis=0) - centre_mm) < float(row["radius_mm"])
            assert row["kind"] in KINDS
            assert row["size"] in SIZES
            assert row["contrast"] in CONTRASTS


def test_whole_scan_rows_have_no_place(written: LabelledCohort) -> None:
    rows = [row for row in table(written.folder, "anomalies.csv") if row["scope"] == "scan"]
    assert len(rows) == 6
    for row in rows:
        empty = ("lesion", "x_mm", "y_mm", "z_mm", "x_index", "y_index", "z_index", "radius_mm", "voxels", "size")
        assert {row[column] for column in empty} == {""}
        assert row["kind"] in ARTEFACTS
        assert row["contrast"] in CONTRASTS
        assert float(row["strength"]) > 0


def test_scans_differ_from_their_source_as_the_labels_say(sources: list[Path], written: LabelledCohort) -> None:
    source_of = dict(zip((f"s{k}" for k in range(6)), sources, strict=True))
    for case, path in zip(written.cases, written.scans, strict=True):
        source = nib.load(source_of[case.subject])
        changed = voxels_of(path) != np.asarray(source.dataobj)
        np.testing.assert_allclose(nib.load(path).affine, source.affine, atol=1e-5)
        assert changed.any() == (case.scope != "healthy")
        if case.scope == "healthy":
            assert not voxels_of(written.folder / "labels" / "pixel" / path.name).any()
        if case.scope == "local":
            pixel = voxels_of(written.folder / "labels" / "pixel" / path.name) > 0
            assert changed[pixel].mean() > 0.7
            assert changed[~pixel].mean() < 0.3


# Balance


def test_kinds_sizes_and_contrasts_are_balanced(sources: list[Path], written: LabelledCohort) -> None:
    rows = [row for row in table(written.folder, "anomalies.csv") if row["scope"] == "local"]
    assert len(rows) == 30
    assert set(Counter(row["kind"] for row in rows).values()) == {3}
    assert set(Counter((row["kind"], row["size"]) for row in rows).values()) == {1}
    artefacts = [one[0] for case in written.cases if case.scope == "scan" for one in [written.anomalies[case.name]]]
    assert max(Counter(one.kind for one in artefacts).values()) == 1
    assert set(Counter(one.contrast for one in artefacts)) == {"faint", "medium", "plain"}
    assert max(Counter(one.contrast for one in artefacts).values()) <= 3


def test_settings_are_chosen_on_the_other_family(sources: list[Path], tmp_path: Path) -> None:
    chosen = write_suite(
        sources, tmp_path / "new", seed=0, local=2, healthy=0, artefacts=0, kinds=tuple(SELECTION_KINDS),
        per_scan=(3, 3), radius_mm=RADIUS_MM, workers=0,
    )  # fmt: skip
    kinds = [one.kind for added in chosen.anomalies.values() for one in added]
    assert sorted(kinds) == sorted(SELECTION_KINDS)


def test_foreign_patches_come_from_another_scan(tmp_path: Path) -> None:
    # The other scan is a chequerboard: whoever takes a patch from it takes its pattern.
    rng = np.random.default_rng(0)
    smooth = structured_scan(0, background=False)
    board = (np.indices(smooth.shape).sum(axis=0) % 2 * 50.0 + rng.standard_normal(smooth.shape)).astype(np.float32)
    paths = [write_scan(tmp_path / "a.nii.gz", smooth), write_scan(tmp_path / "b.nii.gz", board)]
    for kind, from_other in (("foreign", False), ("foreign-other", True)):
        out = write_suite(
            paths, tmp_path / kind, seed=1, healthy=0, artefacts=0, kinds=(kind,), per_scan=(1, 1),
            radius_mm=RADIUS_MM, workers=0,
        )  # fmt: skip
        label = voxels_of(out.folder / "labels" / "pixel" / "a_local.nii.gz") > 0
        altered = voxels_of(out.folder / "scans" / "a_local.nii.gz")
        flicker = [np.abs(np.diff(v, axis=0))[label[1:] & label[:-1]].mean() for v in (altered, smooth)]
        assert (flicker[0] > 2.0 * flicker[1]) == from_other


# Same seed, same bytes


def test_the_number_of_workers_does_not_matter(sources: list[Path], tmp_path: Path) -> None:
    options = {"seed": 5, "per_scan": (1, 2), "radius_mm": RADIUS_MM}
    told = Listener()
    first = write_suite(sources[:3], tmp_path / "one", workers=1, progress=told, **options)
    second = write_suite(sources[:3], tmp_path / "two", workers=2, **options)
    assert files_of(first.folder) == files_of(second.folder)
    assert first.anomalies == second.anomalies
    assert told.stages == [("simulate", 9)]
    assert told.units == 9
    other = write_suite(sources[:3], tmp_path / "other", workers=0, **(options | {"seed": 6}))
    assert files_of(other.folder) != files_of(first.folder)


def test_fewer_healthy_cases_leave_the_others_as_they_are(sources: list[Path], tmp_path: Path) -> None:
    options = {"seed": 5, "per_scan": (1, 1), "radius_mm": RADIUS_MM, "workers": 0}
    all_of_them = files_of(write_suite(sources[:3], tmp_path / "all", **options).folder)
    fewer = files_of(write_suite(sources[:3], tmp_path / "fewer", healthy=0, **options).folder)
    assert {n: b for n, b in all_of_them.items() if "_healthy" not in n and n != "cases.csv"} == {
        n: b for n, b in fewer.items() if n != "cases.csv"
    }


def test_radii_come_from_each_scan_when_none_are_given(sources: list[Path], tmp_path: Path) -> None:
    out = write_suite(sources[1:4:2], tmp_path / "new", seed=0, healthy=0, artefacts=0, workers=0)
    # 40 x 44 x 36 voxels of 2, 2 and 2.5 mm without background: the shortest side is 80 mm.
    radii = [one.radius_mm for added in out.anomalies.values() for one in added]
    assert 6.8 <= min(radii) <= max(radii) <= 16.0


# Refusals


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kinds": ("brigth",)}, "bright, dark"),
        ({"kinds": ()}, "none"),
        ({"artefact_kinds": ("nois",)}, "noise, ghosting"),
        ({"local": 7}, "local"),
        ({"healthy": -1}, "healthy"),
        ({"artefacts": 7}, "artefacts"),
        ({"local": 0, "healthy": 0, "artefacts": 0}, "no case"),
        ({"per_scan": (0, 2)}, "per_scan"),
        ({"radius_mm": (5.0, 4.0)}, "radius_mm"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_suites_are_refused_before_anything_is_written(
    sources: list[Path], tmp_path: Path, wrong: dict, named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        write_suite(sources, tmp_path / "new", **({"seed": 0} | wrong))
    assert not (tmp_path / "new").exists()


def test_two_scans_of_one_name_and_no_scan_are_refused(sources: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"s0\.nii\.gz"):
        write_suite([sources[0], sources[0]], tmp_path / "new", seed=0)
    with pytest.raises(CohortError, match="no scans"):
        write_suite([], tmp_path / "new", seed=0)


def test_a_folder_that_holds_files_is_left_alone(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"notes\.txt"):
        write_suite(sources, tmp_path, seed=0)
    with pytest.raises(WriteError, match="cannot be made"):
        write_suite(sources, tmp_path / "notes.txt", seed=0)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_scan_is_named(sources: list[Path], tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    with pytest.raises(UnreadableScanError, match=r"broken\.nii\.gz"):
        write_suite([sources[0], tmp_path / "broken.nii.gz"], tmp_path / "new", seed=0, workers=workers)
    assert files_of(tmp_path / "new") == {}
    # Without the broken scan the same folder can be used.
    assert write_suite(sources[:1], tmp_path / "new", seed=0, healthy=0, artefacts=0, workers=0).scans


def test_a_scan_without_room_is_named(sources: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"s0\.nii\.gz.*no room"):
        write_suite(sources[:1], tmp_path / "new", seed=0, radius_mm=(80.0, 90.0), workers=0)


# What trains never imports what is for evaluation only.


FOR_EVALUATION_ONLY = ("anomal", "artefacts", "kspace_artefacts", "selection_", "suite", "labelled_")
THE_ONE_WAY = {
    "mendscan.cohort.selection_cases",
    "mendscan.cohort.selection_cases.with_selection_anomalies",
}  # of kinds that are never reported, and only to choose between a few settings
BLIND_ROOMS = ("training", "models", "detection", "baselines")


def imported_modules(source: str) -> set[str]:
    """Every module that a source may import, `from package import module` and imports in functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def seen_too_much(source: str) -> set[str]:
    return {
        name
        for name in imported_modules(source)
        if any(part.startswith(FOR_EVALUATION_ONLY) for part in name.split("."))
    }


def test_the_guard_sees_every_way_to_import() -> None:
    for line in (
        "from mendscan.cohort.anomaly_kinds import KINDS",
        "from mendscan.cohort import suite",
        "import mendscan.cohort.artefacts",
        "def f():\n    from mendscan.cohort.selection_kinds import SELECTION_KINDS",
    ):
        assert seen_too_much(line), line
    assert not seen_too_much("from mendscan.cohort.foreground import foreground_of")


def test_what_trains_never_imports_anomalies() -> None:
    modules = [path for room in BLIND_ROOMS for path in sorted((SOURCE / room).rglob("*.py"))]
    modules += [SOURCE / "cohort" / f"{name}.py" for name in ("augmentation", "planning", "preparing", "store")]
    assert len(modules) > 20
    seen = {path.name: names for path in modules if (names := seen_too_much(path.read_text(encoding="utf-8")))}
    assert seen.pop("choosing.py") == THE_ONE_WAY
    assert seen == {}
