"""NRRD and MetaImage: as SimpleITK writes them and by hand, in order and broken."""

from __future__ import annotations

import bz2
import gzip
import logging
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it

from mendscan.errors import GeometryError, IntensityError, MendscanError, UnreadableScanError
from mendscan.volumes import find_scans, read_volume, write_map
from volumes.dicom_files import AXIAL, CANARY, LPS, some_voxels, write_series
from volumes.test_dicom import ORIENTATIONS, array_and_affine, assert_same, turned

VOXELS = some_voxels()
SHORTS = VOXELS.astype("<i2").tobytes(order="F")
PACKED, DEFLATED, SQUEEZED = gzip.compress(SHORTS), zlib.compress(SHORTS), bz2.compress(SHORTS)
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "7 8 6",
    "space directions": "(1.5,0,0) (0,1.25,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-12,-11,-9)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-12 -11 -9",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "1.5 1.25 3",
    "DimSize": "7 8 6",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def without(fields: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in (fields | changes).items() if value is not None}


def nrrd(changes: dict[str, str | None] | None = None, data: bytes = SHORTS) -> bytes:
    lines = [f"{key}: {value}" for key, value in without(NRRD, changes or {}).items()]
    return "\n".join(["NRRD0005", "# a comment", *lines, f"patient:={CANARY}", "", ""]).encode() + data


def meta(changes: dict[str, str | None] | None = None, data: bytes = SHORTS) -> bytes:
    fields = without(META, changes or {})
    last = fields.pop("ElementDataFile", None)
    lines = [f"{key} = {value}" for key, value in fields.items()] + ([f"ElementDataFile = {last}"] if last else [])
    return ("\n".join(lines) + "\n").encode() + data


def itk_image(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels.T)
    to_lps = LPS @ affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    return image


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_simpleitk_writes_is_read_alike(tmp_path, orientation, suffix, compressed):
    affine = ORIENTATIONS[orientation]
    sitk.WriteImage(itk_image(VOXELS.astype(np.int16), affine), str(tmp_path / f"scan{suffix}"), compressed)
    volume = read_volume(tmp_path / f"scan{suffix}")
    assert volume.name == "scan"
    assert_same(volume, VOXELS, affine)
    assert_same(volume, *array_and_affine(sitk.ReadImage(str(tmp_path / f"scan{suffix}"))))
    assert find_scans(tmp_path) == [tmp_path / f"scan{suffix}"]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_all_number_types(tmp_path, suffix, dtype):
    voxels = some_voxels(high=100).astype(dtype)
    sitk.WriteImage(itk_image(voxels, AXIAL), str(tmp_path / f"scan{suffix}"))
    assert_same(read_volume(tmp_path / f"scan{suffix}"), voxels, AXIAL)


def test_one_scan_in_every_format_is_the_same_scan(tmp_path):
    affine = turned((20, -15, 30), (1.25, 0.875, 2.5))
    image = itk_image(VOXELS.astype(np.int16), affine)
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"):
        sitk.WriteImage(image, str(tmp_path / name), True)
    write_series(tmp_path / "series", VOXELS, affine)
    names = ("a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "series")
    volumes = {name: read_volume(tmp_path / name) for name in names}
    for name, volume in volumes.items():
        np.testing.assert_array_equal(volume.voxels_XYZ, volumes["a.nii"].voxels_XYZ, err_msg=name)
        np.testing.assert_allclose(volume.affine, volumes["a.nrrd"].affine, atol=1e-6 if "nii" not in name else 1e-5)
    assert len({volume.content_hash for volume in volumes.values()}) == 1


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_map_lies_on_the_scan_in_nibabel_and_simpleitk(tmp_path, name):
    affine, marker = ORIENTATIONS["oblique"], (1, 5, 4)
    voxels = some_voxels(high=100)
    voxels[marker] = 4000
    sitk.WriteImage(itk_image(voxels.astype(np.int16), affine), str(tmp_path / name))
    volume = read_volume(tmp_path / name)
    write_map(tmp_path / "map.nii.gz", (volume.voxels_XYZ == 4000).astype(np.float32), volume)
    image = nib.load(tmp_path / "map.nii.gz")
    (found,) = np.argwhere(np.asarray(image.dataobj) == 1)
    np.testing.assert_allclose((image.affine @ [*found, 1])[:3], (affine @ [*marker, 1])[:3], atol=1e-4)
    scan, result = (sitk.ReadImage(str(tmp_path / file)) for file in (name, "map.nii.gz"))
    for one in (scan, result):
        (found,) = np.argwhere((4000 if one is scan else 1) == sitk.GetArrayFromImage(one).T)
        point = one.TransformIndexToPhysicalPoint(found.tolist())
        np.testing.assert_allclose((LPS @ [*point, 1])[:3], (affine @ [*marker, 1])[:3], atol=1e-4)


TEXT = " ".join(str(value) for value in VOXELS.ravel(order="F")).encode()
GOOD = {
    "plain.nrrd": nrrd(),
    "gzip.nrrd": nrrd({"encoding": "gz"}, gzip.compress(SHORTS)),
    "bzip2.nrrd": nrrd({"encoding": "bzip2"}, bz2.compress(SHORTS)),
    "text.nrrd": nrrd({"encoding": "ascii", "endian": None}, TEXT),
    "hex.nrrd": nrrd({"encoding": "hex"}, SHORTS.hex("\n", 40).encode()),
    "big.nrrd": nrrd({"endian": "big"}, VOXELS.astype(">i2").tobytes(order="F")),
    "ras.nrrd": nrrd(
        {"space": "RAS", "space directions": "(-1.5,0,0) (0,-1.25,0) (0,0,3)", "space origin": "(12,11,-9)"}
    ),
    "las.nrrd": nrrd(
        {"space": "LAS", "space directions": "(1.5,0,0) (0,-1.25,0) (0,0,3)", "space origin": "(-12,11,-9)"}
    ),
    "centimetres.nrrd": nrrd(
        {
            "space directions": "(.15,0,0) (0,.125,0) (0,0,.3)",
            "space origin": "(-1.2,-1.1,-.9)",
            "space units": '"cm" "cm" "cm"',
        }
    ),
    "skip.nrrd": nrrd({"byte skip": "5", "line skip": "1"}, b"a line\n12345" + SHORTS),
    "gzip_skip.nrrd": nrrd({"byte skip": "5", "encoding": "gzip"}, gzip.compress(b"12345" + SHORTS)),
    "at_the_end.nrrd": nrrd({"byteskip": "-1"}, b"what it is" + SHORTS),
    "one_component.nrrd": nrrd(
        {
            "dimension": "4",
            "sizes": "1 7 8 6",
            "space directions": "none (1.5,0,0) (0,1.25,0) (0,0,3)",
            "kinds": "list domain domain domain",
        }
    ),
    "carriage_returns.nrrd": nrrd(data=b"").replace(b"\n", b"\r\n") + SHORTS,
    "plain.mha": meta(),
    "zlib.mha": meta(
        {"CompressedData": "True", "CompressedDataSize": str(len(zlib.compress(SHORTS)))}, zlib.compress(SHORTS)
    ),
    "text.mha": meta({"BinaryData": "False"}, TEXT),
    "big.mha": meta({"BinaryDataByteOrderMSB": "True"}, VOXELS.astype(">i2").tobytes(order="F")),
    "one_volume.mha": meta(
        {
            "NDims": "4",
            "DimSize": "7 8 6 1",
            "ElementSpacing": "1.5 1.25 3 1",
            "Offset": "-12 -11 -9 0",
            "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        }
    ),
    "other_names.mha": meta(
        {"Offset": None, "Position": "-12 -11 -9", "TransformMatrix": None, "Rotation": "1 0 0 0 1 0 0 0 1"}
    ),
    "nrrd_named.mha": nrrd(),
    "named_anything": meta(),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_way_of_storing_the_same_scan(tmp_path, caplog, name):
    (tmp_path / name).write_bytes(GOOD[name])
    assert_same(read_volume(tmp_path / name), VOXELS, AXIAL)
    assert not caplog.text


@pytest.mark.parametrize(
    "name", ["plain.nrrd", "gzip.nrrd", "big.nrrd", "las.nrrd", "text.nrrd", "plain.mha", "zlib.mha", "big.mha"]
)
def test_simpleitk_agrees_on_files_made_by_hand(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD[name])
    assert_same(read_volume(tmp_path / name), *array_and_affine(sitk.ReadImage(str(tmp_path / name))))


@pytest.mark.parametrize("axis", range(3))
def test_a_matrix_that_is_not_symmetric_is_not_transposed(tmp_path, axis):
    angles = [0.0, 0.0, 0.0]
    angles[axis] = 33
    affine = turned(tuple(angles), (1, 2, 3))  # type: ignore[arg-type]
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(itk_image(VOXELS, affine), str(tmp_path / name))
        assert_same(read_volume(tmp_path / name), VOXELS, affine)


@pytest.mark.parametrize(
    ("name", "content", "affine"),
    [
        ("no_space.nrrd", nrrd({"space": None, "space dimension": "3"}), AXIAL),
        (
            "no_origin.nrrd",
            nrrd({"space origin": None}),
            AXIAL - [[0, 0, 0, 12], [0, 0, 0, 11], [0, 0, 0, -9], [0] * 4],
        ),
        (
            "only_spacings.nrrd",
            nrrd({"space": None, "space directions": None, "space origin": None, "spacings": "1.5 1.25 3"}),
            np.diag([-1.5, -1.25, 3, 1]),
        ),
        ("no_matrix.mha", meta({"TransformMatrix": None}), AXIAL),
        ("no_offset.mha", meta({"Offset": None}), np.diag([-1.5, -1.25, 3, 1])),
    ],
)
def test_unknown_orientation_is_a_warning(tmp_path, caplog, name, content, affine):
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(read_volume(tmp_path / name), VOXELS, affine)
    assert f"{tmp_path / name}: orientation unknown" in caplog.text


FLOATS = VOXELS.astype("<f4")
FLOATS_NAN = np.where(VOXELS > 3900, np.nan, FLOATS).astype("<f4").tobytes(order="F")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


U, G, N = UnreadableScanError, GeometryError, IntensityError
BROKEN: dict[str, tuple[bytes, type[MendscanError], str]] = {
    "cut.nrrd": (nrrd(data=SHORTS[:-1]), U, "E_TRUNCATED"),
    "cut_header.nrrd": (nrrd()[: nrrd().index(b"kinds")], U, "E_TRUNCATED"),
    "cut_gzip.nrrd": (nrrd({"encoding": "gzip"}, PACKED[:-9]), U, "E_TRUNCATED"),
    "cut_in_gzip.nrrd": (nrrd({"encoding": "gzip"}, gzip.compress(SHORTS[:-1])), U, "E_TRUNCATED"),
    "cut_bzip2.nrrd": (nrrd({"encoding": "bzip2"}, SQUEEZED[:-9]), U, "E_TRUNCATED"),
    "cut_text.nrrd": (nrrd({"encoding": "text"}, TEXT[:-9]), U, "E_TRUNCATED"),
    "cut_hex.nrrd": (nrrd({"encoding": "hex"}, SHORTS.hex().encode()[:-9]), U, "E_TRUNCATED"),
    "flipped_gzip.nrrd": (nrrd({"encoding": "gzip"}, flipped(PACKED, 300)), U, "E_CORRUPT"),
    "checksum_gzip.nrrd": (nrrd({"encoding": "gzip"}, flipped(PACKED, len(PACKED) - 8)), U, "E_CORRUPT"),
    "length_gzip.nrrd": (nrrd({"encoding": "gzip"}, flipped(PACKED, len(PACKED) - 1)), U, "E_CORRUPT"),
    "flipped_bzip2.nrrd": (nrrd({"encoding": "bzip2"}, flipped(SQUEEZED, 300)), U, "E_CORRUPT"),
    "no_bzip2.nrrd": (nrrd({"encoding": "bzip2"}, SHORTS), U, "E_CORRUPT"),
    "no_gzip.nrrd": (nrrd({"encoding": "gzip"}, SHORTS), U, "E_CORRUPT"),
    "words.nrrd": (nrrd({"encoding": "text"}, TEXT[:-1] + b"x"), U, "E_CORRUPT"),
    "more_words.nrrd": (nrrd({"encoding": "text"}, TEXT + b" 1"), U, "E_CORRUPT"),
    "no_hex.nrrd": (nrrd({"encoding": "hex"}, b"zz" * len(SHORTS)), U, "E_CORRUPT"),
    "endless.nrrd": (nrrd({"encoding": "gzip"}, gzip.compress(SHORTS + bytes(2**25))), U, "E_TOO_LARGE"),
    "huge.nrrd": (nrrd({"sizes": "99999 99999 99999"}), U, "E_TOO_LARGE"),
    "promises.nrrd": (nrrd({"sizes": "900 900 900", "encoding": "gzip"}, PACKED), U, "E_TRUNCATED"),
    "block.nrrd": (nrrd({"type": "block"}), U, "E_DATATYPE"),
    "encoding.nrrd": (nrrd({"encoding": "zip"}), U, "E_DATATYPE"),
    "no_order.nrrd": (nrrd({"endian": None}), U, "E_CORRUPT"),
    "no_sizes.nrrd": (nrrd({"sizes": None}), U, "E_CORRUPT"),
    "twice.nrrd": (nrrd({"Sizes": "7 8 6"}), U, "E_CORRUPT"),
    "no_field.nrrd": (nrrd({"type": "short\nthis is no field"}), U, "E_CORRUPT"),
    "sizes_in_words.nrrd": (nrrd({"sizes": f"{CANARY} 8 6"}), U, "E_CORRUPT"),
    "skip.nrrd": (nrrd({"byte skip": "-7"}), U, "E_CORRUPT"),
    "skip_end_gzip.nrrd": (nrrd({"byte skip": "-1", "encoding": "gzip"}, PACKED), U, "E_CORRUPT"),
    "lines.nrrd": (nrrd({"line skip": "99999999"}), U, "E_CORRUPT"),
    "negative.nrrd": (nrrd({"sizes": "7 -8 6"}), G, "E_DIMENSIONS"),
    "two.nrrd": (nrrd({"dimension": "2", "sizes": "7 8", "space directions": "(1,0) (0,1)"}), G, "E_DIMENSIONS"),
    "wrong_count.nrrd": (nrrd({"dimension": "4"}), G, "E_DIMENSIONS"),
    "thin.nrrd": (nrrd({"sizes": "56 2 3"}), G, "E_DIMENSIONS"),
    "four.nrrd": (
        nrrd({"dimension": "4", "sizes": "7 8 6 2", "space directions": "(1,0,0) (0,1,0) (0,0,1) none"}, SHORTS * 2),
        G,
        "E_DIMENSIONS",
    ),
    "colours.nrrd": (
        nrrd(
            {
                "dimension": "4",
                "sizes": "3 7 8 6",
                "space directions": "none (1,0,0) (0,1,0) (0,0,1)",
                "kinds": "RGB-color domain domain domain",
            },
            SHORTS * 3,
        ),
        N,
        "E_COLOUR",
    ),
    "complex.nrrd": (
        nrrd(
            {
                "dimension": "4",
                "sizes": "2 7 8 6",
                "space directions": "none (1,0,0) (0,1,0) (0,0,1)",
                "kinds": "complex domain domain domain",
            },
            SHORTS * 2,
        ),
        N,
        "E_COMPLEX",
    ),
    "space.nrrd": (nrrd({"space": "3D-right-handed"}), G, "E_GEOMETRY"),
    "units.nrrd": (nrrd({"space units": f'"{CANARY}" "mm" "mm"'}), G, "E_GEOMETRY"),
    "nan.nrrd": (nrrd({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}), G, "E_GEOMETRY"),
    "singular.nrrd": (nrrd({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}), G, "E_GEOMETRY"),
    "flat_space.nrrd": (nrrd({"space directions": "(1,0) (0,1) (1,1)"}), G, "E_GEOMETRY"),
    "few_directions.nrrd": (nrrd({"space directions": "(1,0,0) (0,1,0)"}), G, "E_GEOMETRY"),
    "no_spacing.nrrd": (nrrd({"space": None, "space directions": None}), G, "E_GEOMETRY"),
    "nan_voxels.nrrd": (nrrd({"type": "float"}, FLOATS_NAN), N, "E_NAN"),
    "constant.nrrd": (nrrd(data=bytes(len(SHORTS))), N, "E_CONSTANT"),
    "large.nrrd": (nrrd({"type": "double"}, (VOXELS * 1e300).astype("<f8").tobytes(order="F")), N, "E_SCALING"),
    "cut.mha": (meta(data=SHORTS[:-1]), U, "E_TRUNCATED"),
    "cut_header.mha": (meta()[:100], U, "E_TRUNCATED"),
    "cut_zlib.mha": (meta({"CompressedData": "True"}, DEFLATED[:-5]), U, "E_TRUNCATED"),
    "cut_zlib_late.mha": (meta({"CompressedData": "True"}, DEFLATED[:-1]), U, "E_TRUNCATED"),
    "checksum_zlib.mha": (meta({"CompressedData": "True"}, flipped(DEFLATED, len(DEFLATED) - 1)), U, "E_CORRUPT"),
    "flipped_zlib.mha": (meta({"CompressedData": "True"}, flipped(DEFLATED, 300)), U, "E_CORRUPT"),
    "behind_zlib.mha": (meta({"CompressedData": "True"}, DEFLATED + b"behind"), U, "E_CORRUPT"),
    "no_zlib.mha": (meta({"CompressedData": "True"}), U, "E_CORRUPT"),
    "endless.mha": (meta({"CompressedData": "True"}, zlib.compress(SHORTS + bytes(2**25))), U, "E_TOO_LARGE"),
    "huge.mha": (meta({"DimSize": "99999 99999 99999"}), U, "E_TOO_LARGE"),
    "type.mha": (meta({"ElementType": "MET_STRING"}), U, "E_DATATYPE"),
    "object.mha": (meta({"ObjectType": "Mesh"}), U, "E_DATATYPE"),
    "list.mha": (meta({"ElementDataFile": "LIST"}), U, "E_DATATYPE"),
    "no_type.mha": (meta({"ElementType": None}), U, "E_CORRUPT"),
    "no_end.mha": (meta({"ElementDataFile": None}, b""), U, "E_TRUNCATED"),
    "colours.mha": (meta({"ElementNumberOfChannels": "3"}, SHORTS * 3), N, "E_COLOUR"),
    "scaled.mha": (meta({"ElementToIntensityFunctionSlope": "2"}), N, "E_SCALING"),
    "four.mha": (meta({"NDims": "4", "DimSize": "7 8 3 2"}), G, "E_DIMENSIONS"),
    "two.mha": (meta({"NDims": "2", "DimSize": "56 6"}), G, "E_DIMENSIONS"),
    "no_spacing.mha": (meta({"ElementSpacing": None}), G, "E_GEOMETRY"),
    "nan.mha": (meta({"ElementSpacing": "nan 1 1"}), G, "E_GEOMETRY"),
    "singular.mha": (meta({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}), G, "E_GEOMETRY"),
    "matrix.mha": (meta({"TransformMatrix": "1 0 0 1"}), G, "E_GEOMETRY"),
    "units.mha": (meta({"DistanceUnits": CANARY}), G, "E_GEOMETRY"),
    "constant.mha": (meta(data=bytes(len(SHORTS))), N, "E_CONSTANT"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_becomes_one_typed_error(tmp_path, caplog, name):
    content, kind, code = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind) as caught:
        read_volume(tmp_path / name)
    assert caught.value.code == code, caught.value
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert CANARY not in str(caught.value) + caplog.text


OUTSIDE = [
    f"../{CANARY}.raw",
    f"/tmp/{CANARY}.raw",
    f"C:\\{CANARY}.raw",
    f"a\\{CANARY}.raw",
    "link.raw",
    "folder/out.raw",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_voxels_outside_the_folder_of_the_header_are_refused(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / f"{CANARY}.raw").write_bytes(SHORTS)
    (inside / "link.raw").symlink_to(tmp_path / f"{CANARY}.raw")
    (inside / "folder").symlink_to(tmp_path)
    (tmp_path / "out.raw").write_bytes(SHORTS)
    (inside / "a.nhdr").write_bytes(nrrd({"data file": name}, b""))
    (inside / "a.mhd").write_bytes(meta({"ElementDataFile": name}, b""))
    for header in ("a.nhdr", "a.mhd"):
        with pytest.raises(UnreadableScanError) as caught:
            read_volume(inside / header)
        assert caught.value.code == "E_UNSAFE_PATH"
        assert CANARY not in str(caught.value)


def test_voxels_beside_the_header(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.raw").write_bytes(SHORTS)
    (tmp_path / "a.raw.gz").write_bytes(PACKED)
    (tmp_path / "b.raw").write_bytes(bytes(10) + SHORTS)
    for name, content in {
        "a.nhdr": nrrd({"datafile": "data/a.raw"}, b""),
        "b.nhdr": nrrd({"data file": "./a.raw.gz", "encoding": "gzip"}, b"").rstrip(b"\n"),
        "a.mhd": meta({"ElementDataFile": "data/a.raw"}, b""),
        "b.mhd": meta({"ElementDataFile": "b.raw", "HeaderSize": "10"}, b""),
        "c.mhd": meta({"ElementDataFile": "b.raw", "HeaderSize": "-1"}, b""),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert_same(read_volume(tmp_path / name), VOXELS, AXIAL)
    (tmp_path / "data" / "a.raw").unlink()
    for name in ("a.nhdr", "a.mhd"):
        with pytest.raises(UnreadableScanError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code == "E_NO_DATA_FILE"
    (tmp_path / "data" / "a.raw").mkdir()
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path / "a.nhdr")
    assert caught.value.code == "E_NOT_REGULAR"


COMPRESSED = {
    "gzip": nrrd({"encoding": "gzip"}, PACKED),
    "bzip2": nrrd({"encoding": "bzip2"}, SQUEEZED),
    "zlib": meta({"CompressedData": "True"}, DEFLATED),
}


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_no_flipped_byte_of_compressed_voxels_changes_one_unnoticed(tmp_path, encoding):
    content = COMPRESSED[encoding]
    data = next(part for part in (PACKED, SQUEEZED, DEFLATED) if content.endswith(part))
    (tmp_path / "scan").write_bytes(content)
    intact = read_volume(tmp_path / "scan").voxels_XYZ
    for position in range(len(content) - len(data), len(content), 3):
        (tmp_path / "scan").write_bytes(flipped(content, position))
        try:
            voxels = read_volume(tmp_path / "scan").voxels_XYZ
        except MendscanError:
            continue
        np.testing.assert_array_equal(voxels, intact)


@pytest.mark.parametrize("content", [nrrd(), meta(), nrrd({"encoding": "gzip"}, PACKED)])
def test_damaged_headers_raise_nothing_but_typed_errors(tmp_path, content):
    generator = np.random.default_rng(0)
    for _ in range(250):
        data = bytearray(content)
        for position in generator.integers(0, 330, size=generator.integers(1, 5)):
            data[position] = generator.integers(0, 256)
        (tmp_path / "scan").write_bytes(data)
        try:
            volume = read_volume(tmp_path / "scan", max_bytes=2**20)
        except MendscanError as error:
            assert error.code.startswith("E_")  # noqa: PT017 - some of the damaged files are still readable
        else:
            assert np.isfinite(volume.voxels_XYZ).all()


def test_limit_is_the_size_as_float32(tmp_path):
    for name, content in (("a.nrrd", nrrd()), ("a.mha", meta())):
        (tmp_path / name).write_bytes(content)
        assert read_volume(tmp_path / name, max_bytes=4 * VOXELS.size).shape == VOXELS.shape
        with pytest.raises(UnreadableScanError) as caught:
            read_volume(tmp_path / name, max_bytes=4 * VOXELS.size - 1)
        assert caught.value.code == "E_TOO_LARGE"


def test_other_data_is_not_taken_for_one_of_them(tmp_path):
    for name in ("notes.mha", "notes.nrrd", "notes.mhd"):
        Path(tmp_path / name).write_bytes(b"These are notes, and no scan.")
        with pytest.raises(UnreadableScanError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code == "E_NOT_NIFTI"


@pytest.mark.parametrize("lost", [1, 20])
def test_voxels_at_the_end_of_a_file_that_is_cut_off_are_not_read(tmp_path, lost):
    """They are counted from the end, and would begin in the header."""
    (tmp_path / "cut.nrrd").write_bytes(nrrd({"byteskip": "-1"}, SHORTS)[:-lost])
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path / "cut.nrrd")
    assert caught.value.code == "E_TRUNCATED"
