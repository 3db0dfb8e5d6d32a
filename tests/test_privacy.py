"""Nothing that is written, said or served names a patient, this machine, its user, a path on it or the day.

One cohort in every format, a canary wherever a header can hold a name, and damaged copies of each; then every command
over it.  File names hold no canary: they are the names of the cases, unless ``--pseudonymise`` is given
(tests/detection/test_batch_formats.py).
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from leaks import contents, dated, embedded, hits
from mendscan.cli import app
from source_series import write_source_series
from training.conftest import SMALL, phantom
from viewer.asking import asking
from viewer_results import viewer_over

CANARY = "ZZCANARY^NAME"
PERSON = b"zzcanary"
"""What no byte may say, in lower case."""
MACHINE = (b"zzhome", b"zzuser", b"zztemporary", b"zzhost", b"zzplace")
"""Home, user, temporary folder, host, and the folder that all lies in: what no file may say."""
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
DRIVER = """
import json, platform, socket, sys, traceback
socket.gethostname = socket.getfqdn = platform.node = lambda *_: "zzhost"
from leaks import contents, dated, embedded, hits
from mendscan.cli import app
codes = []
for arguments in json.load(open(sys.argv[1])):
    print("$", arguments[0], flush=True)
    try:
        app(arguments, prog_name="mendscan")
    except SystemExit as error:
        codes.append(error.code or 0)
    except Exception:
        traceback.print_exc()
        codes.append("traceback")
json.dump(codes, open(sys.argv[2], "w"))
"""
"""All commands in one process, for the import of torch takes longer than each of them."""


# --- a cohort with names in it ---------------------------------------------------------------------------------------


def named_nifti(voxels: np.ndarray, kind: type = nib.Nifti1Image) -> bytes:
    image = kind(voxels, AFFINE)
    for name in ("descrip", "aux_file", "intent_name", *(["db_name"] if kind is nib.Nifti1Image else [])):
        image.header[name] = CANARY.encode()
    plain = [nib.nifti1.Nifti1Extension(code, CANARY.encode()) for code in ("comment", 0)]
    image.header.extensions.extend([*plain, _dicom()])
    return image.to_bytes()


def _dicom() -> nib.nifti1.Nifti1Extension:
    dataset = Dataset()
    dataset.PatientName = CANARY
    return nib.nifti1.Nifti1DicomExtension(2, dataset)


def named_nrrd(voxels: np.ndarray) -> bytes:
    lines = [
        "NRRD0005",
        f"# {CANARY}",
        f"content: {CANARY}",
        "type: float",
        "dimension: 3",
        "space: right-anterior-superior",
        "sizes: " + " ".join(map(str, voxels.shape)),
        "space directions: (2,0,0) (0,2,0) (0,0,2)",
        "space origin: (0,0,0)",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"patient:={CANARY}",
        f"{CANARY}:=name",
    ]
    return "\n".join([*lines, "", ""]).encode() + gzip.compress(voxels.astype("<f4").tobytes(order="F"))


def named_metaimage(voxels: np.ndarray) -> bytes:
    lines = [
        "ObjectType = Image",
        f"Comment = {CANARY}",
        f"Name = {CANARY}",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = -1 0 0 0 -1 0 0 0 1",
        "Offset = 0 0 0",
        "ElementSpacing = 2 2 2",
        "DimSize = " + " ".join(map(str, voxels.shape)),
        "ElementType = MET_FLOAT",
        f"PatientName = {CANARY}",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join([*lines, ""]).encode() + voxels.astype("<f4").tobytes(order="F")


def voxels_of(number: int) -> np.ndarray:
    rng = np.random.default_rng([4, number])
    return phantom(rng, (20, 24, 12)).astype(np.float32)


def write_cohort(folder: Path, count: int, *, first: int = 0) -> Path:
    """Write scans in all formats by turns, DICOM once."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        voxels, kind = voxels_of(number), number % 5
        match kind:
            case 0:
                (folder / f"s{number}.nii.gz").write_bytes(gzip.compress(named_nifti(voxels)))
            case 1:
                (folder / f"s{number}.nii").write_bytes(named_nifti(voxels, nib.Nifti2Image))
            case 2:
                (folder / f"s{number}.nrrd").write_bytes(named_nrrd(voxels))
            case 3:
                (folder / f"s{number}.mha").write_bytes(named_metaimage(voxels))
            case 4:
                levels = np.rint(voxels * (1000 / voxels.max())).astype(np.int16)
                write_source_series(folder / f"s{number}", levels, np.diag([-2.0, -2.0, 2.0, 1.0]))
    return folder


def damaged(cohort: Path, folder: Path) -> Path:
    """Write copies of scans, each cut off, and some with a wrong bit or a missing slice."""
    folder.mkdir()
    for path in sorted(cohort.iterdir()):
        target = folder / f"cut_{path.name}"
        if path.is_dir():
            for number, each in enumerate(sorted(path.iterdir())):
                target.mkdir(exist_ok=True)
                if number != 4:
                    (target / each.name).write_bytes(each.read_bytes()[: 1200 if number == 2 else None])
            continue
        data = path.read_bytes()
        target.write_bytes(data[: len(data) * 2 // 3])
        middle = len(data) // 2
        (folder / f"bit_{path.name}").write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        (folder / f"head_{path.name}").write_bytes(data[:300])
    return folder


# --- every command over it -------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What all commands wrote and said, and how each ended."""

    place: Path
    inputs: tuple[str, ...]
    codes: dict[str, object] = field(default_factory=dict)
    said: bytes = b""
    began: float = field(default_factory=time.time)

    @property
    def written(self) -> list[Path]:
        every = (path for path in self.place.rglob("*") if path.is_file() and not path.is_symlink())
        return sorted(path for path in every if path.relative_to(self.place).parts[0] not in self.inputs)


def commands(at: Path) -> dict[str, list[object]]:
    sets = [part for setting in SMALL for part in ("--set", setting)]
    detecting = ["--restorations", 2, "--device", "cpu", "--workers", 0]
    mixed = ["detect", "-m", at / "model", "-i", at / "mixed", "-o"]
    listed: dict[str, list[object]] = {
        "train": ["train", "-i", at / "healthy", "-o", at / "model", "--steps", 4, "--device", "cpu", *sets],
        "train on damaged": ["train", "-i", at / "damaged", "-o", at / "none", "--steps", 4],
        "train on damaged, debug": ["train", "-i", at / "damaged", "-o", at / "none", "--steps", 4, "--debug"],
        "simulate": ["simulate", "-i", at / "new", "-o", at / "test", "--local", 2, "--healthy", 2, "--artefacts", 1],
        "detect": ["detect", "-m", at / "model", "-i", at / "test" / "scans", "-o", at / "results", *detecting],
        "detect mixed": [*mixed, at / "mixed_results", *detecting, "--dicom-out"],
        "detect mixed, debug": [*mixed, at / "debug_results", *detecting, "--no-maps", "--debug"],
        "report": ["report", "-i", at / "mixed_results", "-o", at / "report.html"],
        "report of scans, debug": ["report", "-i", at / "mixed", "-o", at / "none.html", "--debug"],
        "evaluate": ["evaluate", "-i", at / "results", "-l", at / "test", "-o", at / "evaluation", "--resamples", 20],
        "evaluate by scans, debug": ["evaluate", "-i", at / "results", "-l", at / "damaged", "--debug"],
        "sample": ["sample", "-m", at / "model", "-o", at / "samples.png", "-n", 2, "--device", "cpu"],
    }
    if any(command.callback and command.callback.__name__ == "check" for command in app.registered_commands):
        listed |= {"check": ["check", at / "mixed"], "check, debug": ["check", at / "mixed", "--debug"]}
    return listed


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("zzplace"), ("healthy", "new", "mixed", "damaged", "driver"))
    at = run.place
    write_cohort(at / "healthy", 15)
    write_cohort(at / "new", 5, first=20)
    damaged(at / "new", at / "damaged")
    write_cohort(at / "mixed", 5, first=30)
    damaged(at / "mixed", at / "mixed" / "damaged")
    for name in ("zzhome", "zztemporary", "driver"):
        (at / name).mkdir()
    listed = commands(at)
    (at / "driver" / "commands.json").write_text(
        json.dumps([[str(word) for word in words] for words in listed.values()])
    )
    environment = {
        "HOME": str(at / "zzhome"),
        "TMPDIR": str(at / "zztemporary"),
        "USER": "zzuser",
        "LOGNAME": "zzuser",
        "HOSTNAME": "zzhost",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "1000",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(path for path in sys.path if path),
    }
    told = [at / "driver" / "commands.json", at / "driver" / "codes.json"]
    finished = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, told)], capture_output=True, check=False, env=environment, cwd=at
    )
    run.said = finished.stdout + finished.stderr
    assert finished.returncode == 0, run.said.decode()[-4000:]
    run.codes = dict(zip(listed, json.loads(told[1].read_text()), strict=True))
    return run


def test_the_canary_is_where_it_should_be_and_is_noticed(ran: Run) -> None:
    """Else the tests below prove nothing."""
    sources = [path for name in ("healthy", "new", "mixed") for path in (ran.place / name).rglob("*") if path.is_file()]
    whole = [path for path in sources if "damaged" not in path.parts]
    assert len(whole) > 40
    assert all(hits(contents(path), (PERSON,)) for path in whole)
    assert hits(b"... ZZcan\n  ARY ...", (PERSON,))
    assert hits("ZZCANARY".encode("utf-16-le"), (PERSON,))
    page = b"<img src='data:image/png;base64," + base64.b64encode(b"x" * 40 + b"ZZCANARY") + b"'>"
    assert any(hits(each, (PERSON,)) for each in embedded(page))


def test_every_command_ended_as_it_should(ran: Run) -> None:
    """With --debug, errors are tracebacks; of damaged scans none is left to train on; of mixed ones some fail."""
    for name, code in ran.codes.items():
        if "mixed" in name and "detect" in name:
            assert code == 3, name
        elif " scans" in name or " damaged" in name:
            assert code == "traceback" if name.endswith("debug") else code in (2, 4), name
        elif "check" not in name:
            assert code == 0, name


def test_no_name_of_a_patient_is_in_anything_written_or_said(ran: Run) -> None:
    looked_through = {path: contents(path) for path in ran.written}
    kinds = {"".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix for path in looked_through}
    print(f"{len(looked_through)} files, {sum(map(len, looked_through.values()))} bytes, kinds: {sorted(kinds)}")
    assert kinds >= {".nii.gz", ".json", ".jsonl", ".csv", ".png", ".html", ".md", ".safetensors", ".dcm"}
    for folder in ("model", "test", "results", "mixed_results", "debug_results", "evaluation"):
        assert any((ran.place / folder) in path.parents for path in looked_through), folder
    found = {str(path.relative_to(ran.place)) for path, data in looked_through.items() if hits(data, (PERSON,))}
    assert found == set()
    assert len(ran.said) > 1000
    assert hits(ran.said, (PERSON,)) == []


def test_no_answer_of_the_viewer_names_a_patient_or_a_path(ran: Run) -> None:
    answers = {}
    with viewer_over(ran.place / "mixed_results") as port:
        ask = asking(port)
        cases = ask("/api/results").json["cases"]
        names = [path.name for path in (ran.place / "mixed").iterdir()]
        paths = ["/", "/api/results", "/static/", "/api/cases/999", "/api/cases/x", f"/{CANARY}", f"/?{CANARY}"]
        for number in range(len(cases)):
            paths += [
                f"/api/cases/{number}",
                *(f"/api/cases/{number}/{kind}" for kind in ("scan", "map", "restored", "x")),
            ]
        for path in [*paths, *(f"/{name}" for name in names)]:
            answers[path] = ask(path)
            answers[f"HEAD {path}"] = ask(path, method="HEAD")
    assert sum(case["failed"] for case in cases) > 5
    assert sum(answer.status == 200 for answer in answers.values()) > 40
    print(f"{len(answers)} answers, {sum(len(answer.body) for answer in answers.values())} bytes")
    for path, answer in answers.items():
        body = gzip.decompress(answer.body) if answer.body[:2] == b"\x1f\x8b" else answer.body
        told = body + json.dumps(answer.headers).encode()
        assert hits(told, (PERSON, *MACHINE)) == [], path


def test_no_file_names_the_machine_its_user_or_a_path(ran: Run) -> None:
    found = {
        str(path.relative_to(ran.place)): names
        for path in ran.written
        if (names := hits(contents(path), (*MACHINE, str(ran.place.parent).encode().lower())))
    }
    assert found == {}
    assert [path for path in (ran.place / "zztemporary").rglob("*") if path.is_file()] == [], "left behind"


def test_no_file_says_when_it_was_written(ran: Run) -> None:
    assert dated(ran.written, ran.began) == {}
