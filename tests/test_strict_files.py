"""What mendscan wrote as JSON and reads again is refused if a key is there twice, whichever would be taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mendscan.baselines.saving import _read, _write
from mendscan.baselines.training import _begun
from mendscan.benchmark.journal import Journal
from mendscan.cohort import mood_record, store
from mendscan.errors import ModelError, ResultsError
from mendscan.evaluation.layouts import find_predictions
from mendscan.progress import Silent
from mendscan.results import read_run
from mendscan.results.reading import ResultCase
from mendscan.results.records import read_record, write_record
from mendscan.strict_json import MAX_BYTES, BadJsonError, parse_json, read_json
from mendscan.submission.building import listed_digests
from mendscan.training import checkpoint
from mendscan.training.metrics_log import MetricsLog
from mendscan.training.workplace import read_plan, write_plan
from mendscan.volumes.writing import write_json

DETAILS = {
    "slice_axis": "Z",
    "slices": [{"position": 0.0, "score": 1.0}],
    "code_nll": None,
    "statistics": {},
    "warnings": [],
}


def results(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_json(folder / "results.json", {"map_threshold": 0.5})
    return folder / "results.json", lambda: read_run(folder)


def predictions(folder: Path) -> tuple[Path, Callable[[], Any]]:
    (folder / "scores.csv").write_text("case,score\na,1\n")
    write_json(folder / "results.json", {"map_threshold": 0.5})
    return folder / "results.json", lambda: find_predictions(folder)


def details(folder: Path) -> tuple[Path, Callable[[], Any]]:
    (folder / "details").mkdir()
    write_json(folder / "details" / "a.json", DETAILS)
    return folder / "details" / "a.json", ResultCase("a", {}, (), folder).details


def record(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_record(folder, "a", request="", scan="", row={"case": "a"}, findings=[])
    return folder / "records" / "a.json", lambda: read_record(folder, "a")


def plan(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_plan(folder, {"a": 1})
    return folder / "plan.json", lambda: read_plan(folder)


def journal(folder: Path) -> tuple[Path, Callable[[], Any]]:
    Journal(folder, {"a": 1}, Silent())
    return folder / "journal.json", lambda: Journal(folder, {"a": 1}, Silent())


def imported(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_json(folder / "import.json", {"archive": {}, "holdout": {}, "files": {}})
    return folder / "import.json", lambda: mood_record._read(folder / "import.json")


def baseline(folder: Path) -> tuple[Path, Callable[[], Any]]:
    _write(folder, {"settings": {}}, {"a": torch.zeros(1)})
    return folder / "baseline.json", lambda: _read(folder)


def begun(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_json(folder / "vae.json", {"plan": "", "minutes": None, "steps": 1})
    return folder / "vae.json", lambda: _begun(folder / "vae.json")


def manifest(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_json(folder / "manifest.json", {"files": {}})
    return folder / "manifest.json", lambda: listed_digests(folder)


def seal(folder: Path) -> tuple[Path, Callable[[], Any]]:
    slices = folder / "slices.npy"
    np.save(slices, np.zeros(3))
    write_json(folder / "slices.json", {"bytes": slices.stat().st_size, "sha256": store._sha256(slices)})
    return folder / "slices.json", lambda: store._is_whole(slices, Silent()) or None


def log(folder: Path) -> tuple[Path, Callable[[], Any]]:
    MetricsLog(folder / "metrics.jsonl").write("vae", 1, loss=1.0)
    return folder / "metrics.jsonl", lambda: MetricsLog(folder / "metrics.jsonl").entries() or None


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (results, ResultsError),
        (predictions, ResultsError),
        (details, ResultsError),
        (record, None),
        (plan, ModelError),
        (journal, ResultsError),
        (imported, ResultsError),
        (baseline, ModelError),
        (begun, ModelError),
        (manifest, ResultsError),
        (seal, None),
        (log, None),
    ],
)
def test_a_key_that_is_there_twice(
    make: Callable[[Path], tuple[Path, Callable[[], Any]]], refusal: type[Exception] | None, tmp_path: Path
) -> None:
    path, read = make(tmp_path)
    assert read() is not None
    text = path.read_text()
    key = next(iter(json.loads(text)))
    path.write_text(text.replace("{", f'{{"{key}": 0, ', 1))
    assert json.loads(path.read_text()) == json.loads(text)  # any other parser sees no difference
    if refusal is None:
        assert read() is None
    else:
        with pytest.raises(refusal):
            read()


def test_a_checkpoints_facts(tmp_path: Path) -> None:
    tensors, path = {"model.a": torch.zeros(1)}, tmp_path / "a.safetensors"
    for facts, refused in (('{"step": 1}', False), ('{"step": 0, "step": 1}', True), ('{"step": NaN}', True)):
        digest = checkpoint._digest(facts, tensors)
        path.write_bytes(save(tensors, metadata={"facts": facts, "sha256": digest}))
        if refused:
            with pytest.raises(ModelError, match="damaged"):
                checkpoint.load_checkpoint(path)
        else:
            assert checkpoint.load_checkpoint(path).facts == {"step": 1}


def test_a_figure_that_is_no_number_is_not_logged(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("vae", 1, loss=1.0, holdout_l1=float("inf"), perplexity=float("nan"))
    assert log.entries() == [{"stage": "vae", "step": 1, "loss": 1.0}]


def test_a_file_may_name_files_that_are_no_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"case": "\udcff"})
    assert read_json(tmp_path / "a.json") == {"case": "\udcff"}
    with pytest.raises(BadJsonError, match="surrogate"):
        parse_json((tmp_path / "a.json").read_bytes())


def test_no_more_of_a_file_is_read_than_is_parsed(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(BadJsonError, match=f"more than {MAX_BYTES:,} bytes"):
        read_json(tmp_path / "a.json")
