"""The store holds what `prepare` gives, and no scan serves twice."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from cohort.conftest import Listener, structured_scan, write_scan
from mendscan.cohort import store as store_module
from mendscan.cohort.preparing import prepare
from mendscan.cohort.store import Split, measure_cohort, prepare_cohort, split_by_content
from mendscan.config import PRESETS, Settings, override
from mendscan.errors import CohortError, UnreadableScanError, WriteError
from mendscan.volumes import find_scans, read_volume, write_map
from volumes.dicom_files import write_series

SETTINGS = override(
    PRESETS["brain"],
    [
        "preparation.shape_XYZ=16,24,8",
        "preparation.training_margin_slices=0",
        "preparation.intensity=robust",
        "prior.attention_downsampling=1",
    ],
)
HASHES = tuple(hashlib.sha256(bytes([k])).hexdigest() for k in range(100))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in this process: starting others takes seconds."""
    monkeypatch.setattr("mendscan.parallel.available_cores", lambda: 0)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Nine scans, differently stored."""
    folder = tmp_path / "scans"
    folder.mkdir()
    codes, dtypes = ("RAS", "LPS", "SAR"), (np.float32, np.int16)
    return [
        write_scan(
            folder / f"case{k}.nii.gz", structured_scan(k, (20, 22, 18)), codes=codes[k % 3], dtype=dtypes[k % 2]
        )
        for k in range(9)
    ]


def parts(split: Split) -> list[tuple[str, ...]]:
    return [split.train, split.validation, split.calibration]


def with_training(*assignments: str) -> Settings:
    return override(SETTINGS, [f"training.{one}" for one in assignments])


# Splitting


@pytest.mark.parametrize("count", [8, 9, 25, 100])
def test_every_scan_is_in_exactly_one_part(count: int) -> None:
    split = split_by_content(HASHES[:count], SETTINGS)
    assert sorted(sum(parts(split), ())) == sorted(HASHES[:count])
    assert min(map(len, parts(split))) >= 1


@pytest.mark.parametrize(
    ("count", "train", "validation", "calibration"), [(8, 5, 1, 2), (25, 20, 2, 3), (50, 40, 4, 6), (100, 80, 8, 12)]
)
def test_fractions_are_kept(count: int, train: int, validation: int, calibration: int) -> None:
    split = split_by_content(HASHES[:count], SETTINGS)
    assert [len(part) for part in parts(split)] == [train, validation, calibration]


def test_fractions_are_settings() -> None:
    split = split_by_content(HASHES, with_training("validation_fraction=0.3", "calibration_fraction=0.5"))
    assert [len(part) for part in parts(split)] == [20, 30, 50]


def test_the_order_of_the_scans_does_not_matter() -> None:
    assert split_by_content(HASHES[::-1], SETTINGS) == split_by_content(HASHES, SETTINGS)


def test_the_seed_does() -> None:
    first, other = (split_by_content(HASHES, override(SETTINGS, [f"seed={seed}"])) for seed in (0, 1))
    assert set(first.calibration) != set(other.calibration)


def test_parts_do_not_follow_the_hashes_order() -> None:
    """The split is a shuffle, not a cut of the sorted hashes."""
    order = sorted(HASHES)
    for seed in range(5):
        split = split_by_content(HASHES, override(SETTINGS, [f"seed={seed}"]))
        ranks = [order.index(content) for content in split.calibration + split.validation]
        assert 30 < np.mean(ranks) < 70


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_scans_are_refused(count: int) -> None:
    with pytest.raises(CohortError, match="at least 8") as caught:
        split_by_content(HASHES[:count], SETTINGS)
    assert caught.value.code == "E_TOO_FEW_SCANS"
    assert caught.value.found == count


def test_fractions_that_leave_nothing_to_train_on_are_refused() -> None:
    greedy = with_training("validation_fraction=0.45", "calibration_fraction=0.5")
    with pytest.raises(CohortError):
        split_by_content(HASHES[:8], greedy)


def test_split_goes_into_json() -> None:
    split = split_by_content(HASHES[:8], SETTINGS)
    assert split.to_json() == {
        "train": split.train,
        "validation": split.validation,
        "calibration": split.calibration,
    }


@pytest.mark.usefixtures("here")
def test_renaming_and_compressing_files_does_not_change_the_split(paths: list[Path], tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for k, path in enumerate(paths):
        target = renamed / f"{(7 * k) % 9}-other.nii"
        target.write_bytes(gzip.decompress(path.read_bytes()) if k % 2 else path.read_bytes())
    splits = []
    for files in (paths, sorted(renamed.iterdir())):
        _, facts = measure_cohort(files, Listener())
        splits.append(split_by_content([fact.content_hash for fact in facts], SETTINGS))
    assert splits[0] == splits[1]


# Measuring


@pytest.mark.usefixtures("here")
def test_every_scan_is_measured_in_order(paths: list[Path]) -> None:
    listener = Listener()
    found, facts = measure_cohort(paths[::-1], listener)
    assert found == paths[::-1]
    assert [fact.name for fact in facts] == [f"case{k}" for k in range(8, -1, -1)]
    assert [fact.content_hash for fact in facts] == [read_volume(path).content_hash for path in paths[::-1]]
    assert (listener.stages, listener.units, listener.messages) == ([("measure", 9)], 9, [])


@pytest.mark.usefixtures("here")
def test_a_cohort_of_series_is_the_cohort_of_the_same_scans_in_files(tmp_path: Path) -> None:
    for k in range(3):
        scan = (structured_scan(k, (20, 22, 18)) * 100).astype(np.int32)
        write_series(tmp_path / "series" / f"case{k}", scan - scan.min(), np.diag([-2.0, -2.0, 2.0, 1.0]))
        volume = read_volume(tmp_path / "series" / f"case{k}")
        (tmp_path / "files").mkdir(exist_ok=True)
        write_map(tmp_path / "files" / f"case{k}.nii.gz", volume.voxels_XYZ, volume)
    cohorts = [measure_cohort(find_scans(tmp_path / kind), Listener())[1] for kind in ("series", "files")]
    assert cohorts[0] == cohorts[1]
    assert [fact.name for fact in cohorts[0]] == ["case0", "case1", "case2"]


@pytest.mark.usefixtures("here")
def test_unusable_scans_are_left_out_by_name(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    write_scan(paths[5], np.full((20, 22, 18), 3.0, np.float32))
    paths[7].unlink()
    listener = Listener()
    found, facts = measure_cohort(paths, listener)
    assert found == [path for k, path in enumerate(paths) if k not in (2, 5, 7)]
    assert [fact.name for fact in facts] == [f"case{k}" for k in (0, 1, 3, 4, 6, 8)]
    assert len(listener.messages) == 3
    for path, message in zip((paths[2], paths[5], paths[7]), listener.messages, strict=True):
        assert message.startswith(f"left out: {path}: ")
    assert "no such file" in listener.messages[2]
    assert listener.units == 9


@pytest.mark.usefixtures("here")
def test_duplicates_are_left_out_by_name(paths: list[Path]) -> None:
    copies = [paths[0].with_name("zz-copy.nii.gz"), paths[0].with_name("zz-again.nii.gz")]
    for copy in copies:
        copy.write_bytes(paths[4].read_bytes())
    listener = Listener()
    found, facts = measure_cohort([*paths, *copies], listener)
    assert found == paths
    assert len({fact.content_hash for fact in facts}) == len(facts) == 9
    assert listener.messages == [f"left out: {copy} has the same content as case4.nii.gz" for copy in copies]


@pytest.mark.usefixtures("here")
def test_nothing_usable_is_nothing_left(tmp_path: Path) -> None:
    assert measure_cohort([tmp_path / "missing.nii"], Listener()) == ([], [])


# Preparing


def hashes_of(paths: list[Path]) -> list[str]:
    return [read_volume(path).content_hash for path in paths]


def test_the_store_holds_what_prepare_gives(paths: list[Path], tmp_path: Path) -> None:
    """In processes, as in earnest."""
    listener, hashes = Listener(), hashes_of(paths)
    store = prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", listener)
    assert isinstance(store.slices_NSHW, np.memmap)
    assert store.slices_NSHW.shape == (9, *SETTINGS.shape_SHW) == (9, 8, 24, 16)
    assert store.slices_NSHW.dtype == np.float16
    assert not store.slices_NSHW.flags.writeable
    assert store.hashes == tuple(hashes)
    assert (listener.stages, listener.units) == ([("prepare", 9)], 9)
    for row, path in enumerate(paths):
        expected = prepare(read_volume(path), SETTINGS.preparation).slices_SHW.astype(np.float16)
        np.testing.assert_array_equal(store.slices_NSHW[row], expected)


@pytest.mark.usefixtures("here")
def test_rows_are_found_by_content(paths: list[Path], tmp_path: Path) -> None:
    hashes = hashes_of(paths)
    store = prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", Listener())
    assert store.rows([hashes[5], hashes[0]]) == [5, 0]
    with pytest.raises(KeyError):
        store.rows(["0"])


@pytest.mark.usefixtures("here")
def test_a_second_call_reuses_the_store(paths: list[Path], tmp_path: Path) -> None:
    hashes, listener = hashes_of(paths), Listener()
    first = prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", Listener())
    before = np.array(first.slices_NSHW)
    for path in paths:
        path.unlink()
    again = prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", listener)
    assert listener.stages == []
    np.testing.assert_array_equal(again.slices_NSHW, before)


@pytest.mark.usefixtures("here")
def test_another_recipe_or_cohort_is_another_store(paths: list[Path], tmp_path: Path) -> None:
    hashes = hashes_of(paths)
    first = prepare_cohort(paths, hashes, SETTINGS, tmp_path, Listener())
    before = np.array(first.slices_NSHW)
    paper = override(SETTINGS, ["preparation.intensity=foreground"])
    other = prepare_cohort(paths, hashes, paper, tmp_path, Listener())
    fewer = prepare_cohort(paths[1:], hashes[1:], SETTINGS, tmp_path, Listener())
    assert not np.array_equal(other.slices_NSHW, before)
    np.testing.assert_array_equal(fewer.slices_NSHW, before[1:])
    np.testing.assert_array_equal(first.slices_NSHW, before)
    listener = Listener()
    unrelated = override(SETTINGS, ["training.batch_slices=3", "seed=9"])
    prepare_cohort(paths, hashes, unrelated, tmp_path, listener)
    assert listener.stages == []


@pytest.mark.usefixtures("here")
def test_what_broke_off_is_done_again(paths: list[Path], tmp_path: Path) -> None:
    hashes = hashes_of(paths)
    away = paths[3].rename(tmp_path / "away")
    with pytest.raises(UnreadableScanError, match="case3"):
        prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", Listener())
    assert list((tmp_path / "work").glob("*.npy")) == []
    away.rename(paths[3])
    store = prepare_cohort(paths, hashes, SETTINGS, tmp_path / "work", Listener())
    assert all(np.asarray(row, np.float32).std() > 0 for row in store.slices_NSHW)
    assert sorted(path.suffix for path in (tmp_path / "work").iterdir()) == [".json", ".npy"]


# Faults


def damage(kind: str, target: Path) -> None:
    content = bytearray(target.read_bytes())
    if kind == "cut off":
        target.write_bytes(content[:-100])
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "one bit":
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    else:
        target.with_suffix(".json").unlink()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["cut off", "empty", "one bit", "no seal"])
def test_a_damaged_store_is_noticed_and_made_anew(paths: list[Path], tmp_path: Path, kind: str) -> None:
    arguments = (paths, HASHES[:9], SETTINGS, tmp_path / "work")
    prepare_cohort(*arguments, Listener())
    target = next((tmp_path / "work").glob("*.npy"))
    before = target.read_bytes()
    damage(kind, target)
    listener = Listener()
    prepare_cohort(*arguments, listener)
    assert any("damaged" in line for line in listener.messages)
    assert target.read_bytes() == before
    listener = Listener()
    prepare_cohort(*arguments, listener)
    assert not listener.messages


@pytest.mark.usefixtures("here")
def test_slices_are_flushed_before_they_are_in_place_and_their_seal_comes_last(paths, tmp_path, monkeypatch) -> None:
    calls, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("flush"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append(Path(to).suffix), replace(path, to))[1])
    prepare_cohort(paths, HASHES[:9], SETTINGS, tmp_path / "work", Listener())
    assert calls == ["flush", ".npy", "flush", ".json", "flush"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_full_disk_is_said_with_path_and_space_and_leaves_nothing(paths, tmp_path, monkeypatch, call) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store_module.os, call, full)
        with pytest.raises(WriteError, match=r"slices-.*No space left on device, [0-9.]+ MB free") as caught:
            prepare_cohort(paths, HASHES[:9], SETTINGS, tmp_path / "work", Listener())
    assert caught.value.code == "E_NO_SPACE"
    assert not list((tmp_path / "work").iterdir())
    prepare_cohort(paths, HASHES[:9], SETTINGS, tmp_path / "work", Listener())


@pytest.mark.usefixtures("here")
def test_a_mask_among_the_scans_is_left_out(paths: list[Path], tmp_path: Path) -> None:
    """It can be read, and has no contrast: training would only find out when it prepares the scans."""
    mask = structured_scan(3, (20, 22, 18)) > 0
    odd = write_scan(tmp_path / "scans" / "mask.nii.gz", mask.astype(np.float32))
    listener = Listener()
    usable, _ = measure_cohort([*paths, odd], listener)
    assert usable == paths
    assert any(str(odd) in line and "no contrast" in line for line in listener.messages)


def test_one_scan_is_not_enough_to_train_on() -> None:
    settings = with_training("calibration_fraction=0.5", "validation_fraction=0.4")
    with pytest.raises(CohortError, match="at least 11"):
        split_by_content(HASHES[:10], settings)


@pytest.mark.usefixtures("here")
def test_what_no_slice_depends_on_makes_no_other_store(paths: list[Path], tmp_path: Path) -> None:
    """A plan gets its second plane after the scans were prepared; a resumed training finds them again."""
    hashes = hashes_of(paths)
    first, again = (
        prepare_cohort(paths, hashes, override(SETTINGS, assignments), tmp_path / "work", Listener())
        for assignments in ([], ["preparation.scored_slices=3"])
    )
    assert first.slices_NSHW.filename == again.slices_NSHW.filename
