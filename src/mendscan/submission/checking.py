"""Check a submission as the challenge would run it, on toy cases: every script, every file, the official figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from mendscan.cohort.held_folder import held_folder
from mendscan.errors import MendscanError, ResultsError
from mendscan.evaluation.official import OfficialFigure, official_figure
from mendscan.progress import Progress, Silent
from mendscan.submission.building import digests, listed_digests
from mendscan.submission.challenge import ANATOMIES, MODES, Anatomy, Mode, cases_in, prediction_name, script_name
from mendscan.submission.inspecting import inspect_prediction
from mendscan.submission.isolation import Isolation, Room, make_room
from mendscan.submission.running import Run, watch
from mendscan.submission.toys import Toy, find_toy
from mendscan.volumes.writing import make_folder, temporary_folder

__all__ = ["CaseCheck", "Check", "ScriptCheck", "check_submission"]

_MESSAGES_SHOWN = 3


@dataclass(frozen=True)
class CaseCheck:
    """One prediction.

    Attributes:
        case: File name of the scan.
        seconds: Time that it took; None if it never appeared.
        peak_bytes: Most memory meanwhile; None if unknown.
        highest: Its largest value.
        problems: What is wrong with it.
        remarks: What is allowed and worth knowing.
    """

    case: str
    seconds: float | None
    peak_bytes: int | None
    highest: float
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ScriptCheck:
    """One script.

    Attributes:
        name: Such as ``run_pixel_brain.sh``.
        seconds: How long it ran.
        cases: Each prediction.
        problems: What is wrong beyond single predictions.
        warnings: What the script said on stderr.
        figure: The official average precision; None without labels or where the rules give none.
    """

    name: str
    seconds: float
    cases: tuple[CaseCheck, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    figure: OfficialFigure | None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(case.problems for case in self.cases)


@dataclass(frozen=True)
class Check:
    """A whole submission.

    Attributes:
        isolation: What was shut off while scripts ran.
        scripts: Each script that is there.
        absent: Anatomies without scripts.
        problems: What is wrong with the folder itself.
    """

    isolation: Isolation
    scripts: tuple[ScriptCheck, ...]
    absent: tuple[Anatomy, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(script.passed for script in self.scripts)


def check_submission(
    folder: Path | str,
    toys: Path | str,
    *,
    predictions: Path | str | None = None,
    minutes_per_case: float = 10.0,
    strictest: Isolation = "shut",
    progress: Progress | None = None,
) -> Check:
    """Run the scripts of a submission on toy cases and check what they do.

    Nothing of submission and scans is copied but the package, which is unpacked.

    Args:
        folder: What `write_submission` filled.
        toys: Toy cases; see `toys`.
        predictions: Where predictions are kept, as ``ANATOMY/TASK``; must be missing or empty.  None = nowhere.
        minutes_per_case: A script that takes longer than this for each of its cases is ended, and fails.
        strictest: Shut off no more than this; see `isolation`.
        progress: Told of every script.

    Raises:
        ResultsError: If `folder` is no submission, or there are no toy cases for one of its anatomies.
        CohortError: If a folder of toy cases is empty.
        WriteError: If another run is at work in `predictions` (E_LOCKED).
    """
    told, submission = progress or Silent(), Path(folder).resolve()
    problems = _altered(submission)
    present = tuple(a for a in ANATOMIES if any((submission / script_name(mode, a)).exists() for mode in MODES))
    if not present:
        raise ResultsError("no script", where=folder, expected=script_name("pixel", "brain"), remedy="write it again")
    found = {anatomy: find_toy(Path(toys).resolve(), anatomy, only_one=len(present) == 1) for anatomy in present}
    told.begin("check", len(present) * len(MODES))
    checks = []
    kept = None if predictions is None else Path(predictions).resolve()
    with _temporary() as temporary, nullcontext() if kept is None else held_folder(kept, "check"):
        room = make_room(temporary, submission, strictest=strictest)
        for anatomy, toy in found.items():
            for mode in MODES:
                target = make_folder((kept or temporary / "predictions") / anatomy / mode)
                checks.append(_check_script(room, submission, toy, anatomy, mode, target, 60 * minutes_per_case))
                told.advance()
    absent = tuple(anatomy for anatomy in ANATOMIES if anatomy not in present)
    return Check(room.isolation, tuple(checks), absent, problems)


def _altered(submission: Path) -> tuple[str, ...]:
    listed, found = listed_digests(submission), digests(submission)
    missing = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    unlisted = [f"{name} is not in the manifest" for name in sorted(found.keys() - listed.keys())]
    common = sorted(listed.keys() & found.keys())
    return (
        *missing,
        *unlisted,
        *(f"{name} is not as in the manifest" for name in common if listed[name] != found[name]),
    )


@contextmanager
def _temporary() -> Iterator[Path]:
    with temporary_folder("mendscan-check-") as folder:
        try:
            yield folder
        finally:
            for path in folder.iterdir():
                path.chmod(0o755)


def _check_script(
    room: Room, submission: Path, toy: Toy, anatomy: Anatomy, mode: Mode, target: Path, limit_seconds: float
) -> ScriptCheck:
    script, scans = submission / script_name(mode, anatomy), cases_in(toy.scans)
    if any(target.iterdir()) or target.is_relative_to(submission) or target.is_relative_to(toy.scans):
        raise ResultsError(
            "predictions need a folder of their own, without files", where=target, remedy="name another folder"
        )
    if not script.is_file():
        return ScriptCheck(script.name, 0.0, (), ("the script is missing",), (), None)
    watched = (submission, toy.scans, *room.watched)
    before = [_snapshot(place) for place in watched]
    run = watch(
        room.command(script, toy.scans, target),
        environment=room.environment,
        folder=target,
        expected=[prediction_name(scan, mode) for scan in scans],
        log=room.folder / "log",
        limit_seconds=limit_seconds * len(scans),
    )
    problems = _problems_of_run(run, limit_seconds)
    problems += [
        f"wrote outside of its predictions: {name}"
        for place, earlier in zip(watched, before, strict=True)
        for name in _changes(place, earlier)
    ]
    problems += _extra_files(target, {prediction_name(scan, mode) for scan in scans})
    cases = tuple(_check_case(scan, target, mode, run) for scan in scans)
    figure, refused = _figure(target, toy, mode)
    warnings = tuple(line for line in run.messages.splitlines() if line.strip())
    return ScriptCheck(script.name, run.seconds, cases, tuple(problems + refused), warnings, figure)


def _problems_of_run(run: Run, limit_seconds: float) -> list[str]:
    if run.exit_code is None:
        return [f"took more than {limit_seconds / 60:g} minutes per case and was ended"]
    if run.exit_code:
        said = " | ".join(run.messages.strip().splitlines()[-_MESSAGES_SHOWN:])
        return [f"exit code {run.exit_code}" + (f": {said}" if said else "")]
    return []


def _snapshot(place: Path) -> dict[str, dict[str, int | str]]:
    """Return every file below a folder by its digest, and every folder."""
    return digests(place) | {f"{path.relative_to(place).as_posix()}/": {} for path in place.rglob("*/")}


def _changes(place: Path, before: dict[str, dict[str, int | str]]) -> list[str]:
    after = _snapshot(place)
    return [
        f"{place.name}/{name}" for name in sorted(after.keys() | before.keys()) if after.get(name) != before.get(name)
    ]


def _extra_files(target: Path, expected: set[str]) -> list[str]:
    extra = sorted(path.name for path in target.iterdir() if path.name not in expected)
    return [f"a file that belongs to no case: {name}" for name in extra]


def _check_case(scan: Path, target: Path, mode: Mode, run: Run) -> CaseCheck:
    name = prediction_name(scan, mode)
    found = inspect_prediction(target / name, scan, mode)
    return CaseCheck(
        scan.name, run.case_seconds.get(name), run.case_bytes.get(name), found.highest, tuple(found.problems),
        tuple(found.remarks),
    )  # fmt: skip


def _figure(target: Path, toy: Toy, mode: Mode) -> tuple[OfficialFigure | None, list[str]]:
    labels = toy.labels_of(mode)
    if labels is None:
        return None, []
    try:
        return official_figure(target, labels, mode=mode), []
    except MendscanError as error:
        return None, [f"the official rules give no figure: {error.problem}"]
