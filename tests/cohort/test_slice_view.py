"""Slices as on a screen: right to the right, front or top above; and the way home from there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cohort.conftest import as_volume, structured_scan
from mendscan.cohort.preparing import prepare
from mendscan.config import PRESETS, PreparationSettings, Settings, override
from mendscan.training.stages import SliceData
from mendscan.volumes import Volume

SHAPE = (24, 20, 16)


def recipe(axis: str, view: str) -> PreparationSettings:
    values = {"shape_XYZ": SHAPE, "fit": "resize", "intensity": "robust", "slice_axis": axis, "slice_view": view}
    return PreparationSettings.model_validate(values)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return as_volume(structured_scan())


@pytest.mark.parametrize(("axis", "across", "up"), [("Z", 0, 1), ("Y", 0, 2), ("X", 1, 2)])
def test_rows_run_down_the_second_axis_and_columns_along_the_first(axis, across, up, volume: Volume) -> None:
    image, array = (prepare(volume, recipe(axis, view)) for view in ("image", "array"))
    assert image.slices_SHW.shape == (SHAPE["XYZ".index(axis)], SHAPE[up], SHAPE[across])
    assert image.slices_SHW.flags.c_contiguous
    for k in range(len(array.slices_SHW)):
        shown = np.rot90(array.slices_SHW[k])  # a quarter turn puts the first axis across and the second upwards
        assert np.array_equal(image.slices_SHW[k], shown)
        assert np.array_equal(image.foreground_SHW[k], np.rot90(array.foreground_SHW[k]))


@pytest.mark.parametrize("axis", "XYZ")
@pytest.mark.parametrize("every", [1, 3])
def test_both_views_come_home_alike(axis: str, every: int, volume: Volume) -> None:
    home = []
    for view in ("image", "array"):
        prepared = prepare(volume, recipe(axis, view))
        at = np.arange(0, len(prepared.slices_SHW), every)
        home.append(prepared.to_scan(prepared.slices_SHW[at], at=at))
        changed = prepared.restored_scan(volume, prepared.slices_SHW[at], at=at)
        assert np.array_equal(changed, volume.voxels_XYZ)
    assert np.array_equal(*home)
    assert home[0].shape == volume.shape


@pytest.mark.parametrize(("axis", "flip"), [("X", None), ("Y", 2), ("Z", 2)])
def test_settings_know_the_shape_and_where_right_and_left_are(axis: str, flip: int | None) -> None:
    settings = override(
        PRESETS["abdomen"],
        ["preparation.shape_XYZ=32,64,96", f"preparation.slice_axis={axis}", "preparation.slice_view=image"],
    )
    others = [n for n, name in zip((32, 64, 96), "XYZ", strict=True) if name != axis]
    assert settings.slice_shape == tuple(reversed(others))
    assert settings.latent_shape == tuple(n // 16 for n in reversed(others))
    assert slice_data(settings)._flip_axis == flip
    assert settings.preparation.axes_SHW == axis + "".join(name for name in "ZYX" if name != axis)


def slice_data(settings: Settings) -> SliceData:
    empty = np.zeros((1, *settings.shape_SHW), np.float16)
    return SliceData(empty, (0,), (0,), settings, torch.device("cpu"))
