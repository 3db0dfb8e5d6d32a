"""Labelled cohorts: the folder extends MOOD's, and the labels say what was changed."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import structured_scan
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.labelled_cohort import LabelledCohort, write_labelled_cohort
from mendscan.errors import CohortError, SettingsError, WriteError
from mendscan.volumes.reading import case_name

RADIUS_MM = (6.0, 10.0)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Five scans in different axis orders and scales."""
    paths = []
    for k, codes in enumerate(("RAS", "LPS", "SAR", "PIR", "AIL")):
        orientation = nib.orientations.axcodes2ornt(codes)
        image = nib.Nifti1Image(
            structured_scan(k, background=k % 2 == 0) * np.float32(10.0**k), np.diag([2.0, 2.0, 2.5, 1.0])
        )
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), orientation)
        paths.append(tmp_path / f"case{k}.nii.gz")
        nib.save(image.as_reoriented(change), paths[-1])
    return paths


def labelled(sources: list[Path], folder: Path, **options: object) -> LabelledCohort:
    return write_labelled_cohort(
        sources, folder, **{"seed": 1, "anomalous": 3, "radius_mm": RADIUS_MM, "workers": 0, **options}
    )


def test_layout_is_moods(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(sources, tmp_path / "test")
    names = [f"case{k}.nii.gz" for k in range(5)]
    found = sorted(
        str(path.relative_to(tmp_path / "test")) for path in (tmp_path / "test").rglob("*") if path.is_file()
    )
    expected = [f"labels/pixel/{name}" for name in names] + [f"labels/sample/{name}.txt" for name in names]
    expected += [f"labels/lesions/{case}.nii.gz" for case, added in written.anomalies.items() if added]
    assert found == sorted(["anomalies.csv", "cases.csv", *expected, *(f"scans/{name}" for name in names)])
    assert [path.name for path in written.scans] == names
    assert sum(bool(added) for added in written.anomalies.values()) == 3
    assert [(case.name, case.subject) for case in written.cases] == [(f"case{k}", f"case{k}") for k in range(5)]
    assert [case.scope for case in written.cases] == [
        "local" if written.anomalies[f"case{k}"] else "healthy" for k in range(5)
    ]


def test_labels_say_what_was_changed_on_the_scans_own_grid(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(sources, tmp_path / "test")
    for source, path in zip(sources, written.scans, strict=True):
        original, image = nib.load(source), nib.load(path)
        pixel = nib.load(written.folder / "labels" / "pixel" / path.name)
        sample = (written.folder / "labels" / "sample" / f"{path.name}.txt").read_text()
        label, added = np.asarray(pixel.dataobj), written.anomalies[case_name(path)]
        changed = np.asarray(image.dataobj) != np.asarray(original.dataobj)
        assert (image.get_data_dtype(), pixel.get_data_dtype()) == (np.float32, np.uint8)
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-5)
        np.testing.assert_allclose(pixel.affine, original.affine, atol=1e-5)
        assert set(np.unique(label)) <= {0.0, 1.0}
        assert sample == ("1" if added else "0")
        assert label.any() == changed.any() == bool(added)
        assert not (changed & ~ndimage.binary_dilation(label > 0, iterations=6)).any()


def test_anomalies_do_not_overlap(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(sources, tmp_path / "test", anomalous=5, per_scan=(3, 3), radius_mm=(5.0, 7.0))
    for case, added in written.anomalies.items():
        label = np.asarray(nib.load(written.folder / "labels" / "pixel" / f"{case}.nii.gz").dataobj)
        assert len(added) == 3
        assert label.sum() == sum(one.voxels for one in added)


def test_kinds_are_dealt_evenly_and_listed(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(sources, tmp_path / "test", anomalous=5, per_scan=(2, 2), radius_mm=(5.0, 7.0))
    assert sorted(one.kind for added in written.anomalies.values() for one in added) == sorted(KINDS)
    with (written.folder / "anomalies.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 10
    for row in rows:
        assert row["case"] in written.anomalies
        assert int(row["voxels"]) in [one.voxels for one in written.anomalies[row["case"]]]


def test_same_seed_same_files_byte_for_byte(sources: list[Path], tmp_path: Path) -> None:
    first, second = (labelled(sources, tmp_path / name) for name in ("first", "second"))
    files = [path.relative_to(first.folder) for path in first.folder.rglob("*") if path.is_file()]
    assert all((first.folder / file).read_bytes() == (second.folder / file).read_bytes() for file in files)
    other = labelled(sources, tmp_path / "other", seed=2)
    assert other.anomalies != first.anomalies


def test_where_not_all_fit_those_that_do_are_kept(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(sources[:1], tmp_path / "test", anomalous=1, per_scan=(8, 8), radius_mm=(17.0, 20.0))
    assert 1 <= len(written.anomalies["case0"]) < 8


def test_impossible_cohorts_are_refused_before_anything_is_written(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "test"
    for wrong in (
        {"anomalous": 6},
        {"per_scan": (0, 2)},
        {"per_scan": (3, 2)},
        {"per_scan": (1, 101)},
        {"radius_mm": (5.0, math.inf)},
        {"kinds": ()},
        {"kinds": ("odd",)},
    ):
        with pytest.raises(SettingsError):
            labelled(sources, folder, **wrong)
    with pytest.raises(CohortError, match=r"case0\.nii\.gz"):
        labelled([sources[0], sources[0]], folder, anomalous=1)
    assert not folder.exists()


def test_what_is_there_is_not_overwritten_and_other_things_do_not_matter(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unchanged").mkdir()
    labelled(sources, tmp_path / "test", anomalous=1)
    with pytest.raises(WriteError, match=r"anomalies\.csv"):
        labelled(sources, tmp_path / "test", anomalous=1)


def test_where_a_large_one_has_no_room_a_smaller_one_is_taken(sources: list[Path], tmp_path: Path) -> None:
    written = labelled(
        sources[:1], tmp_path / "test", anomalous=1, per_scan=(3, 3), radius_mm=(6.0, 120.0), kinds=("bright",)
    )
    sizes = [one.size for one in written.anomalies["case0"]]
    assert sizes
    assert "large" not in sizes
