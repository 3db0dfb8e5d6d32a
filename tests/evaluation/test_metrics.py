"""The whole evaluation of folders on disk: figures, intervals, strata, comparison, files."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from mendscan.errors import ResultsError
from mendscan.evaluation.folders import compare, evaluate_folder
from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.measures import FIGURES
from mendscan.evaluation.tables import write_evaluation
from mendscan.report.evaluation_figures import save_evaluation_figure

SHAPE = (12, 13, 14)
KINDS, SIZES = ("bright", "blur"), ("small", "large")
LOCAL, HEALTHY, WHOLE = 12, 6, 6


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([1, 1, 2, 1.0])), path)


def lesion_numbers(generator):
    """Two boxes in opposite corners."""
    numbers = np.zeros(SHAPE, np.uint8)
    for number, corner in enumerate(((1, 1, 1), (7, 7, 8)), start=1):
        size = generator.integers(2, 5)
        numbers[tuple(slice(start, start + size) for start in corner)] = number
    return numbers


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Local anomalies in twelve scans, six healthy ones of the same subjects, six artefacts; two methods."""
    root, generator = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    anomalies, cases, scores = [], [], {"good": [], "poor": []}
    for index in range(LOCAL + HEALTHY + WHOLE):
        scope = "local" if index < LOCAL else "healthy" if index < LOCAL + HEALTHY else "scan"
        subject = f"s{index % LOCAL}"
        name = f"{subject}_{scope}"
        numbers = lesion_numbers(generator) if scope == "local" else np.zeros(SHAPE, np.uint8)
        if scope != "scan":
            save(root / "labels" / "pixel" / f"{name}.nii.gz", (numbers > 0).astype(np.uint8))
        if scope == "local":
            save(root / "labels" / "lesions" / f"{name}.nii.gz", numbers)
            anomalies += [(name, n, "local", KINDS[(n + index) % 2], SIZES[n - 1], "plain") for n in (1, 2)]
        if scope == "scan":
            anomalies.append((name, "", "scan", "noise", "", "faint"))
        (root / "labels" / "sample").mkdir(parents=True, exist_ok=True)
        (root / "labels" / "sample" / f"{name}.nii.gz.txt").write_text(str(int(scope != "healthy")))
        cases.append((name, subject, scope, int(scope != "healthy")))
        hard = generator.random() * 0.3  # some subjects are hard for every method
        for method, strength in (("good", 0.5), ("poor", 0.25)):
            noise = ndimage.gaussian_filter(generator.standard_normal(SHAPE), 1.0)
            values = 0.3 + 0.2 * noise + (strength - hard) * (numbers > 0)
            save(root / method / "maps" / f"{name}.nii.gz", np.clip(values, 0, 1).astype(np.float32))
            scores[method].append((name, generator.normal() + 4 * strength * (scope != "healthy"), "0.5"))
    write(root / "anomalies.csv", ("case", "lesion", "scope", "kind", "size", "contrast"), anomalies)
    write(root / "cases.csv", ("case", "subject", "scope", "anomalous"), cases)
    for method, rows in scores.items():
        write(root / method / "scores.csv", ("case", "score", "p_value"), rows)
        (root / method / "results.json").write_text(json.dumps({"map_threshold": 0.5}))
    return root


def write(path, header, rows):
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


def voxels(root, method, *, kind=None):
    """Scores and labels of the pooled voxels by nibabel alone; of one kind, other lesions are left out."""
    rows = [line.split(",") for line in (root / "anomalies.csv").read_text().split()[1:]]
    scores, labels = [], []
    for path in sorted((root / "labels" / "pixel").iterdir()):
        values = nib.load(root / method / "maps" / path.name).get_fdata(dtype=np.float16)
        label = nib.load(path).get_fdata() > 0
        kept = np.ones(SHAPE, bool)
        if kind is not None and label.any():
            numbers = nib.load(root / "labels" / "lesions" / path.name).get_fdata()
            mine = [int(row[1]) for row in rows if row[0] == path.name[:-7] and row[3] == kind]
            kept = (numbers == 0) | np.isin(numbers, mine)
        scores.append(values[kept])
        labels.append(label[kept])
    return np.concatenate(labels), np.concatenate(scores)


@pytest.fixture(scope="module")
def evaluations(cohort):
    return {name: evaluate_folder(cohort / name, cohort, resamples=200) for name in ("good", "poor")}


def test_the_pooled_figures_are_scikit_learns(cohort, evaluations):
    for name, evaluation in evaluations.items():
        assert evaluation["voxel_ap"] == average_precision_score(*voxels(cohort, name))
        assert evaluation["voxel_auroc"] == pytest.approx(roc_auc_score(*voxels(cohort, name)), rel=1e-12)


def test_a_stratum_is_its_lesions_against_everything_healthy(cohort, evaluations):
    strata = {(one.family, one.name): one for one in evaluations["good"].strata}
    assert {family for family, _ in strata} == {"kind", "size", "contrast", "artefact"}
    for kind in KINDS:
        stratum = strata["kind", kind]
        expected = average_precision_score(*voxels(cohort, "good", kind=kind))
        assert stratum.figures["voxel_ap"].estimate == pytest.approx(expected, rel=1e-12)
        assert (stratum.anomalies, stratum.scans) == (LOCAL, LOCAL)
    assert [name for family, name in strata if family == "size"] == ["small", "large"]
    assert strata["artefact", "noise"].anomalies == WHOLE


def test_intervals_are_over_subjects_and_hold_the_figure(evaluations):
    evaluation = evaluations["good"]
    assert evaluation.counts["subjects"] == LOCAL < evaluation.counts["cases"]
    for name, figure in evaluation.figures.items():
        assert name in FIGURES
        assert figure.low <= figure.estimate <= figure.high, name
    assert evaluation.figures["voxel_ap"].low < evaluation.figures["voxel_ap"].high


def test_false_positives_count_only_scans_with_a_voxel_label(cohort):
    evaluation = evaluate_folder(cohort / "good", cohort / "labels", threshold=0.35, resamples=10)
    mapped = [case for case in evaluation.cases if case.match is not None]
    assert len(mapped) == LOCAL + HEALTHY < len(evaluation.cases)
    found = sum(case.match.false_peaks.size for case in mapped)
    assert found > 0
    assert evaluation["false_positives_per_scan"] == pytest.approx(found / (LOCAL + HEALTHY))
    hit = sum(int(case.match.found.sum()) for case in mapped)
    assert 0 < hit <= 2 * LOCAL
    assert evaluation["lesion_sensitivity"] == pytest.approx(hit / (2 * LOCAL))


def test_scan_figures_by_scope(evaluations):
    evaluation = evaluations["good"]
    scores = {scope: [c.score for c in evaluation.cases if c.name.endswith(scope)] for scope in ("local", "healthy")}
    truth = [1] * LOCAL + [0] * HEALTHY
    expected = roc_auc_score(truth, scores["local"] + scores["healthy"])
    assert evaluation["sample_auroc_local"] == pytest.approx(expected, rel=1e-12)


def test_the_better_method_is_better_beyond_chance(evaluations):
    differences = compare(evaluations["good"], evaluations["poor"])
    gain = differences["voxel_ap"]
    assert gain.estimate == pytest.approx(evaluations["good"]["voxel_ap"] - evaluations["poor"]["voxel_ap"])
    assert gain.low > 0
    assert gain.p_value < 0.05
    mirrored = compare(evaluations["poor"], evaluations["good"])["voxel_ap"]
    assert mirrored.estimate == -gain.estimate


def test_only_the_same_cases_can_be_compared(cohort, evaluations, tmp_path):
    save(tmp_path / "labels" / "s0_local.nii.gz", lesion_numbers(np.random.default_rng(0)))
    other = evaluate_folder(cohort / "good", tmp_path / "labels", resamples=10)
    with pytest.raises(ResultsError, match="not evaluated on the same cases"):
        compare(other, evaluations["good"])


def test_the_same_seed_gives_the_same_intervals(cohort, evaluations):
    again = evaluate_folder(cohort / "good", cohort, resamples=200, workers=1)
    assert again.figures == evaluations["good"].figures
    other = evaluate_folder(cohort / "good", cohort, resamples=200, seed=1, strata=False)
    assert other.figures["voxel_ap"] != again.figures["voxel_ap"]


def test_files_hold_the_figures(evaluations, tmp_path):
    evaluation = evaluations["good"]
    write_evaluation(evaluation, tmp_path, differences=compare(evaluation, evaluations["poor"]))
    save_evaluation_figure(evaluation, tmp_path / "evaluation.png")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["figures"]["voxel_ap"]["estimate"] == evaluation["voxel_ap"]
    assert {row["case"] for row in written["cases"]} == {case.name for case in evaluation.cases}
    assert ScoreHistogram.load(tmp_path / "histogram.npz").average_precision == evaluation["voxel_ap"]
    with (tmp_path / "lesions.csv").open() as opened:
        lesions = list(csv.DictReader(opened))
    assert len(lesions) == 2 * LOCAL
    assert {row["kind"] for row in lesions} == set(KINDS)
    with (tmp_path / "strata.csv").open() as opened:
        assert {row["family"] for row in csv.DictReader(opened)} == {"kind", "size", "contrast", "artefact"}
    assert json.loads((tmp_path / "differences.json").read_text())["voxel_ap"]["estimate"] > 0
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_disagreeing_lesions_are_refused(cohort, tmp_path):
    numbers = lesion_numbers(np.random.default_rng(0))
    save(tmp_path / "pixel" / "a.nii.gz", (numbers > 0).astype(np.uint8))
    save(tmp_path / "lesions" / "a.nii.gz", np.zeros(SHAPE, np.uint8))
    save(tmp_path / "maps" / "a.nii.gz", np.zeros(SHAPE, np.float32))
    with pytest.raises(ResultsError, match="lesions and voxel label disagree"):
        evaluate_folder(tmp_path / "maps", tmp_path, resamples=10)


@pytest.mark.parametrize("scores", [(1e18, 1e18), (-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, 1.0 + 1e-15)])
def test_any_finite_scores_are_drawn(tmp_path, scores):
    for name, score in zip("ab", scores, strict=True):
        (tmp_path / "sample").mkdir(exist_ok=True)
        (tmp_path / "labels" / "sample").mkdir(exist_ok=True, parents=True)
        (tmp_path / "sample" / f"{name}.nii.gz.txt").write_text(repr(score))
        (tmp_path / "labels" / "sample" / f"{name}.nii.gz.txt").write_text(str(int(name == "b")))
    save_evaluation_figure(evaluate_folder(tmp_path, tmp_path / "labels", resamples=5), tmp_path / "evaluation.png")
    assert (tmp_path / "evaluation.png").stat().st_size > 10_000
