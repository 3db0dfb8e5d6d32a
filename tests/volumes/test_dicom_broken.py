"""DICOM series out of order: one code for each kind, and never a word about the patient."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from mendscan.errors import GeometryError, IntensityError, MendscanError, UnreadableScanError
from mendscan.volumes import dicom_decoding, read_volume
from volumes.dicom_files import (
    AXIAL,
    CANARY,
    edited,
    new_dataset,
    save,
    some_voxels,
    with_person,
    write_multiframe,
    write_object,
    write_series,
)

Maker = Callable[[Path], object]


def with_fields(**fields: object) -> Maker:
    return lambda folder: write_series(folder, **fields)  # type: ignore[arg-type]


def in_one(k: int, change: Callable[[Dataset], object]) -> Maker:
    """A series of which one slice is changed."""

    def make(folder: Path) -> None:
        edited(write_series(folder)[k], change)

    return make


def without(keyword: str, k: int = 0) -> Maker:
    return in_one(k, lambda dataset: delattr(dataset, keyword))


def setting(keyword: str, value: object, k: int = 0) -> Maker:
    return in_one(k, lambda dataset: setattr(dataset, keyword, value))


def unchecked(keyword: str, text: str, k: int = 0) -> Maker:
    """A value that pydicom refuses to write: its bytes are put in afterwards."""

    def make(folder: Path) -> None:
        path = write_series(folder, RescaleSlope="1.250000", RescaleIntercept="0", PixelSpacing=["1.250000", "1.5"])[k]
        content = path.read_bytes()
        assert content.count(b"1.250000") == 2
        at = content.index(b"1.250000") if keyword == "PixelSpacing" else content.rindex(b"1.250000")
        path.write_bytes(content[:at] + text.encode().ljust(8) + content[at + 8 :])

    return make


def moved(k: int, x: float = 0, z: float = 0) -> Maker:
    def change(dataset: Dataset) -> None:
        old = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [old[0] + x, old[1], old[2] + z]

    return in_one(k, change)


def missing(*ks: int) -> Maker:
    def make(folder: Path) -> None:
        paths = write_series(folder, some_voxels((7, 8, 12)))
        for k in ks:
            paths[k].unlink()

    return make


def two_echoes(folder: Path) -> None:
    write_series(folder, uid="1.2.3", name="a{index}")
    write_series(folder, some_voxels()[::-1], uid="1.2.3", name="b{index}")


def two_series(folder: Path) -> None:
    write_series(folder, name="a{index}")
    write_series(folder, number=4, name="b{index}")


def cut(size: int | float) -> Maker:
    def make(folder: Path) -> None:
        path = write_series(folder)[1]
        content = path.read_bytes()
        path.write_bytes(content[: int(size if size >= 1 else size * len(content))])

    return make


def cut_fragment(folder: Path) -> None:
    path = write_series(folder, change=lambda dataset, _: dataset.compress(RLELossless))[1]
    path.write_bytes(path.read_bytes()[:-60])


def scrambled_fragment(folder: Path) -> None:
    path = write_series(folder, some_voxels((40, 36, 4)), change=lambda dataset, _: dataset.compress(JPEG2000Lossless))[
        1
    ]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 4 : start + 30] = bytes(26)
    path.write_bytes(content)


def other_syntax(uid: str) -> Maker:
    def make(folder: Path) -> None:
        def change(dataset: Dataset, _: int) -> None:
            dataset.compress(RLELossless)
            dataset.file_meta.TransferSyntaxUID = uid

        write_series(folder, change=change)

    return make


def unknown_syntax(folder: Path) -> None:
    path = write_series(folder)[1]
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))


def deflated(folder: Path) -> None:
    def change(dataset: Dataset, _: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_series(folder, change=change)


def nested(folder: Path) -> None:
    write_series(folder)
    inner = with_person(Dataset())
    for _ in range(400):
        outer = Dataset()
        outer.RequestAttributesSequence = [inner]
        outer["RequestAttributesSequence"].is_undefined_length = True
        inner = outer
    dataset = new_dataset(EncapsulatedPDFStorage)
    dataset.RequestAttributesSequence = [inner]
    dataset["RequestAttributesSequence"].is_undefined_length = True
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        save(dataset, folder / "nested.dcm")
    finally:
        sys.setrecursionlimit(limit)


def colours(folder: Path) -> None:
    def change(dataset: Dataset, _: int) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)

    write_series(folder, change=change)


def frames(change: Callable[[Dataset], object]) -> Maker:
    return lambda folder: (folder.mkdir(), write_multiframe(folder / "a.dcm", some_voxels(), change=change))


def lookup_table(dataset: Dataset, _: int) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "US", bytes(4)
    dataset.ModalityLUTSequence = [table]


def only_objects(folder: Path) -> None:
    write_object(folder / "a.dcm", EncapsulatedPDFStorage, "DOC")


BROKEN: dict[str, tuple[Maker, type[MendscanError], str]] = {
    "no position": (without("ImagePositionPatient"), GeometryError, "E_GEOMETRY"),
    "no position at the end": (without("ImagePositionPatient", 5), GeometryError, "E_GEOMETRY"),
    "no orientation": (without("ImageOrientationPatient", 5), GeometryError, "E_GEOMETRY"),
    "no spacing": (without("PixelSpacing"), GeometryError, "E_GEOMETRY"),
    "spacing zero": (with_fields(PixelSpacing=["0", "1"]), GeometryError, "E_GEOMETRY"),
    "spacing not a number": (unchecked("PixelSpacing", "nan"), GeometryError, "E_GEOMETRY"),
    "one spacing": (with_fields(PixelSpacing=["1.5"]), GeometryError, "E_GEOMETRY"),
    "position infinite": (setting("ImagePositionPatient", ["1e400", "0", "0"], 2), GeometryError, "E_GEOMETRY"),
    "no right angle": (with_fields(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), GeometryError, "E_GEOMETRY"),
    "no direction": (with_fields(ImageOrientationPatient=[0] * 6), GeometryError, "E_GEOMETRY"),
    "a slice missing": (missing(4), GeometryError, "E_MISSING_SLICES"),
    "slices missing": (missing(2, 3, 7), GeometryError, "E_MISSING_SLICES"),
    "unequal": (moved(2, z=0.9), GeometryError, "E_SLICE_SPACING"),
    "beside the line": (moved(2, x=5), GeometryError, "E_SLICE_SPACING"),
    "two echoes": (two_echoes, GeometryError, "E_SEVERAL_VOLUMES"),
    "two series": (two_series, UnreadableScanError, "E_SEVERAL_SERIES"),
    "three slices": (lambda f: write_series(f, some_voxels((7, 8, 3))), GeometryError, "E_DIMENSIONS"),
    "slope NaN": (unchecked("RescaleSlope", "NaN", 3), IntensityError, "E_SCALING"),
    "slope infinite": (unchecked("RescaleSlope", "inf"), IntensityError, "E_SCALING"),
    "slope 1e400": (unchecked("RescaleSlope", "1e400"), IntensityError, "E_SCALING"),
    "slope 1e-400": (unchecked("RescaleSlope", "1e-400"), IntensityError, "E_SCALING"),
    "slope 1e38": (unchecked("RescaleSlope", "1e38"), IntensityError, "E_SCALING"),
    "slope 1e30": (unchecked("RescaleSlope", "1e30"), IntensityError, "E_SCALING"),
    "slope in words": (unchecked("RescaleSlope", CANARY), UnreadableScanError, "E_CORRUPT"),
    "lookup table": (lambda f: write_series(f, change=lookup_table), IntensityError, "E_SCALING"),
    "colours": (colours, IntensityError, "E_COLOUR"),
    "constant": (lambda f: write_series(f, np.ones((7, 8, 6), int)), IntensityError, "E_CONSTANT"),
    "cut pixels": (cut(0.95), UnreadableScanError, "E_TRUNCATED"),
    "no pixels": (without("PixelData"), UnreadableScanError, "E_TRUNCATED"),
    "cut header": (cut(700), UnreadableScanError, "E_TRUNCATED"),
    "cut in the first fields": (cut(150), UnreadableScanError, "E_CORRUPT"),
    "cut before all": (cut(100), UnreadableScanError, "E_CORRUPT"),
    "empty file": (lambda f: (write_series(f), (f / "x.dcm").write_bytes(b"")), UnreadableScanError, "E_EMPTY"),
    "cut fragment": (cut_fragment, UnreadableScanError, "E_TRUNCATED"),
    "scrambled fragment": (scrambled_fragment, UnreadableScanError, "E_CORRUPT"),
    "no decoder": (other_syntax("1.2.840.10008.1.2.4.100"), UnreadableScanError, "E_CODEC"),
    "no transfer syntax": (unknown_syntax, UnreadableScanError, "E_CORRUPT"),
    "deflated": (deflated, UnreadableScanError, "E_CODEC"),
    "one bit": (setting("BitsAllocated", 1), UnreadableScanError, "E_DATATYPE"),
    "too large": (with_fields(Rows=65535, Columns=65535), UnreadableScanError, "E_TOO_LARGE"),
    "promises much": (with_fields(Rows=9000, Columns=9000), UnreadableScanError, "E_TRUNCATED"),
    "nested": (nested, UnreadableScanError, "E_CORRUPT"),
    "frames that nobody describes": (
        frames(lambda dataset: delattr(dataset, "PerFrameFunctionalGroupsSequence")),
        GeometryError,
        "E_GEOMETRY",
    ),
    "more frames than descriptions": (
        frames(lambda dataset: setattr(dataset, "NumberOfFrames", 7)),
        UnreadableScanError,
        "E_CORRUPT",
    ),
    "endless frames": (
        frames(lambda d: (delattr(d, "PerFrameFunctionalGroupsSequence"), setattr(d, "NumberOfFrames", 2**31 - 1))),
        UnreadableScanError,
        "E_CORRUPT",
    ),
    "no images": (only_objects, UnreadableScanError, "E_NO_SERIES"),
    "an empty folder": (lambda folder: folder.mkdir(), UnreadableScanError, "E_NO_SERIES"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_series_becomes_one_typed_error_that_names_no_patient(tmp_path, caplog, capfd, name):
    make, kind, code = BROKEN[name]
    make(tmp_path / "series")
    with pytest.raises(kind) as caught:
        read_volume(tmp_path / "series")
    error = caught.value
    assert error.code == code, error
    assert str(error).startswith(f"{tmp_path / 'series'}: ")
    assert error.remedy or error.found
    said = "".join(traceback.format_exception(error)) + caplog.text + "".join(capfd.readouterr())
    assert CANARY not in said


def test_messages_say_which_slices_and_what_to_do(tmp_path):
    for name, words in {
        "slices missing": ["3 slices are missing", "2 between -6.0 and 3.0 mm", "1 between 9.0 and 15.0 mm", "3.00 mm"],
        "two series": ["s003 (MR, 6 slices)", "s004 (MR, 6 slices)", "FOLDER_s003"],
        "two echoes": ["2 different images", "echo"],
        "no images": ["Encapsulated PDF (1 files)"],
        "empty file": ["1 of 7 DICOM files cannot be read"],
        "no decoder": ["pip install 'mendscan[dicom]'"],
        "three slices": ["series 3 (MR), too few slices of one kind: 3"],
    }.items():
        BROKEN[name][0](tmp_path / name)
        with pytest.raises(MendscanError) as caught:
            read_volume(tmp_path / name)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    write_series(tmp_path, some_voxels((40, 36, 4)), change=lambda dataset, _: dataset.compress(JPEG2000Lossless))

    class NotInstalled:
        available_plugins = ()

    monkeypatch.setattr(dicom_decoding, "get_decoder", lambda _: NotInstalled)
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "E_CODEC"
    assert "JPEG 2000" in str(caught.value)
    assert "pip install 'mendscan[dicom]'" in str(caught.value)


def end_the_process(*_: object) -> None:
    os._exit(7)


def test_a_decoder_that_ends_its_process_fails_one_scan(tmp_path, monkeypatch):
    write_series(tmp_path, some_voxels((40, 36, 4)), change=lambda dataset, _: dataset.compress(JPEG2000Lossless))
    monkeypatch.setattr(dicom_decoding, "_plugins", lambda *_: ("gdcm",))
    assert read_volume(tmp_path).shape == (40, 36, 4)
    monkeypatch.setattr(dicom_decoding, "_unpacked_by_gdcm", end_the_process)
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "E_CORRUPT"


def test_one_slice_is_no_scan(tmp_path):
    path = write_series(tmp_path)[0]
    with pytest.raises(GeometryError) as caught:
        read_volume(path)
    assert caught.value.code == "E_DIMENSIONS"
    assert "give the folder" in str(caught.value)


def test_slices_of_another_orientation_are_left_out_with_a_warning(tmp_path, caplog):
    uid = generate_uid()
    write_series(tmp_path, uid=uid)
    write_series(tmp_path, some_voxels()[:, :, :2], AXIAL[:, [0, 2, 1, 3]], uid=uid, name="other{index}.dcm")
    assert read_volume(tmp_path).shape == (7, 8, 6)
    assert "2 slices of the series are of another size, orientation or spacing" in caplog.text


def test_small_errors_of_positions_are_forgiven(tmp_path):
    def round_off(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient = [round(float(x) + 0.004 * (-1) ** k, 3) for x in dataset.ImagePositionPatient]

    write_series(tmp_path, change=round_off)
    np.testing.assert_allclose(read_volume(tmp_path).spacing_mm, (1.5, 1.25, 3), atol=0.01)


def test_damaged_files_raise_nothing_but_typed_errors(tmp_path, caplog, capfd):
    paths = write_series(tmp_path, change=lambda dataset, _: None)
    said: list[str] = []
    intact, generator = paths[2].read_bytes(), np.random.default_rng(0)
    for turn in range(150):
        data = bytearray(intact)
        for position in generator.integers(128, len(data), size=generator.integers(1, 6)):
            data[position] = generator.integers(0, 256)
        paths[2].write_bytes(data)
        os.utime(paths[2], ns=(turn, turn))  # a header is read anew if the time is another
        try:
            volume = read_volume(tmp_path, max_bytes=2**20)
        except MendscanError as error:
            assert error.code.startswith("E_")  # noqa: PT017 - some of the damaged files are still readable
            said.append("".join(traceback.format_exception(error)))
        else:
            assert np.isfinite(volume.voxels_XYZ).all()
    assert CANARY not in "".join([*said, caplog.text, *capfd.readouterr()])


@pytest.mark.parametrize("size", [0.2, 0.4, 0.6, 0.8, 0.97])
def test_a_series_is_never_read_from_a_cut_file(tmp_path, size):
    cut(size)(tmp_path)
    with pytest.raises(UnreadableScanError):
        read_volume(tmp_path)
