"""Pictures of a cohort show it the right way up and say what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cohort.conftest import as_volume, structured_scan, write_scan
from mendscan.cohort.labelled_cohort import LabelledCohort
from mendscan.cohort.preparing import prepare
from mendscan.cohort.suite import write_suite
from mendscan.config import Settings
from mendscan.report.cohort_figures import draw_anomalies, draw_intensities, draw_prepared, draw_scans
from mendscan.results.planes import PLANES


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> LabelledCohort:
    folder = tmp_path_factory.mktemp("sources")
    sources = [write_scan(folder / f"s{k}.nii.gz", structured_scan(k), codes="LPI") for k in range(2)]
    return write_suite(sources, folder / "test", seed=1, healthy=0, per_scan=(2, 2), radius_mm=(4.0, 8.0), workers=0)


def words(figure) -> str:
    return " ".join(text.get_text() for text in [*figure.texts, *(axes.title for axes in figure.axes)])


def test_scans_are_cut_in_the_middle_along_each_axis() -> None:
    scan = as_volume(structured_scan(0), (2.0, 2.5, 4.0))
    figure = draw_scans([scan, scan])
    assert "neurological" in words(figure)
    assert "research use only" in words(figure)
    x, y, z = scan.voxels_XYZ[20], scan.voxels_XYZ[:, 22], scan.voxels_XYZ[:, :, 18]
    for row, (expected, aspect) in enumerate(((x, 4.0 / 2.5), (y, 4.0 / 2.0), (z, 2.5 / 2.0))):
        axes = figure.axes[2 * row]
        np.testing.assert_array_equal(axes.images[0].get_array(), expected.T)
        assert axes.images[0].origin == "lower"
        assert axes.get_aspect() == pytest.approx(aspect)
        assert [text.get_text() for text in axes.texts] == list(PLANES["XYZ"[row]][1:])


def test_prepared_slices_are_below_their_scans(tiny_settings: Settings) -> None:
    scan = as_volume(structured_scan(1))
    prepared = prepare(scan, tiny_settings.preparation)
    figure = draw_prepared([scan], [prepared])
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), prepared.slices_SHW[4].T)
    shown = figure.axes[0].images[0].get_array()
    index = round(4 * prepared.grid.scale[2] + prepared.grid.offset[2])
    np.testing.assert_array_equal(shown, scan.voxels_XYZ[:, :, index].T)
    assert f"slice {index}" in words(figure)


def test_intensities_leave_out_the_background(tiny_settings: Settings) -> None:
    scans = [as_volume(structured_scan(k) * 10.0**k) for k in range(2)]
    figure = draw_intensities(scans, [prepare(scan, tiny_settings.preparation) for scan in scans])
    stored, ready = figure.axes
    assert stored.get_xscale() == "log"
    assert len(stored.patches) == len(ready.patches) == 2
    assert stored.patches[0].get_path().vertices[:, 0].min() > 0


def test_every_anomaly_is_outlined_but_artefacts_of_the_whole_scan(cohort: LabelledCohort, tmp_path: Path) -> None:
    every = [(case, one) for case, added in cohort.anomalies.items() for one in added]
    figure = draw_anomalies(cohort, columns=3)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == len(every) == 6
    for axes, (case, one) in zip(shown, every, strict=True):
        assert axes.get_title().startswith(f"{case}\n{one.kind}\n{one.contrast}")
        assert bool(axes.collections) == (one.scope == "local")
        if one.centre_index is not None:
            outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
            low, high = outline.min(axis=0), outline.max(axis=0)
            assert (low <= np.array(one.centre_index[:2]) + 2).all()
            assert (high >= np.array(one.centre_index[:2]) - 2).all()
    figure.savefig(tmp_path / "anomalies.png")
