import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import prepare
from mendscan.cohort.store import Split
from mendscan.errors import CohortError, ModelError, WriteError
from mendscan.models.folder import LISTED, digest, manifest_text
from mendscan.volumes.reading import read_volume


def model_folder(folder, cohort):
    folder.mkdir()
    config = {"format": 1, "settings": cohort.settings.model_dump(mode="json")}
    contents = {"config.json": json.dumps(config), "split.json": json.dumps(cohort.split.to_json())}
    for name in LISTED:
        (folder / name).write_text(contents.get(name, ""))
    listed = {name: digest((folder / name).read_bytes()) for name in LISTED}
    (folder / "manifest.json").write_text(manifest_text(listed))
    return folder


def test_slices_and_foreground_are_those_of_the_one_recipe(cohort):
    for content in (cohort.split.train[0], cohort.split.calibration[-1]):
        row = cohort.store.rows([content])[0]
        prepared = prepare(read_volume(cohort.files[content]), cohort.settings.preparation)
        np.testing.assert_array_equal(cohort.store.slices_NSHW[row], prepared.slices_SHW.astype(np.float16))
        np.testing.assert_array_equal(cohort.foreground_NSHW[row], prepared.foreground_SHW)


def test_foregrounds_and_slices_share_their_indices(cohort):
    data, foreground = (part(cohort.split.validation) for part in (cohort.slices, cohort.foregrounds))
    chosen = data.spread(8)
    inside_BHW, position_B = foreground.batch(chosen)
    assert len(foreground) == len(data)
    assert (position_B == data.batch(chosen)[1]).all()
    row = cohort.store.rows(cohort.split.validation)[0]
    np.testing.assert_array_equal(inside_BHW[0].numpy(), cohort.foreground_NSHW[row][0])


def test_calibration_scans_are_prepared_in_full_precision(cohort):
    prepared = list(cohort.calibration())
    assert len(prepared) == len(cohort.split.calibration)
    expected = prepare(read_volume(cohort.files[cohort.split.calibration[0]]), cohort.settings.preparation)
    np.testing.assert_array_equal(prepared[0].slices_SHW, expected.slices_SHW)


def test_a_models_cohort_is_the_one_it_was_trained_on(cohort, files, tmp_path):
    model = model_folder(tmp_path / "model", cohort)
    healthy = next(iter(files.values())).parent
    found = HealthyCohort.of_model(model, healthy, tmp_path / "work", device="cpu")
    assert (found.settings, found.split, found.files) == (cohort.settings, cohort.split, cohort.files)
    np.testing.assert_array_equal(found.train_NSHW(), cohort.train_NSHW())


def test_a_missing_scan_is_an_error(cohort, files, tmp_path):
    few = dict(list(files.items())[1:])
    with pytest.raises(CohortError, match="found 15 of 16"):
        HealthyCohort.of_files(few, cohort.settings, cohort.split, tmp_path, device="cpu")


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="not a complete model"):
        HealthyCohort.of_model(tmp_path, tmp_path, tmp_path / "work")


def test_a_model_whose_scans_are_not_known_is_an_error(cohort, tmp_path):
    imported = replace(cohort, split=Split((), (), cohort.split.calibration))
    model = model_folder(tmp_path / "model", imported)
    with pytest.raises(ModelError, match="not known which scans"):
        HealthyCohort.of_model(model, tmp_path, tmp_path / "work")


def test_a_plan_that_was_changed_is_an_error(cohort, tmp_path):
    model = model_folder(tmp_path / "model", cohort)
    split = (model / "split.json").read_text()
    (model / "split.json").write_text(split.replace(cohort.split.train[0], cohort.split.calibration[0]))
    with pytest.raises(ModelError, match=r"split\.json: the file is not the one that was saved"):
        HealthyCohort.of_model(model, tmp_path, tmp_path / "work")


def test_what_is_prepared_already_is_used(cohort, files, tmp_path):
    first = HealthyCohort.of_files(files, cohort.settings, cohort.split, tmp_path, device="cpu")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    HealthyCohort.of_files(files, cohort.settings, cohort.split, tmp_path, device="cpu")
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert len(before) == 3  # slices, their seal, foreground
    assert first.foreground_NSHW.dtype == bool


def test_a_full_disk_is_said_and_leaves_no_part(cohort, files, tmp_path, monkeypatch):
    HealthyCohort.of_files(files, cohort.settings, cohort.split, tmp_path, device="cpu")
    (foreground,) = tmp_path.glob("foreground-*.npy")
    foreground.unlink()
    before = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="No space left on device") as caught:
        HealthyCohort.of_files(files, cohort.settings, cohort.split, tmp_path, device="cpu")
    assert caught.value.code == "E_NO_SPACE"
    assert sorted(tmp_path.iterdir()) == before
