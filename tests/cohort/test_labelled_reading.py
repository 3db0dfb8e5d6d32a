"""What was written of a labelled cohort is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cohort.conftest import structured_scan, write_scan
from mendscan.cohort.anomalies import Anomaly
from mendscan.cohort.labelled_cohort import LabelledCohort
from mendscan.cohort.labelled_reading import read_labelled_cohort
from mendscan.cohort.suite import write_suite
from mendscan.errors import ResultsError, SettingsError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> LabelledCohort:
    folder = tmp_path_factory.mktemp("sources")
    sources = [write_scan(folder / f"s{k}.nii.gz", structured_scan(k)) for k in range(3)]
    return write_suite(sources, folder / "test", seed=1, per_scan=(1, 3), radius_mm=(4.0, 8.0), workers=0)


def rounded(one: Anomaly) -> Anomaly:
    one = replace(one, strength=round(one.strength, 3))
    if one.centre_mm is None or one.radius_mm is None:
        return one
    x, y, z = (round(mm, 2) for mm in one.centre_mm)
    return replace(one, centre_mm=(x, y, z), radius_mm=round(one.radius_mm, 2))


def test_it_is_the_cohort_that_was_written(written: LabelledCohort) -> None:
    found = read_labelled_cohort(str(written.folder))
    assert found.cases == written.cases
    assert found.scans == written.scans
    assert dict(found.anomalies) == {case: tuple(map(rounded, added)) for case, added in written.anomalies.items()}
    assert {one.scope for added in found.anomalies.values() for one in added} == {"local", "scan"}


def test_the_strongest_is_a_local_one(written: LabelledCohort) -> None:
    local = [one for added in written.anomalies.values() for one in added if one.scope == "local"]
    case, strongest = written.strongest()
    assert strongest.strength == max(one.strength for one in local)
    assert strongest in written.anomalies[case]
    weakest = min(local, key=lambda one: one.strength)
    assert written.strongest(weakest.kind)[1].kind == weakest.kind
    with pytest.raises(SettingsError, match=weakest.kind):
        written.strongest("nois")


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("cases.csv", "local", "locl", "no such scope"),
        ("cases.csv", "s0_local", "s9_local", "no case|scan is missing"),
        ("anomalies.csv", "s0_local,1,", "s9_local,1,", "anomaly of no case"),
        ("anomalies.csv", "radius_mm", "radius", "radius_mm"),
    ],
)
def test_damaged_tables_are_refused(
    written: LabelledCohort, tmp_path: Path, table: str, old: str, new: str, words: str
) -> None:
    for name in ("cases.csv", "anomalies.csv"):
        text = (written.folder / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new) if name == table else text)
    (tmp_path / "scans").symlink_to(written.folder / "scans")
    with pytest.raises(ResultsError, match=words):
        read_labelled_cohort(tmp_path)


def test_a_figure_that_is_no_number_is_refused(written: LabelledCohort, tmp_path: Path) -> None:
    strength = f",{round(written.strongest()[1].strength, 3)},"
    (tmp_path / "cases.csv").write_text((written.folder / "cases.csv").read_text())
    (tmp_path / "anomalies.csv").write_text(
        (written.folder / "anomalies.csv").read_text().replace(strength, ",strong,")
    )
    with pytest.raises(ResultsError, match="anomaly cannot be read"):
        read_labelled_cohort(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"cases\.csv"):
        read_labelled_cohort(tmp_path)
