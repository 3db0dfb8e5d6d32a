"""Pseudonyms: the same for the same name and key, and nothing that is said holds a name."""

from __future__ import annotations

import logging
import os
import stat
import traceback
from pathlib import Path

import pytest

from mendscan.errors import CohortError, MendscanError, SettingsError, WriteError
from mendscan.progress import Silent
from mendscan.volumes.pseudonyms import pseudonym, pseudonymised_scans, read_or_make_key
from volumes.dicom_files import CANARY, some_voxels, write_object, write_series

KEY = b"0123456789abcdef"


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_new_key_is_for_its_owner_alone_and_is_announced(tmp_path):
    said = Said()
    key = read_or_make_key(tmp_path / "key", progress=said)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert len(key) == 64
    assert len(said.lines) == 1
    assert "keep it" in said.lines[0]
    assert key.decode() not in said.lines[0]
    assert read_or_make_key(tmp_path / "key", progress=said) == key
    assert len(said.lines) == 1
    assert read_or_make_key(tmp_path / "other") != key


@pytest.mark.parametrize("content", [b"", b"too short\n", b"x" * 5000])
def test_what_is_no_key_is_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_or_make_key(tmp_path / "key")
    assert caught.value.code == "E_KEY"
    assert (tmp_path / "key").read_bytes() == content


def test_what_is_no_file_is_no_key(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingsError) as caught:
            read_or_make_key(path)
        assert caught.value.code == "E_KEY"
    with pytest.raises(WriteError):
        read_or_make_key(tmp_path / "absent" / "key")


def test_a_key_that_others_may_read_is_a_warning(tmp_path, caplog):
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert read_or_make_key(tmp_path / "key") == KEY
    assert "chmod 600" in caplog.text


def test_pseudonyms_depend_on_name_and_key_alone(tmp_path):
    for name in ("x.nii.gz", "a/x.nii", "a/y.mha"):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(b"")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "x.nrrd").write_bytes(b"")
    named = pseudonymised_scans(tmp_path / "one", KEY)
    assert named == {
        pseudonym("x", KEY): tmp_path / "one" / "x.nii.gz",
        pseudonym("a/x", KEY): tmp_path / "one" / "a" / "x.nii",
        pseudonym("a/y", KEY): tmp_path / "one" / "a" / "y.mha",
    }
    assert list(named) == sorted(named)
    assert all(len(name) == 12 for name in named)
    assert list(pseudonymised_scans(tmp_path / "two", KEY)) == [pseudonym("x", KEY)]
    assert list(pseudonymised_scans(tmp_path / "one" / "x.nii.gz", KEY)) == [pseudonym("x", KEY)]
    assert pseudonym("x", KEY) != pseudonym("x", KEY[::-1])
    assert pseudonym("e\u0301", KEY) == pseudonym("\u00e9", KEY)


def test_series_of_one_name_in_two_folders_are_told_apart(tmp_path):
    write_series(tmp_path / "A" / "T1")
    write_series(tmp_path / "B" / "T1", some_voxels()[::-1])
    write_series(tmp_path / "B" / "T1", number=4, name="b{index}")
    named = pseudonymised_scans(tmp_path, KEY)
    assert set(named) == {pseudonym(name, KEY) for name in ("A/T1", "B/T1/T1_s003", "B/T1/T1_s004")}


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in (f"{CANARY}.nii", f"{CANARY}.mha"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CohortError) as caught:
        pseudonymised_scans(tmp_path, KEY)
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert "1 pseudonyms for 2 scans" in str(caught.value)


def test_nothing_that_is_said_names_a_file_or_folder(tmp_path, caplog):
    root = tmp_path / CANARY
    write_object(root / CANARY / CANARY, "1.2.840.10008.5.1.4.1.1.104.1", "DOC")
    write_series(root / f"{CANARY}2", some_voxels((7, 8, 2)))
    said = []

    def try_it(path: Path) -> None:
        try:
            pseudonymised_scans(path, KEY)
        except MendscanError as error:
            said.append("".join(traceback.format_exception(error)))

    try_it(root)
    try_it(root / "absent")
    assert len(said) == 2
    assert "no scans found" in said[0]
    write_series(root / f"{CANARY}3")
    try_it(root)
    assert len(said) == 2
    assert f"folder {pseudonym(CANARY, KEY)}: left out: Encapsulated PDF" in caplog.text
    assert f"folder {pseudonym(f'{CANARY}2', KEY)}: left out: series 3 (MR)" in caplog.text
    assert CANARY not in caplog.text + "".join(said)
