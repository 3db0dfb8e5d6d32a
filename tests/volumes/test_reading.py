"""Reading: good files of every kind, and one code for each kind of bad one."""

from __future__ import annotations

import gzip
import logging
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import GeometryError, IntensityError, MendscanError, UnreadableScanError
from mendscan.volumes import read_volume

SHAPE = (8, 9, 10)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 1.5, 0, -8], [0, 0, 3, 7], [0, 0, 0, 1]])
DIM, DATATYPE, PIXDIM, OFFSET, SLOPE, INTER = 40, 70, 76, 108, 112, 116
XYZT_UNITS, QFORM_CODE, SFORM_CODE, QUATERN_B, SROW_X = 123, 252, 254, 256, 280


def voxels_of(dtype: type = np.int16, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def nifti(voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> bytes:
    return nib.Nifti1Image(voxels_of() if voxels is None else voxels, affine).to_bytes()


def patched(offset: int, layout: str, *values: float, base: bytes | None = None) -> bytes:
    data = bytearray(base or nifti())
    struct.pack_into("<" + layout, data, offset, *values)
    return bytes(data)


def without_sform(data: bytes) -> bytes:
    return patched(SFORM_CODE, "h", 0, base=data)


def with_voxel(value: float) -> bytes:
    voxels = voxels_of(np.float32)
    voxels[1, 2, 3] = voxels[4, 4, 4] = value
    return nifti(voxels)


def coloured() -> bytes:
    return nifti(np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def flipped_byte(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


GZIPPED = gzip.compress(nifti(), mtime=0)
WEB_PAGE = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20
FOUR_DIMENSIONAL = nifti(np.stack([voxels_of()] * 3, axis=-1))
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

BROKEN_FILES = {
    # content, error, code
    "empty.nii": (b"", UnreadableScanError, "E_EMPTY"),
    "empty.nii.gz": (b"", UnreadableScanError, "E_EMPTY"),
    "empty_inside.nii.gz": (gzip.compress(b""), UnreadableScanError, "E_NOT_NIFTI"),
    "web_page.nii.gz": (WEB_PAGE, UnreadableScanError, "E_NOT_NIFTI"),
    "text.nii": (b"These are not the voxels you are looking for.", UnreadableScanError, "E_NOT_NIFTI"),
    "lfs_pointer.nii.gz": (LFS_POINTER, UnreadableScanError, "E_NOT_NIFTI"),
    "dicom.nii": (bytes(128) + b"DICM" + bytes(1000), UnreadableScanError, "E_CORRUPT"),
    "half_of_a_pair.nii": (patched(344, "4s", b"ni1\0"), UnreadableScanError, "E_NOT_NIFTI"),
    "analyze.nii": (patched(344, "4s", bytes(4)), UnreadableScanError, "E_NOT_NIFTI"),
    "cut_header.nii": (nifti()[:200], UnreadableScanError, "E_TRUNCATED"),
    "cut_after_header.nii": (nifti()[:352], UnreadableScanError, "E_TRUNCATED"),
    "cut.nii": (nifti()[:-1], UnreadableScanError, "E_TRUNCATED"),
    "cut.nii.gz": (GZIPPED[:-200], UnreadableScanError, "E_TRUNCATED"),
    "cut_trailer.nii.gz": (GZIPPED[:-5], UnreadableScanError, "E_TRUNCATED"),
    "cut_inside.nii.gz": (gzip.compress(nifti()[:-1]), UnreadableScanError, "E_TRUNCATED"),
    "flipped_late.nii.gz": (flipped_byte(GZIPPED, len(GZIPPED) - 100), UnreadableScanError, "E_CORRUPT"),
    "wrong_checksum.nii.gz": (flipped_byte(GZIPPED, len(GZIPPED) - 8), UnreadableScanError, "E_CORRUPT"),
    "wrong_length.nii.gz": (flipped_byte(GZIPPED, len(GZIPPED) - 1), UnreadableScanError, "E_CORRUPT"),
    "endless.nii.gz": (gzip.compress(nifti() + bytes(2**25)), UnreadableScanError, "E_TOO_LARGE"),
    "colour.nii": (coloured(), IntensityError, "E_COLOUR"),
    "complex.nii": (nifti(voxels_of(np.complex64)), IntensityError, "E_COMPLEX"),
    "unknown_type.nii": (patched(DATATYPE, "h", 999), UnreadableScanError, "E_DATATYPE"),
    "several_volumes.nii": (FOUR_DIMENSIONAL, GeometryError, "E_DIMENSIONS"),
    "vectors.nii": (nifti(voxels_of(shape=(8, 9, 10, 1, 3))), GeometryError, "E_DIMENSIONS"),
    "flat.nii": (nifti(voxels_of(shape=(20, 30))), GeometryError, "E_DIMENSIONS"),
    "one_slice.nii": (nifti(voxels_of(shape=(20, 30, 1))), GeometryError, "E_DIMENSIONS"),
    "three_slices.nii": (nifti(voxels_of(shape=(20, 30, 3))), GeometryError, "E_DIMENSIONS"),
    "no_dimension.nii": (patched(DIM, "h", 0), GeometryError, "E_DIMENSIONS"),
    "nine_dimensions.nii": (patched(DIM, "h", 9), GeometryError, "E_DIMENSIONS"),
    "zero_axis.nii": (patched(DIM + 2, "h", 0), GeometryError, "E_DIMENSIONS"),
    "negative_axis.nii": (patched(DIM + 4, "h", -9), GeometryError, "E_DIMENSIONS"),
    "huge.nii": (patched(DIM, "4h", 3, 32767, 32767, 32767), UnreadableScanError, "E_TOO_LARGE"),
    "huge.nii.gz": (
        gzip.compress(patched(DIM, "4h", 3, 32767, 32767, 32767)),
        UnreadableScanError,
        "E_TOO_LARGE",
    ),
    "promises_much.nii.gz": (
        gzip.compress(patched(DIM, "4h", 3, 900, 900, 900)),
        UnreadableScanError,
        "E_TRUNCATED",
    ),
    "offset_nan.nii": (patched(OFFSET, "f", np.nan), UnreadableScanError, "E_CORRUPT"),
    "offset_negative.nii": (patched(OFFSET, "f", -352), UnreadableScanError, "E_CORRUPT"),
    "offset_in_header.nii": (patched(OFFSET, "f", 10), UnreadableScanError, "E_CORRUPT"),
    "offset_far.nii": (patched(OFFSET, "f", 1e9), UnreadableScanError, "E_CORRUPT"),
    "slope_1e38.nii": (patched(SLOPE, "ff", 1e38, 0), IntensityError, "E_SCALING"),
    "slope_1e25.nii": (patched(SLOPE, "ff", 1e25, 0), IntensityError, "E_SCALING"),
    "slope_infinite.nii": (patched(SLOPE, "ff", np.inf, 0), IntensityError, "E_SCALING"),
    "slope_subnormal.nii": (patched(SLOPE, "ff", 1e-42, 0), IntensityError, "E_SCALING"),
    "intercept_nan.nii": (patched(SLOPE, "ff", 2, np.nan), IntensityError, "E_SCALING"),
    "float64_too_large.nii": (nifti(voxels_of(np.float64) * 1e300), IntensityError, "E_SCALING"),
    "nan.nii": (with_voxel(np.nan), IntensityError, "E_NAN"),
    "infinite.nii": (with_voxel(np.inf), IntensityError, "E_NAN"),
    "all_nan.nii": (nifti(np.full(SHAPE, np.nan, dtype=np.float32)), IntensityError, "E_NAN"),
    "constant.nii": (nifti(np.full(SHAPE, 7, dtype=np.int16)), IntensityError, "E_CONSTANT"),
    "sform_nan.nii": (patched(SROW_X, "f", np.nan), GeometryError, "E_GEOMETRY"),
    "sform_zero.nii": (patched(SROW_X, "12f", *[0] * 12), GeometryError, "E_GEOMETRY"),
    "sform_singular.nii": (patched(SROW_X, "8f", *[1, 0, 0, 5] * 2), GeometryError, "E_GEOMETRY"),
    "sform_code_99.nii": (patched(SFORM_CODE, "h", 99), GeometryError, "E_GEOMETRY"),
    "qform_code_negative.nii": (patched(QFORM_CODE, "h", -1), GeometryError, "E_GEOMETRY"),
    "no_rotation.nii": (
        patched(QUATERN_B, "3f", 2, 2, 2, base=patched(QFORM_CODE, "2h", 1, 0)),
        GeometryError,
        "E_GEOMETRY",
    ),
    "voxel_size_nan.nii": (patched(PIXDIM + 4, "f", np.nan, base=without_sform(nifti())), GeometryError, "E_GEOMETRY"),
    "voxel_size_zero.nii": (patched(PIXDIM + 4, "f", 0, base=without_sform(nifti())), GeometryError, "E_GEOMETRY"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_file_becomes_one_typed_error(tmp_path, monkeypatch, name):
    content, error, code = BROKEN_FILES[name]
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(error) as caught:
        read_volume(name)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "absent")
    expected = {
        "missing.nii": "E_NOT_FOUND",
        "folder.nii.gz/inside.nii": "E_NOT_FOUND",
        "dangling.nii": "E_NOT_FOUND",
        "folder.nii.gz": "E_NO_SERIES",
        "pipe.nii": "E_NOT_REGULAR",
        "a" * 300: "E_ACCESS",
    }
    for name, code in expected.items():
        with pytest.raises(UnreadableScanError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code == code, name
    with pytest.raises(UnreadableScanError) as caught:
        read_volume("/dev/zero")
    assert caught.value.code == "E_NOT_REGULAR"


def test_forbidden_file_and_full_memory_are_told_apart(tmp_path, monkeypatch):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(nifti())
    for raised, code in [(PermissionError(13, "Permission denied"), "E_ACCESS"), (MemoryError(), "E_MEMORY")]:

        def fail(*_: object, raised: Exception = raised) -> None:
            raise raised

        with monkeypatch.context() as broken:
            broken.setattr(Path, "open", fail)
            with pytest.raises(UnreadableScanError) as caught:
                read_volume(scan)
        assert caught.value.code == code


def test_messages_say_what_to_do(tmp_path):
    for name, words in {
        "web_page.nii.gz": "download failed",
        "lfs_pointer.nii.gz": "git lfs pull",
        "several_volumes.nii": "keep one volume",
        "nan.nii": "2 of 720",
        "cut.nii": "expected 1792 bytes",
        "complex.nii": "magnitude",
    }.items():
        (tmp_path / name).write_bytes(BROKEN_FILES[name][0])
        with pytest.raises(MendscanError) as caught:
            read_volume(tmp_path / name)
        assert words in str(caught.value)


def test_no_flipped_byte_of_a_gzip_file_changes_a_voxel_unnoticed(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(GZIPPED)
    content_hash = read_volume(scan).content_hash
    read_nevertheless = []
    for position in range(len(GZIPPED)):
        scan.write_bytes(flipped_byte(GZIPPED, position))
        try:
            assert read_volume(scan).content_hash == content_hash
        except MendscanError:
            continue
        read_nevertheless.append(position)
    # Time stamp and system in gzip's header, and the bits that fill up the last byte of the stream, say nothing.
    assert set(read_nevertheless) <= {*range(4, 10), len(GZIPPED) - 9}


def test_damaged_headers_raise_nothing_but_typed_errors(tmp_path, caplog):
    generator = np.random.default_rng(0)
    intact = nifti()
    for _ in range(1500):
        data = bytearray(intact)
        for position in generator.integers(0, 352, size=generator.integers(1, 5)):
            data[position] = generator.integers(0, 256)
        (tmp_path / "scan.nii").write_bytes(data)
        try:
            volume = read_volume(tmp_path / "scan.nii", max_bytes=2**20)
        except MendscanError as error:
            assert error.code.startswith("E_")  # noqa: PT017 - some of the damaged files are still readable
        else:
            assert np.isfinite(volume.voxels_XYZ).all()
            assert np.isfinite(volume.affine).all()


def test_messages_do_not_quote_the_file(tmp_path, caplog):
    data = patched(148, "80s", b"ZZCANARY")
    for offset in (DIM, DATATYPE, SROW_X, OFFSET):
        (tmp_path / "scan.nii").write_bytes(patched(offset, "8s", b"\xff" * 8, base=data))
        with pytest.raises(MendscanError) as caught:
            read_volume(tmp_path / "scan.nii")
        assert "CANARY" not in str(caught.value) + caplog.text


def test_limit_is_the_size_as_float32(tmp_path):
    (tmp_path / "scan.nii").write_bytes(nifti(voxels_of(np.uint8)))
    needed = 4 * int(np.prod(SHAPE))
    assert read_volume(tmp_path / "scan.nii", max_bytes=needed).shape == SHAPE
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path / "scan.nii", max_bytes=needed - 1)
    assert caught.value.code == "E_TOO_LARGE"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "f4", "f8", ">i2", ">f4", ">f8"])
def test_all_number_types_and_byte_orders_give_equal_volumes(tmp_path, kind, dtype):
    (tmp_path / "reference.nii").write_bytes(nifti())
    reference = read_volume(tmp_path / "reference.nii")
    byte_order = ">" if dtype.startswith(">") else "<"
    header = kind.header_class(endianness=byte_order)
    header.set_data_dtype(dtype)
    nib.save(kind(voxels_of(np.dtype(dtype)), AFFINE, header), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.voxels_XYZ, reference.voxels_XYZ)
    np.testing.assert_array_equal(volume.affine, reference.affine)
    assert volume.content_hash == reference.content_hash


@pytest.mark.parametrize(("slope", "inter"), [(0.013, -7.5), (-2.0, 1.0), (0.0, 5.0), (np.nan, np.nan), (1.0, 0.0)])
def test_scaling_agrees_with_nibabel(tmp_path, slope, inter):
    (tmp_path / "scan.nii").write_bytes(patched(SLOPE, "ff", slope, inter))
    expected = nib.load(tmp_path / "scan.nii").get_fdata().astype(np.float32)
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.to_native(volume.voxels_XYZ), expected)


def test_compression_is_seen_in_the_content_and_not_in_the_name(tmp_path):
    contents = {"a.nii": nifti(), "b.nii.gz": GZIPPED, "plain.nii.gz": nifti(), "compressed.nii": GZIPPED}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert len({read_volume(tmp_path / name).content_hash for name in contents}) == 1
    assert read_volume(str(tmp_path / "plain.nii.gz")).name == "plain"


def test_single_volume_in_four_dimensions_is_squeezed(tmp_path):
    (tmp_path / "scan.nii").write_bytes(nifti(voxels_of()[..., None]))
    assert read_volume(tmp_path / "scan.nii").shape == SHAPE


def test_extension_and_bytes_behind_the_voxels_do_no_harm(tmp_path, caplog):
    image = nib.Nifti1Image(voxels_of(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    data = bytearray(image.to_bytes())
    struct.pack_into("<i", data, 352, 2**31 - 1)
    (tmp_path / "scan.nii").write_bytes(data + b"behind")
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.to_native(volume.voxels_XYZ), voxels_of())
    assert "6 bytes after the last voxel" in caplog.text


def test_unknown_orientation_is_a_warning_and_nibabels_guess(tmp_path, caplog):
    (tmp_path / "scan.nii").write_bytes(patched(QFORM_CODE, "2h", 0, 0))
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.native.affine, nib.load(tmp_path / "scan.nii").affine)
    assert "scan.nii: orientation unknown" in caplog.text
    assert [each.code for each in volume.remarks] == ["W_ORIENTATION"]


def test_sform_is_obeyed_and_a_different_qform_is_a_warning(tmp_path, caplog):
    image = nib.Nifti1Image(voxels_of(), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(np.diag([2.0, 1.5, 3.0, 1.0]), 1)
    (tmp_path / "scan.nii").write_bytes(image.to_bytes())
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.native.affine, AFFINE)
    assert "sform and qform differ by up to" in caplog.text


def test_broken_qform_is_ignored_where_the_sform_is_set(tmp_path):
    broken = patched(QUATERN_B, "3f", 2, 2, 2, base=patched(QFORM_CODE, "2h", 1, 1))
    (tmp_path / "scan.nii").write_bytes(broken)
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.native.affine, AFFINE)
    assert volume.native.qform_code == 0


def test_repairs_of_a_header_name_the_file(tmp_path, caplog):
    (tmp_path / "scan.nii").write_bytes(patched(PIXDIM + 4, "f", -2))
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "scan.nii")
    assert volume.native.zooms == (2.0, 1.5, 3.0)
    assert "scan.nii: " in caplog.text


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (3 + 8, 0.001)])
def test_affine_is_in_millimetres_whatever_the_unit(tmp_path, unit, factor):
    (tmp_path / "scan.nii").write_bytes(patched(XYZT_UNITS, "B", unit))
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.spacing_mm, np.array([2.0, 1.5, 3.0]) * factor)
    np.testing.assert_array_equal(volume.native.affine, AFFINE)


@pytest.mark.parametrize("behind", [b"garbage", b"\0" * 100 + b"x"])
def test_what_follows_a_whole_gzip_stream_is_a_warning(tmp_path, caplog, behind):
    (tmp_path / "scan.nii.gz").write_bytes(GZIPPED + behind)
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.to_native(volume.voxels_XYZ), voxels_of())
    assert "scan.nii.gz: what follows the compressed scan" in caplog.text


@pytest.mark.parametrize("position", [-8, -4, -1])
def test_a_wrong_trailer_is_not_excused_by_garbage_behind_it(tmp_path, position):
    damaged = flipped_byte(GZIPPED, len(GZIPPED) + position)
    (tmp_path / "scan.nii.gz").write_bytes(damaged + b"garbage")
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path / "scan.nii.gz")
    assert caught.value.code == "E_CORRUPT"


@pytest.mark.parametrize(("unit", "apart", "said"), [("meter", 0.4, True), ("micron", 400.0, False)])
def test_how_far_the_two_forms_are_apart_is_in_millimetres(tmp_path, caplog, unit, apart, said):
    image = nib.Nifti1Image(voxels_of(), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = apart
    image.set_sform(np.eye(4), 1)
    image.set_qform(moved, 1)
    image.header.set_xyzt_units(unit)
    (tmp_path / "scan.nii").write_bytes(image.to_bytes())
    with caplog.at_level(logging.WARNING):
        read_volume(tmp_path / "scan.nii")
    assert ("sform and qform differ" in caplog.text) == said
