"""Streams of voxels: equal to nibabel's arrays, whole or an error, and small."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import GeometryError, IntensityError, MendscanError, UnreadableScanError
from mendscan.volumes import read_volume
from mendscan.volumes.chunks import open_voxels

SHAPE = (7, 8, 9)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 1.5, 0.1, -8], [0, -0.1, 3, 7], [0, 0, 0, 1]])
DIM, DATATYPE, SLOPE, XYZT_UNITS, SFORM_CODE = 40, 70, 112, 123, 254
REAL_TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def voxels_of(dtype="f4", shape=SHAPE):
    return np.random.default_rng(0).integers(0, 120, shape).astype(dtype)


def nifti(voxels=None, kind=nib.Nifti1Image):
    voxels = voxels_of() if voxels is None else voxels
    return kind(voxels, AFFINE, kind.header_class(endianness="<"), dtype=voxels.dtype).to_bytes()


def patched(data, offset, layout, *values):
    data = bytearray(data)
    struct.pack_into("<" + layout, data, offset, *values)
    return bytes(data)


def written(folder, data, name="scan.nii.gz"):
    path = folder / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    return path


def streamed(path, n_voxels=100):
    with open_voxels(path) as stream:
        return np.concatenate(list(stream.chunks(n_voxels))).reshape(stream.shape, order="F")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", REAL_TYPES)
def test_values_of_every_type_are_nibabels(tmp_path, dtype, kind, byte_order, name):
    header = kind.header_class(endianness=byte_order)
    header.set_data_dtype(dtype)
    nib.save(kind(voxels_of(dtype), AFFINE, header), tmp_path / name)
    with open_voxels(tmp_path / name) as stream:
        assert stream.shape == stream.stored_shape == SHAPE
        assert stream.dtype == nib.load(tmp_path / name).get_data_dtype() == np.dtype(byte_order + dtype)
        np.testing.assert_array_equal(stream.affine, nib.load(tmp_path / name).affine)
        (chunk,) = stream.chunks(10**6)
    assert chunk.dtype == np.dtype(dtype)
    assert chunk.dtype.isnative
    np.testing.assert_array_equal(chunk.reshape(SHAPE, order="F"), np.asanyarray(nib.load(tmp_path / name).dataobj))


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize(("slope", "inter"), [(0.013, -7.5), (-2.0, 1.0), (1.0, 3.25), (1e-3, 0.0), (3e38, 1e30)])
def test_scaled_values_are_nibabels_in_float64(tmp_path, dtype, slope, inter):
    path = written(tmp_path, patched(nifti(voxels_of(dtype)), SLOPE, "ff", slope, inter))
    values = streamed(path)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, nib.load(path).get_fdata())
    with open_voxels(path) as stream:
        assert (stream.slope, stream.intercept) == (np.float32(slope), np.float32(inter))


@pytest.mark.parametrize(("slope", "inter"), [(0.0, 5.0), (np.nan, np.nan), (1.0, 0.0)])
def test_what_is_not_scaled_keeps_its_type(tmp_path, slope, inter):
    path = written(tmp_path, patched(nifti(voxels_of("i2")), SLOPE, "ff", slope, inter))
    with open_voxels(path) as stream:
        assert (stream.slope, stream.intercept) == (1.0, 0.0)
    assert streamed(path).dtype == np.int16
    np.testing.assert_array_equal(streamed(path), voxels_of("i2"))


@pytest.mark.parametrize("n_voxels", [1, 7, 56, 503, 504, 505, 10**9])
def test_chunks_have_the_length_asked_for(tmp_path, n_voxels):
    path = written(tmp_path, nifti())
    with open_voxels(path) as stream:
        assert stream.n_voxels == 504
        sizes = [chunk.size for chunk in stream.chunks(n_voxels)]
    assert sum(sizes) == 504
    assert all(size == n_voxels for size in sizes[:-1])
    assert 1 <= sizes[-1] <= n_voxels
    np.testing.assert_array_equal(streamed(path, n_voxels), voxels_of())


def test_voxels_that_are_no_numbers_are_handed_on(tmp_path):
    values = voxels_of()
    values[0, 0, :4] = np.nan, np.inf, -np.inf, -0.0
    found = streamed(written(tmp_path, nifti(values)))
    np.testing.assert_array_equal(found, values)
    assert np.signbit(found[0, 0, 3])


def test_constant_and_thin_files_are_read(tmp_path):
    for shape in [(1, 1, 1), (9, 1, 1), (2, 3, 1)]:
        path = written(tmp_path, nifti(np.zeros(shape, np.uint8)))
        np.testing.assert_array_equal(streamed(path), np.zeros(shape, np.uint8))


def test_axes_of_length_one_are_dropped_and_remembered(tmp_path):
    path = written(tmp_path, nifti(voxels_of()[..., None, None]))
    with open_voxels(path) as stream:
        assert stream.shape == SHAPE
        assert stream.stored_shape == nib.load(path).shape == (*SHAPE, 1, 1)
    np.testing.assert_array_equal(streamed(path), voxels_of())


def test_affine_is_in_millimetres(tmp_path):
    path = written(tmp_path, patched(nifti(), XYZT_UNITS, "B", 1))
    with open_voxels(path) as stream:
        np.testing.assert_allclose(stream.affine[:3], 1000 * nib.load(path).affine[:3])
        assert stream.affine[3].tolist() == [0, 0, 0, 1]


def test_a_stream_is_read_once_and_closed(tmp_path):
    path = written(tmp_path, nifti(), "scan.nii")
    with open_voxels(path) as stream:
        with pytest.raises(ValueError, match="at least 1"):
            stream.chunks(0)
        chunks = stream.chunks(100)
        next(chunks)
        with pytest.raises(ValueError, match="once"):
            stream.chunks(100)
    with pytest.raises(ValueError, match="closed"):
        next(chunks)
    stream.close()


def test_one_byte_too_few_is_an_error_before_the_last_chunk(tmp_path):
    compressed = gzip.compress(nifti(), 1)
    whole = {"scan.nii": nifti(), "scan.nii.gz": compressed}
    for name, data in whole.items():
        for cut in (1, 4, 8, 9, 300):
            (tmp_path / name).write_bytes(data[:-cut])
            with pytest.raises(UnreadableScanError) as caught:
                streamed(tmp_path / name)
            assert caught.value.code == "E_TRUNCATED", (name, cut)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(nifti()[:-1]))
    read = []
    with open_voxels(tmp_path / "scan.nii.gz") as stream, pytest.raises(UnreadableScanError) as caught:
        read.extend(stream.chunks(500))
    assert caught.value.code == "E_TRUNCATED"
    assert f"{len(nifti()) - 1} bytes" in str(caught.value)
    assert f"at least {len(nifti())} bytes" in str(caught.value)
    assert [chunk.size for chunk in read] == [500]


def test_whoever_has_the_last_chunk_has_a_verified_file(tmp_path):
    data = bytearray(gzip.compress(nifti(), 1))
    data[-6] ^= 1  # the checksum
    (tmp_path / "scan.nii.gz").write_bytes(data)
    read = []
    with open_voxels(tmp_path / "scan.nii.gz") as stream:
        chunks = stream.chunks(252)
        read.append(next(chunks))
        with pytest.raises(UnreadableScanError) as caught:
            read.append(next(chunks))
    assert caught.value.code == "E_CORRUPT"
    assert len(read) == 1


def test_no_flipped_byte_of_a_gzip_file_changes_a_voxel_unnoticed(tmp_path):
    intact, values, read_nevertheless = gzip.compress(nifti(), 1, mtime=0), voxels_of(), []
    for position in range(0, len(intact), 3):
        damaged = bytearray(intact)
        damaged[position] ^= 0x10
        (tmp_path / "scan.nii.gz").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(streamed(tmp_path / "scan.nii.gz"), values)
        except MendscanError:
            continue
        read_nevertheless.append(position)
    # Time stamp and system in gzip's header, and the bits that fill up the last byte of the stream, say nothing.
    assert set(read_nevertheless) <= {*range(4, 10), len(intact) - 9}


BROKEN = {
    "empty.nii": (b"", UnreadableScanError, "E_EMPTY"),
    "text.nii.gz": (b"no image", UnreadableScanError, "E_NOT_NIFTI"),
    "cut_header.nii": (nifti()[:200], UnreadableScanError, "E_TRUNCATED"),
    "endless.nii.gz": (nifti() + bytes(2**25), UnreadableScanError, "E_TOO_LARGE"),
    "several.nii": (nifti(voxels_of(shape=(4, 5, 6, 2))), GeometryError, "E_DIMENSIONS"),
    "flat.nii": (nifti(voxels_of(shape=(20, 30))), GeometryError, "E_DIMENSIONS"),
    "complex.nii": (nifti(voxels_of("c8")), IntensityError, "E_COMPLEX"),
    "unknown_type.nii": (patched(nifti(), DATATYPE, "h", 999), UnreadableScanError, "E_DATATYPE"),
    "infinite_slope.nii": (patched(nifti(), SLOPE, "f", np.inf), IntensityError, "E_SCALING"),
    "unknown_code.nii": (patched(nifti(), SFORM_CODE, "h", 99), GeometryError, "E_GEOMETRY"),
    "promises_much.nii": (patched(nifti(), DIM, "4h", 3, 900, 900, 900), UnreadableScanError, "E_TRUNCATED"),
    "promises_much.nii.gz": (patched(nifti(), DIM, "4h", 3, 900, 900, 900), UnreadableScanError, "E_TRUNCATED"),
    "promises_some.nii.gz": (patched(nifti(), DIM, "4h", 3, 20, 20, 20), UnreadableScanError, "E_TRUNCATED"),
    "far_offset.nii.gz": (patched(nifti(), 108, "f", 1e5), UnreadableScanError, "E_TRUNCATED"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_has_the_code_that_reading_it_whole_gives(tmp_path, monkeypatch, name):
    content, error, code = BROKEN[name]
    monkeypatch.chdir(tmp_path)
    written(Path(), content, name)
    for read in (streamed, read_volume):
        with pytest.raises(error) as caught:
            read(name)
        assert caught.value.code == code
        assert str(caught.value).startswith(f"{name}: ")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    for path, code in [
        (tmp_path / "pipe.nii", "E_NOT_REGULAR"),
        (tmp_path, "E_NOT_REGULAR"),
        ("absent", "E_NOT_FOUND"),
    ]:
        with pytest.raises(UnreadableScanError) as caught:
            open_voxels(path)
        assert caught.value.code == code


def test_a_singular_affine_is_an_error_only_for_who_asks(tmp_path):
    path = written(tmp_path, patched(nifti(), 280, "12f", *[0] * 12))
    np.testing.assert_array_equal(streamed(path), voxels_of())
    with open_voxels(path) as stream, pytest.raises(GeometryError):
        _ = stream.affine


def test_too_large_is_asked_before_reading(tmp_path):
    path = written(tmp_path, nifti())
    with pytest.raises(UnreadableScanError) as caught:
        open_voxels(path, max_bytes=4 * 504 - 1)
    assert caught.value.code == "E_TOO_LARGE"
    open_voxels(path, max_bytes=4 * 504).close()


PEAK_OF_READING = """
import resource, sys
from mendscan.volumes.chunks import open_voxels
def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak_kb()
with open_voxels(sys.argv[1]) as stream:
    assert sum(chunk.size for chunk in stream.chunks(2**17)) == 2**25
print((peak_kb() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_a_large_file_takes_a_few_megabytes(tmp_path):
    head = patched(nifti()[:352], DIM, "4h", 3, 512, 256, 256)
    with gzip.open(tmp_path / "scan.nii.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(32):
            file.write(bytes(2**22))
    command = [sys.executable, "-c", PEAK_OF_READING, str(tmp_path / "scan.nii.gz")]
    peak_bytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak_bytes < 12 * 2**20  # of 128 MB of voxels
