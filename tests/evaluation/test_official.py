"""The challenge's figure: equal, digit by digit, to its rules applied with nibabel and scikit-learn in memory."""

import gzip
import re
import warnings

import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mendscan.errors import ResultsError
from mendscan.evaluation.official import official_figure, official_figures

SHAPE = (6, 7, 8)


def save(path, values, *, dtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([1, 2, 3, 1.0]))
    if dtype is not None:
        image.set_data_dtype(dtype)
    nib.save(image, path)


def by_the_rules(predictions, labels):
    """Everything in memory: labels rounded and clipped, predictions as float16 and clipped, zeros for the unusable."""
    truths, scores = [], []
    for path in sorted(labels.iterdir()):
        truth = np.clip(np.rint(nib.load(path).get_fdata()).astype(int), 0, 1) == 1
        score = np.zeros(truth.shape, np.float16)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # float16 overflow
                read = nib.load(predictions / path.name).get_fdata(dtype=np.float16)
            if read.shape == truth.shape:
                score = np.clip(read, 0, 1)
        except Exception:  # noqa: BLE001
            pass
        truths.append(truth.ravel())
        scores.append(score.ravel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no positives
        return average_precision_score(np.concatenate(truths), np.concatenate(scores))


def random_map(seed, scale=1.0):
    return scale * np.random.default_rng(seed).random(SHAPE)


@pytest.fixture
def folders(tmp_path):
    """Three cases: random maps in three number formats, labels with odd values."""
    predictions, labels = tmp_path / "pred" / "pixel", tmp_path / "label" / "pixel"
    odd = np.random.default_rng(9).choice([0, 0.4, 0.5, 0.6, 1, 1.5, 2, -1], SHAPE)
    for name, truth in (("a", odd), ("b", (random_map(1) > 0.7).astype(np.uint8)), ("c", np.zeros(SHAPE, np.uint8))):
        save(labels / f"{name}.nii.gz", truth)
    save(predictions / "a.nii.gz", random_map(2).astype(np.float32))
    save(predictions / "b.nii.gz", random_map(3), dtype=np.int16)
    save(predictions / "c.nii.gz", random_map(4))
    return predictions, labels


def maps():
    half = np.round(random_map(5), 1)
    signed = random_map(6) - 0.5
    signed[0] = -0.0
    return {
        "ties": half,
        "zeros": np.zeros(SHAPE),
        "outside": 4 * random_map(5) - 2,
        "negative zero": signed,
        "subnormal": random_map(5, 1e-7),
        "overflow": random_map(5, 1e6),
        "float32": random_map(5).astype(np.float32),
        "integers": (3 * random_map(5)).astype(np.uint8),
    }


@pytest.mark.parametrize("values", maps().values(), ids=maps().keys())
def test_equal_to_the_rules_in_memory(folders, values):
    save(folders[0] / "a.nii.gz", values)
    figure = official_figure(*folders, mode="pixel")
    assert figure.value == by_the_rules(*folders)
    assert (figure.cases, figure.problems, figure.n_items) == (3, (), 3 * np.prod(SHAPE))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32])
@pytest.mark.parametrize("scale", [1.0, 0.3, 7.0])
def test_stored_scaling_is_read_as_nibabel_reads_it(folders, dtype, scale):
    save(folders[0] / "a.nii.gz", random_map(7, scale), dtype=dtype)
    assert official_figure(*folders, mode="pixel").value == by_the_rules(*folders)


def unusable():
    return {
        "missing": (lambda path: path.unlink(), "missing"),
        "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cut off"),
        "garbage": (lambda path: path.write_bytes(b"garbage"), "not a NIfTI"),
        "shape": (lambda path: save(path, np.ones((6, 7, 9))), r"shape \(6, 7, 9\), the label \(6, 7, 8\)"),
    }


@pytest.mark.parametrize(("spoil", "words"), unusable().values(), ids=unusable().keys())
def test_what_cannot_be_used_counts_as_zeros(folders, spoil, words):
    spoil(folders[0] / "b.nii.gz")
    figure = official_figure(*folders, mode="pixel")
    assert figure.value == by_the_rules(*folders)
    (problem,) = figure.problems
    assert problem.case == "b.nii.gz"
    assert "counted as zeros" in problem.problem
    assert re.search(words, problem.problem)


def test_a_label_that_cannot_be_read_leaves_its_case_out(folders):
    without = [path for path in folders[1].iterdir() if path.name != "b.nii.gz"]
    (folders[1] / "b.nii.gz").write_bytes(gzip.compress(b"garbage"))
    figure = official_figure(*folders, mode="pixel")
    assert figure.cases == len(without) == 2
    assert "the case is left out" in figure.problems[0].problem
    (folders[1] / "b.nii.gz").unlink()
    assert figure.value == by_the_rules(*folders)


def test_nan_is_an_error_as_in_the_script(folders):
    values = random_map(2)
    values[3, 3, 3] = np.nan
    save(folders[0] / "a.nii.gz", values)
    with pytest.raises(ResultsError, match=r"a\.nii\.gz: the prediction is NaN somewhere"):
        official_figure(*folders, mode="pixel")


def test_nothing_anomalous_is_zero_as_in_scikit_learn(folders):
    for name in "ab":
        save(folders[1] / f"{name}.nii.gz", np.zeros(SHAPE, np.uint8))
    assert official_figure(*folders, mode="pixel").value == by_the_rules(*folders) == 0


SCORES = {"a": "0.9\n", "b": "0.2", "c": "17", "d": "-3\nmore", "e": "0.30000001", "f": "0.3"}
TRUTHS = {"a": "1", "b": "0\n", "c": "1", "d": "0", "e": "0", "f": "1"}


def write_texts(folder, texts):
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.nii.gz.txt").write_text(text)


def test_scan_scores_are_clipped_but_not_rounded(tmp_path):
    write_texts(tmp_path / "pred", SCORES)
    write_texts(tmp_path / "label", TRUTHS)
    clipped = [0.9, 0.2, 1.0, 0.0, 0.30000001, 0.3]
    expected = average_precision_score([1, 0, 1, 0, 0, 1], clipped)
    assert official_figure(tmp_path / "pred", tmp_path / "label", mode="sample").value == expected


@pytest.mark.parametrize("text", [None, "", "high", "0,5"])
def test_a_scan_score_that_is_no_number_is_zero(tmp_path, text):
    write_texts(tmp_path / "pred", SCORES | ({"a": text} if text is not None else {}))
    write_texts(tmp_path / "label", TRUTHS)
    if text is None:
        (tmp_path / "pred" / "a.nii.gz.txt").unlink()
    figure = official_figure(tmp_path / "pred", tmp_path / "label", mode="sample")
    assert figure.value == average_precision_score([1, 0, 1, 0, 0, 1], [0, 0.2, 1, 0, 0.30000001, 0.3])
    assert [problem.case for problem in figure.problems] == ["a.nii.gz.txt"]


def test_a_scan_label_that_is_no_whole_number_leaves_its_case_out(tmp_path):
    write_texts(tmp_path / "pred", SCORES)
    write_texts(tmp_path / "label", TRUTHS | {"a": "1.0"})
    figure = official_figure(tmp_path / "pred", tmp_path / "label", mode="sample")
    assert figure.cases == 5
    assert figure.value == average_precision_score([0, 1, 0, 0, 1], [0.2, 1, 0, 0.30000001, 0.3])


def test_a_nan_scan_score_is_an_error(tmp_path):
    write_texts(tmp_path / "pred", SCORES | {"b": "nan"})
    write_texts(tmp_path / "label", TRUTHS)
    with pytest.raises(ResultsError, match="NaN"):
        official_figure(tmp_path / "pred", tmp_path / "label", mode="sample")


def test_a_whole_submission_in_either_layout(folders, tmp_path):
    write_texts(tmp_path / "label" / "sample", {name: TRUTHS[name] for name in "abc"})
    write_texts(tmp_path / "pred" / "sample", {name: SCORES[name] for name in "abc"})
    apart = official_figures(tmp_path / "pred", tmp_path / "label")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (*folders[0].iterdir(), *(tmp_path / "pred" / "sample").iterdir()):
        path.rename(flat / path.name)
    together = official_figures(flat, tmp_path / "label")
    assert set(apart) == {"pixel", "sample"}
    assert apart == together


def test_missing_folders_are_named(folders, tmp_path):
    with pytest.raises(ResultsError, match="no such folder"):
        official_figure(tmp_path / "nowhere", folders[1], mode="pixel")
    with pytest.raises(ResultsError, match="no labels"):
        official_figures(folders[0], tmp_path / "nowhere")


def test_our_own_results_and_labels_one_folder_down(tmp_path):
    save(tmp_path / "results" / "maps" / "a.nii.gz", random_map(1).astype(np.float32))
    (tmp_path / "results" / "scores.csv").write_text("case,score\na,1\n")
    save(tmp_path / "test" / "labels" / "pixel" / "a.nii.gz", (random_map(1) > 0.7).astype(np.uint8))
    (tmp_path / "test" / "labels" / "sample").mkdir()
    (tmp_path / "test" / "labels" / "sample" / "a.nii.gz.txt").write_text("1")
    figures = official_figures(tmp_path / "results", tmp_path / "test")
    assert (set(figures), figures["pixel"].value) == ({"pixel"}, 1.0)


def test_no_name_in_common_is_an_error(tmp_path):
    save(tmp_path / "results" / "b.nii.gz", random_map(1))
    save(tmp_path / "labels" / "pixel" / "a.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(ResultsError, match="no label has a prediction of its name"):
        official_figures(tmp_path / "results", tmp_path / "labels")
