"""Tables: what is written is read back, and no spreadsheet runs it."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendscan.errors import ResultsError, WriteError
from mendscan.volumes.tables import read_csv, write_csv

FORMULAS = tuple("=+-@＝＋－＠")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(ANY_TEXT | st.text("=-;,\t\n'\" a"), min_size=1, max_size=5))
def test_any_text_comes_back_and_is_no_formula(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    write_csv(path, [{"case": name, "note": name} for name in names], ["case", "note"])
    assert [(row["case"], row["note"]) for row in read_csv(path, ["case"])] == [(name, name) for name in names]
    for separator in (",", ";", "\t"):  # as spreadsheets of different countries read it
        with path.open(newline="", encoding="utf-8") as opened:
            cells = [cell for row in csv.reader(opened, delimiter=separator) for cell in row]
        assert not [cell for cell in cells if cell.lstrip("\t\r\n").startswith(FORMULAS)]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("-q", "'-q"),
        ("=cmd", "'=cmd"),
        ("'-q", "''-q"),
        ("''=x", "'''=x"),
        ("'", "'"),
        ("it's", "it's"),
        ("\t1", "'\t1"),
        ("@a", "'@a"),
        ("＝a", "'＝a"),
        ("a;=cmd()", "a;'=cmd()"),
        ('a;"=cmd()', "a;'\"=cmd()"),
        ("a; -q", "a; -q"),
        ("T1-weighted", "T1-weighted"),
    ],
)
def test_what_would_be_a_formula_is_guarded_and_comes_back(tmp_path, name, written):
    write_csv(tmp_path / "a.csv", [{"case": name}], ["case"])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as opened:
        assert list(csv.reader(opened))[1] == [written]
    (row,) = read_csv(tmp_path / "a.csv", ["case"])
    assert row["case"] == name


def test_csv_guards_text_against_formulas_and_leaves_numbers(tmp_path):
    rows = [
        {"case": "=cmd()", "score": -1.5, "note": None},
        {"case": "@a,b", "score": np.float32(0.25), "note": "+1\n2"},
        {"case": "-x", "score": 3},
    ]
    write_csv(tmp_path / "a.csv", rows, ["case", "score", "note"])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["case", "score", "note"],
            ["'=cmd()", "-1.5", ""],
            ["'@a,b", "0.25", "'+1\n2"],
            ["'-x", "3", ""],
        ]


def test_csv_refuses_a_column_that_would_be_lost(tmp_path):
    with pytest.raises(WriteError) as caught:
        write_csv(tmp_path / "a.csv", [{"a": 1, "b": 2}], ["a"])
    assert caught.value.code == "E_COLUMNS"


def test_empty_table_has_its_header(tmp_path):
    write_csv(tmp_path / "a.csv", [], ["a", "b"])
    assert (tmp_path / "a.csv").read_text() == "a,b\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns are missing .*found an empty file, expected case"),
        ("name;score\n", "columns are missing .*commas"),
        ("case,score\na\n", "row 1 is too short .*found 1 cells, expected 2 cells"),
        ("case,score\na,1\nb,1\na,2\n", "row 3 is of the same case as one before .*found a"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ResultsError, match=f"a.csv: {words}"):
        read_csv(tmp_path / "a.csv", ["case", "score"], key=["case"])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"case\n\xff\xfe\n")
    with pytest.raises(ResultsError, match="the table cannot be read"):
        read_csv(tmp_path / "a.csv", ["case"])
