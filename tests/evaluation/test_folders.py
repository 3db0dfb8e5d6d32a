import threading

import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mendscan.errors import ResultsError, SettingsError, WriteError
from mendscan.evaluation.folders import compare, evaluate_folder
from mendscan.evaluation.metrics import case_rows
from mendscan.evaluation.tables import evaluation_folder, write_evaluation
from mendscan.progress import Silent

SHAPE = (5, 6, 7)
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2, 0.1, -20], [0, -0.1, 2, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def folders(tmp_path):
    results, labels = tmp_path / "results", tmp_path / "labels"
    for folder in (results / "maps", labels / "pixel", labels / "sample"):
        folder.mkdir(parents=True)
    return results, labels


def save(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)


def random_pair(seed, shape=SHAPE):
    generator = np.random.default_rng(seed)
    label = generator.random(shape) < 0.2
    return (0.5 * generator.random(shape) + 0.3 * label).astype(np.float32), label.astype(np.uint8)


def add_pixel_case(folders, name, seed):
    results, labels = folders
    values, label = random_pair(seed)
    save(results / "maps" / f"{name}.nii.gz", values)
    save(labels / "pixel" / f"{name}.nii.gz", label)
    return values, label


def add_sample_label(folders, name, number):
    (folders[1] / "sample" / f"{name}.nii.gz.txt").write_text(f"{number}\n")


def evaluate(folders, scores=None, threshold=0.5):
    if scores is not None:
        folders[0].mkdir(exist_ok=True)
        lines = ["case,score", *(f"{name},{score!r}" for name, score in scores.items())]
        (folders[0] / "scores.csv").write_text("\n".join(lines))
    return evaluate_folder(*folders, threshold=threshold, resamples=20)


def rows_of(evaluation):
    return {row["case"]: row for row in case_rows(evaluation)}


def challenge_ap(*pairs):
    values = np.concatenate([np.ravel(values) for values, _ in pairs]).astype(np.float16)
    return average_precision_score(np.concatenate([np.ravel(label) for _, label in pairs]), values)


def test_pools_the_voxels_of_all_cases(folders):
    pairs = [add_pixel_case(folders, f"case{i}", seed=i) for i in range(3)]
    metrics = evaluate(folders)
    assert metrics["voxel_ap"] == challenge_ap(*pairs)
    assert [row["ap"] for row in case_rows(metrics)] == pytest.approx([challenge_ap(pair) for pair in pairs], rel=1e-12)
    assert [row["voxels"] for row in case_rows(metrics)] == [np.prod(SHAPE)] * 3
    assert tuple(
        metrics.counts[n] for n in ("cases_with_voxel_label", "cases_with_scan_label", "counted_as_zeros")
    ) == (3, 3, 0)
    assert metrics["sample_ap"] is None
    assert metrics.threshold == 0.5
    assert 0 < metrics["dice"] <= metrics["best_dice"]


def test_no_threshold_no_dice_at_it(folders):
    add_pixel_case(folders, "a", seed=0)
    metrics = evaluate(folders, threshold=None)
    assert metrics["dice"] is None
    assert "dice" not in metrics.figures
    assert "no healthy threshold" in metrics.remarks[0]
    assert metrics["best_dice"] is not None


def test_a_missing_map_counts_as_zeros(folders):
    kept = add_pixel_case(folders, "kept", seed=0)
    values, label = add_pixel_case(folders, "lost", seed=1)
    (folders[0] / "maps" / "lost.nii.gz").unlink()
    metrics = evaluate(folders)
    assert metrics["voxel_ap"] == challenge_ap(kept, (np.zeros_like(values), label))
    assert metrics.counts["counted_as_zeros"] == 1
    (problem,) = metrics.cases[1].problems
    assert "missing" in problem


def broken_maps():
    values, _ = random_pair(1)
    with_nan = values.copy()
    with_nan[0, 0, 0] = np.nan
    return {
        "shape": (lambda path: save(path, values[:-1]), "shape (4, 6, 7), the label (5, 6, 7)"),
        "axis order": (lambda path: save(path, values.T), "shape (7, 6, 5)"),
        "nan": (lambda path: save(path, with_nan), "not a number"),
        "garbage": (lambda path: path.write_bytes(b"garbage"), "cannot be read"),
        "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    }


@pytest.mark.parametrize(("write", "message"), broken_maps().values(), ids=broken_maps().keys())
def test_an_unusable_map_counts_as_zeros(folders, write, message):
    kept = add_pixel_case(folders, "kept", seed=0)
    _, label = add_pixel_case(folders, "broken", seed=1)
    write(folders[0] / "maps" / "broken.nii.gz")
    metrics = evaluate(folders)
    assert metrics["voxel_ap"] == challenge_ap(kept, (np.zeros(SHAPE), label))
    (problem,) = metrics.cases[0].problems
    assert message in problem
    assert str(folders[0]) not in problem


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_map_counts_as_zeros(folders, share):
    add_pixel_case(folders, "a", seed=0)
    path = folders[0] / "maps" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    metrics = evaluate(folders)
    assert "cannot be read" in metrics.cases[0].problems[0]
    assert metrics["voxel_ap"] == metrics.prevalence


def test_each_kind_of_label_enters_its_own_figures(folders):
    both = add_pixel_case(folders, "both", seed=0)
    pixel_only = add_pixel_case(folders, "pixel_only", seed=1)
    add_sample_label(folders, "both", 1)
    add_sample_label(folders, "sample_only", 0)
    metrics = evaluate(folders, scores={"both": 12.5, "sample_only": 3.0, "pixel_only": 99.0})
    assert metrics["voxel_ap"] == challenge_ap(both, pixel_only)
    counts = metrics.counts
    assert (counts["cases_with_voxel_label"], counts["cases_with_scan_label"]) == (2, 2)
    assert (counts["cases_with_lesions"], counts["anomalous_scans"]) == (2, 1)
    assert (metrics["sample_ap"], metrics["sample_auroc"]) == (1, 1)
    assert metrics.counts["counted_as_zeros"] == counts["without_label"] == 0
    rows = rows_of(metrics)
    assert rows["sample_only"]["voxels"] is None
    assert rows["pixel_only"]["score"] is None


def test_sample_labels_alone_need_no_maps(folders):
    results, labels = folders
    (results / "maps").rmdir()
    (labels / "pixel").rmdir()
    for i, number in enumerate(["0", "1", "0.0", " 0.7 "]):
        add_sample_label(folders, f"case{i}", number)
    metrics = evaluate(folders, scores={f"case{i}": float(score) for i, score in enumerate([-1, 4, 5, 2000])})
    assert metrics["sample_auroc"] == 0.75
    assert metrics["voxel_ap"] is None
    assert metrics.counts["cases_with_voxel_label"] == 0


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("others", "counted_as"), [([2.0, 3.0], 0.0), ([-5.0, 3.0], -5.0)])
def test_a_missing_score_is_the_lowest(folders, bad, others, counted_as):
    scores = dict(zip(["a", "b"], others, strict=True)) | ({} if bad is None else {"lost": bad})
    for name in ("a", "b", "lost"):
        add_sample_label(folders, name, int(name == "lost"))
    metrics = evaluate(folders, scores=scores)
    lost = metrics.cases[2]
    assert lost.score == counted_as
    assert "the scan score is" in lost.problems[0]
    assert metrics.counts["counted_as_zeros"] == 1
    assert metrics["sample_auroc"] <= 0.25


def test_predictions_without_label_are_counted_only(folders):
    pair = add_pixel_case(folders, "a", seed=0)
    save(folders[0] / "maps" / "b.nii.gz", np.ones(SHAPE, np.float32))
    metrics = evaluate(folders, scores={"a": 1.0, "b": 1.0, "c": 1.0})
    assert metrics.n_unlabelled == 2
    assert metrics["voxel_ap"] == challenge_ap(pair)


def test_names_match_across_compression_and_hidden_files_are_left_out(folders):
    results, labels = folders
    values, label = random_pair(0)
    save(results / "maps" / "a.b.nii", values)
    save(labels / "pixel" / "a.b.nii.gz", label)
    (labels / "sample" / "a.b.nii.gz.txt").write_text("1")
    (labels / "pixel" / "._a.b.nii.gz").write_bytes(b"junk")
    metrics = evaluate(folders, scores={"a.b": 1.0})
    assert [case.name for case in metrics.cases] == ["a.b"]
    assert metrics.cases[0].problems == ()


def test_an_appended_axis_of_length_one_does_not_matter(folders):
    values, label = random_pair(0, (*SHAPE, 1))
    save(folders[0] / "maps" / "a.nii.gz", values)
    save(folders[1] / "pixel" / "a.nii.gz", np.squeeze(label, axis=-1))
    metrics = evaluate(folders)
    assert metrics.cases[0].problems == ()
    assert metrics["voxel_ap"] == challenge_ap((values, label))


def test_stored_scaling_is_applied(folders):
    results, labels = folders
    values, label = random_pair(0)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_data_dtype(np.int16)
    nib.save(image, results / "maps" / "a.nii.gz")
    save(labels / "pixel" / "a.nii.gz", label)
    stored = nib.load(results / "maps" / "a.nii.gz").get_fdata(dtype=np.float32)
    assert evaluate(folders)["voxel_ap"] == challenge_ap((stored, label))


@pytest.mark.parametrize("shift_mm", [1e-3, 9e-3])
def test_an_affine_may_be_rounded(folders, shift_mm):
    values, _ = add_pixel_case(folders, "a", seed=0)
    affine = AFFINE.copy()
    affine[0, 3] += shift_mm
    save(folders[0] / "maps" / "a.nii.gz", values, affine)
    assert evaluate(folders).cases[0].problems == ()


def elsewhere():
    shifted, stretched, flipped = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    shifted[2, 3] += 0.02
    stretched[0, 0] *= 1.01
    flipped[:, 0] *= -1
    return [shifted, stretched, flipped]


@pytest.mark.parametrize("affine", elsewhere(), ids=["shifted", "stretched", "flipped"])
def test_a_map_elsewhere_in_space_is_an_error(folders, affine):
    values, _ = add_pixel_case(folders, "a", seed=0)
    save(folders[0] / "maps" / "a.nii.gz", values, affine)
    with pytest.raises(ResultsError, match=r"elsewhere in space .*found corners up to .* expected at most 0.01 mm"):
        evaluate(folders)


def test_folders_without_labels_are_an_error(folders, tmp_path):
    results, _ = folders
    with pytest.raises(ResultsError, match=r"no labels \(found pixel, sample, expected pixel/NAME"):
        evaluate(folders)
    with pytest.raises(ResultsError, match=r"no labels .*found no such folder"):
        evaluate((results, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"no labels .*found an empty folder.*; point to the folder"):
        evaluate((results, tmp_path / "empty"))


def test_nothing_to_evaluate_is_an_error(folders, tmp_path):
    add_pixel_case(folders, "a", seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"no maps and no scores \(found an empty folder"):
        evaluate((tmp_path / "empty", folders[1]))
    with pytest.raises(ResultsError, match=r"no label has a prediction of its name \(found b, expected a\)"):
        evaluate((tmp_path / "empty", folders[1]), scores={"b": 1.0})


def test_two_files_of_one_case_are_an_error(folders):
    _, label = add_pixel_case(folders, "a", seed=0)
    save(folders[1] / "pixel" / "a.nii", label)
    with pytest.raises(ResultsError, match=r"two files of the same case .*a\.nii and a\.nii\.gz"):
        evaluate(folders)


@pytest.mark.parametrize("text", ["", "one", "nan", "1 0"])
def test_an_unreadable_sample_label_is_an_error(folders, text):
    add_sample_label(folders, "a", text)
    with pytest.raises(ResultsError, match=r"label cannot be read .*expected one number"):
        evaluate(folders)


def test_an_unreadable_voxel_label_is_an_error(folders):
    add_pixel_case(folders, "a", seed=0)
    (folders[1] / "pixel" / "a.nii.gz").write_bytes(b"garbage")
    with pytest.raises(ResultsError, match="label cannot be read"):
        evaluate(folders)


@pytest.mark.parametrize("highest", [1.0, 0.37])
def test_a_binary_map_has_components_without_a_threshold(folders, highest):
    for i in range(2):
        _, label = add_pixel_case(folders, f"case{i}", seed=i)
        save(folders[0] / "maps" / f"case{i}.nii.gz", np.float32(highest) * label)
    metrics = evaluate(folders, threshold=None)
    assert metrics["lesion_froc"] == metrics["aupro"] == 1


@pytest.mark.parametrize(("threshold", "found"), [(0.29, 1.0), (0.3, 0.0), (0.31, 0.0)])
def test_dice_and_components_are_of_the_same_voxels(folders, threshold, found):
    _, label = add_pixel_case(folders, "a", seed=0)
    save(folders[0] / "maps" / "a.nii.gz", np.float32(0.3) * label)
    metrics = evaluate(folders, threshold=threshold)
    assert metrics["dice"] == metrics["lesion_sensitivity"] == found


def test_no_name_in_common_is_an_error(folders):
    add_pixel_case(folders, "a", seed=0)
    (folders[0] / "maps" / "a.nii.gz").rename(folders[0] / "maps" / "patient_a.nii.gz")
    with pytest.raises(ResultsError, match=r"no label has a prediction .*found patient_a, expected a\)"):
        evaluate(folders)


def test_scores_alone_have_no_voxel_figures(folders):
    for i in range(4):
        add_pixel_case(folders, f"case{i}", seed=i)
        (folders[0] / "maps" / f"case{i}.nii.gz").unlink()
        save(folders[1] / "pixel" / f"case{i}.nii.gz", np.full(SHAPE, i % 2, np.uint8))
    metrics = evaluate(folders, scores={f"case{i}": i % 2 + i / 10 for i in range(4)})
    assert set(metrics.figures) == {"sample_ap", "sample_auroc"}
    assert metrics["sample_auroc"] == 1  # a scan with an anomalous voxel is anomalous
    assert metrics.counts["counted_as_zeros"] == 0
    assert [row.get("ap") for row in case_rows(metrics)] == [None] * 4


def test_scan_labels_alone_can_be_written(folders, tmp_path):
    for i in range(3):
        add_sample_label(folders, f"case{i}", i % 2)
    metrics = evaluate(folders, scores={"case0": 0.0, "case1": 2.0, "case2": 1.0})
    write_evaluation(metrics, tmp_path / "out")
    assert metrics["sample_auroc"] == 1
    assert (tmp_path / "out" / "cases.csv").read_text().count("\n") == 4


def test_few_subjects_are_told(folders):
    add_pixel_case(folders, "a", seed=0)
    assert any("few subjects (1)" in remark for remark in evaluate(folders).remarks)


@pytest.mark.parametrize("threshold", [np.nan, -0.1, 1.5])
def test_a_threshold_outside_the_maps_is_refused(folders, threshold):
    add_pixel_case(folders, "a", seed=0)
    with pytest.raises(SettingsError, match="threshold"):
        evaluate(folders, threshold=threshold)


def test_a_lesion_number_beyond_the_voxels_is_an_error(folders):
    _, label = add_pixel_case(folders, "a", seed=0)
    (folders[1] / "lesions").mkdir()
    save(folders[1] / "lesions" / "a.nii.gz", label.astype(np.int32) * 70_000)
    with pytest.raises(ResultsError, match=r"lesions.a\.nii\.gz: a lesion's number is out of range .*70000"):
        evaluate(folders)


def test_lesion_numbers_beyond_a_short_integer_stay_apart(folders):
    results, labels = folders
    label = np.zeros((50, 50, 30), np.uint8)
    label[0, :2], label[20, :2] = 1, 1
    numbers = label.astype(np.int32)
    numbers[0, :2], numbers[20, :2] = 40_000, 40_001
    (labels / "lesions").mkdir()
    save(results / "maps" / "a.nii.gz", label.astype(np.float32))
    save(labels / "pixel" / "a.nii.gz", label)
    save(labels / "lesions" / "a.nii.gz", numbers)
    assert [lesion.number for lesion in evaluate(folders).cases[0].lesions] == [40_000, 40_001]


def test_an_evaluation_overwrites_only_an_evaluation(folders, tmp_path):
    add_pixel_case(folders, "a", seed=0)
    (folders[1] / "cases.csv").write_text("case,subject\na,x\n")
    for folder in (folders[1], folders[1].parent):
        (folders[1].parent / "cases.csv").write_text("case,subject\na,x\n")
        with pytest.raises(WriteError, match=r"of the labels|no evaluation wrote \(found cases\.csv"):
            evaluation_folder(folder, folders[1]).__enter__()
    metrics, out = evaluate(folders), tmp_path / "out"
    for differences in (compare(metrics, metrics), None):
        with evaluation_folder(out, folders[1]):
            write_evaluation(metrics, out, differences=differences)
        assert (out / "differences.json").exists() == (differences is not None)


def test_a_p_value_that_is_none_is_none(folders):
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        add_pixel_case(folders, name, seed)
    (folders[0] / "scores.csv").write_text("case,score,p_value\na,1,0.5\nb,2,NA\nc,3,7\n")
    found = rows_of(evaluate(folders))
    assert [found[name]["p_value"] for name in "abc"] == [0.5, None, None]


@pytest.mark.parametrize(
    "option", [{"iou": 2.0}, {"smallest_voxels": 0}, {"resamples": 0}, {"level": 1.0}, {"seed": -1}, {"threshold": 2.0}]
)
def test_options_out_of_range_are_refused_before_any_work(folders, option):
    add_pixel_case(folders, "a", 1)
    with pytest.raises(SettingsError, match=next(iter(option))):
        evaluate_folder(*folders, **option)


def test_the_progress_bar_moves(folders):
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        add_pixel_case(folders, name, seed)
    moved = []

    class Bar(Silent):
        def advance(self, units: int = 1, **figures: float) -> None:
            moved.append(threading.current_thread() is threading.main_thread())

    evaluate_folder(*folders, threshold=0.5, resamples=20, workers=3, progress=Bar())
    assert moved[:6] == [True] * 6


def test_a_scan_that_is_anomalous_as_a_whole_is_not_one_without_any_anomaly(folders):
    values, _ = add_pixel_case(folders, "lesions", 1)
    for name in ("healthy", "whole"):
        save(folders[0] / "maps" / f"{name}.nii.gz", values)
        save(folders[1] / "pixel" / f"{name}.nii.gz", np.zeros(SHAPE, np.uint8))
        add_sample_label(folders, name, int(name == "whole"))
    found = evaluate(folders)["false_positives_per_healthy_scan"]
    (folders[1] / "pixel" / "whole.nii.gz").unlink()
    assert evaluate(folders)["false_positives_per_healthy_scan"] == found
