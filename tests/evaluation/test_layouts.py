"""Folders of other tools: nnU-Net's labels, the challenge's submission, plain folders."""

import json

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import ResultsError
from mendscan.evaluation.folders import evaluate_folder
from mendscan.evaluation.layouts import find_labels, find_predictions


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values, np.float32), np.eye(4)), path)


def a_map(seed):
    return np.random.default_rng(seed).random((4, 5, 6))


def a_label(seed):
    return a_map(seed) > 0.8


def test_nnunet_names_meet_flat_labels(tmp_path):
    for index in range(3):
        save(tmp_path / "maps" / f"brain_{index:03}_0000.nii.gz", a_map(index))
        save(tmp_path / "labelsTs" / f"brain_{index:03}.nii.gz", a_label(index) if index else np.zeros((4, 5, 6)))
    evaluation = evaluate_folder(tmp_path / "maps", tmp_path / "labelsTs", resamples=10)
    assert [case.name for case in evaluation.cases] == ["brain_000", "brain_001", "brain_002"]
    assert evaluation.counts["counted_as_zeros"] == evaluation.counts["without_label"] == 0
    assert [case.anomalous for case in evaluation.cases] == [False, True, True]
    assert any("no scan labels" in remark for remark in evaluation.remarks)
    assert evaluation["sample_auroc"] is None  # the method gave no scores


def test_a_case_really_named_0000_keeps_its_name(tmp_path):
    save(tmp_path / "labels" / "x_0000.nii.gz", a_label(0))
    save(tmp_path / "labels" / "x.nii.gz", a_label(1))
    save(tmp_path / "maps" / "x_0000.nii.gz", a_map(0))
    predicted = find_predictions(tmp_path / "maps").named_as(find_labels(tmp_path / "labels"))
    assert set(predicted.maps) == {"x_0000"}


def test_a_challenge_submission(tmp_path):
    for index in range(3):
        save(tmp_path / "sub" / "pixel" / f"{index}.nii.gz", a_map(index))
        save(tmp_path / "toy" / "pixel" / f"{index}.nii.gz", a_label(index))
        for folder, text in (("sub", f"{index / 4}\n"), ("toy", str(int(index > 1)))):
            (tmp_path / folder / "sample").mkdir(exist_ok=True)
            (tmp_path / folder / "sample" / f"{index}.nii.gz.txt").write_text(text)
    evaluation = evaluate_folder(tmp_path / "sub", tmp_path / "toy", resamples=10)
    assert evaluation["sample_auroc"] == 1
    assert [case.score for case in evaluation.cases] == [0, 0.25, 0.5]
    assert evaluation.threshold is None


def test_maps_and_scores_side_by_side(tmp_path):
    save(tmp_path / "flat" / "a.nii.gz", a_map(0))
    (tmp_path / "flat" / "a.nii.gz.txt").write_text("0.75")
    found = find_predictions(tmp_path / "flat")
    assert (set(found.maps), found.scores) == ({"a"}, {"a": 0.75})


def test_our_results_name_their_threshold_and_failed_scans_have_no_score(tmp_path):
    save(tmp_path / "maps" / "a.nii.gz", a_map(0))
    (tmp_path / "scores.csv").write_text("case,status,score,p_value\na,ok,3.5,0.25\nb,failed,,\n")
    (tmp_path / "results.json").write_text(json.dumps({"map_threshold": 0.5}))
    found = find_predictions(tmp_path)
    assert (found.map_threshold, found.scores, found.p_values) == (0.5, {"a": 3.5}, {"a": 0.25})


def test_labels_may_lie_one_folder_down_with_their_tables_beside(tmp_path):
    save(tmp_path / "labels" / "pixel" / "a_local.nii.gz", a_label(0))
    (tmp_path / "anomalies.csv").write_text(
        "case,lesion,scope,kind,size,contrast\na_local,1,local,bright,small,faint\n"
    )
    (tmp_path / "cases.csv").write_text("case,subject\na_local,a\n")
    labels = find_labels(tmp_path)
    assert labels.subjects == {"a_local": "a"}
    assert (labels.anomalies[0].lesion, labels.anomalies[0].kind, labels.anomalies[0].whole) == (1, "bright", False)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("scores.csv", "name,value\na,1\n", "columns are missing .*found name, value, expected case, score"),
        ("results.json", "{", "not the facts of a detection"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, text, words):
    save(tmp_path / "maps" / "a.nii.gz", a_map(0))
    (tmp_path / name).write_text(text)
    with pytest.raises(ResultsError, match=f"{name}: {words}"):
        find_predictions(tmp_path)


def test_values_outside_the_unit_interval_are_told(tmp_path):
    save(tmp_path / "maps" / "a.nii.gz", 3 * a_map(0) - 1)
    save(tmp_path / "labels" / "a.nii.gz", a_label(1))
    evaluation = evaluate_folder(tmp_path / "maps", tmp_path / "labels", resamples=10)
    assert "outside [0, 1] and were clipped" in evaluation.remarks[0]


def test_an_exact_name_goes_before_a_channel_suffix(tmp_path):
    save(tmp_path / "labels" / "x.nii.gz", a_label(0))
    save(tmp_path / "maps" / "x.nii.gz", a_map(0))
    save(tmp_path / "maps" / "x_0000.nii.gz", a_map(1))
    predicted = find_predictions(tmp_path / "maps").named_as(find_labels(tmp_path / "labels"))
    assert {name: path.name for name, path in predicted.maps.items()} == {
        "x": "x.nii.gz",
        "x_0000": "x_0000.nii.gz",
    }


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("3.0", 3), ("", None)])
def test_lesion_numbers_as_tables_have_them(tmp_path, text, number):
    save(tmp_path / "a.nii.gz", a_label(0))
    (tmp_path / "anomalies.csv").write_text(f"case,kind,lesion\na,bright,{text}\n")
    assert find_labels(tmp_path).anomalies[0].lesion == number


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("anomalies.csv", "case,kind,lesion\na,bright,²\n", "not the number of a lesion .*found ²"),
        ("anomalies.csv", "case,kind,lesion\na,bright,1\na,dark,1.0\n", "two rows of the same lesion .*found a 1"),
        ("anomalies.csv", "case,kind,lesion\na\n", "row 1 is too short .*found 1 cells, expected 3"),
        ("cases.csv", "case,subject\na,x\na,y\n", "row 2 is of the same case"),
        ("cases.csv", "", "columns are missing .*found an empty file"),
    ],
)
def test_a_broken_table_of_labels_is_named(tmp_path, name, text, words):
    save(tmp_path / "a.nii.gz", a_label(0))
    (tmp_path / name).write_text(text)
    with pytest.raises(ResultsError, match=f"{name}: {words}"):
        find_labels(tmp_path)


def test_a_case_without_a_named_subject_is_its_own(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.nii.gz", a_label(0))
    (tmp_path / "cases.csv").write_text("case,subject\na,\nb,\n")
    assert find_labels(tmp_path).subjects == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [(value, "map_threshold is no threshold") for value in ('"0.3"', "[1]", "true", "-5")]
    + [(value, "not the facts of a detection") for value in ("NaN", "1e400")],
)
def test_a_threshold_that_is_none_is_named(tmp_path, value, said):
    save(tmp_path / "maps" / "a.nii.gz", a_map(0))
    (tmp_path / "results.json").write_text(f'{{"map_threshold": {value}}}')
    with pytest.raises(ResultsError, match=rf"results\.json: {said}"):
        find_predictions(tmp_path)
