import subprocess
import sys

import mendscan

PUBLIC = [
    "Detection",
    "Detector",
    "Finding",
    "MendscanError",
    "Samples",
    "ScoreHistogram",
    "TrainingSummary",
    "Volume",
    "__version__",
    "detect_folder",
    "evaluate_folder",
    "read_volume",
    "sample",
    "show",
    "train",
    "volume_from_array",
    "write_report",
]


def test_the_public_names_are_these() -> None:
    assert mendscan.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(mendscan) == PUBLIC


def test_every_public_name_is_there() -> None:
    for name in PUBLIC:
        assert getattr(mendscan, name) is not None


def test_importing_mendscan_does_not_import_torch() -> None:
    code = "import sys, mendscan, mendscan.cli; raise SystemExit('torch' in sys.modules or 'nibabel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reporting_does_not_import_torch() -> None:
    code = "import sys, mendscan.report.report; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evaluating_does_not_import_torch() -> None:
    code = "import sys, mendscan.evaluation.folders, mendscan.results; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
