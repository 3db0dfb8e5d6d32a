"""Jobs in processes: what happens to one of them costs its own job and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mendscan.errors import ScanError
from mendscan.parallel import all_in_processes, each_in_processes, each_outcome
from mendscan.workers import WorkerDied, WorkerTimedOut

FATES = ("fine", "exits", "killed", "hangs", "raises", "no memory", "odd error", "odd result")


class OddError(Exception):
    """Cannot be rebuilt from its arguments, as a process must."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def meet(fate: str, folder: Path | None = None) -> object:
    if folder is not None:
        (folder / f"{fate.split()[0]}-{time.monotonic_ns()}").write_text(str(os.getpid()))
    if fate == "exits":
        os._exit(7)
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "hangs":
        time.sleep(600)
    if fate == "raises":
        raise ScanError("bad", where=fate)
    if fate == "no memory":
        raise MemoryError
    if fate == "odd error":
        raise OddError("very ", "odd")
    return (lambda: 0) if fate == "lambda" else (each for each in fate) if fate == "odd result" else fate


def test_each_fate_is_the_jobs_own(tmp_path: Path) -> None:
    fates = [*FATES, *(f"fine{n}" for n in range(12))]
    jobs = [(fate, tmp_path) for fate in fates]
    found = dict(each_outcome(meet, jobs, workers=2, timeout_s=4.0))
    met = {fate: found[index] for index, fate in enumerate(fates)}
    assert [met[f"fine{n}"] for n in range(12)] == [f"fine{n}" for n in range(12)]
    assert str(met["exits"]) == "its process ended with code 7"
    assert "SIGKILL" in str(met["killed"])
    assert type(met["killed"]) is WorkerDied
    assert type(met["hangs"]) is WorkerTimedOut
    assert (type(met["raises"]), met["raises"].where) == (ScanError, "raises")
    assert type(met["no memory"]) is MemoryError
    assert "very odd" in str(met["odd error"])
    assert isinstance(met["odd result"], Exception)
    # Who died once is tried once more; who took too long is not; and nobody else is done twice.
    times = {fate: len(list(tmp_path.glob(f"{fate}-*"))) for fate in ("exits", "killed", "hangs", "raises", "fine0")}
    assert times == {"exits": 2, "killed": 2, "hangs": 1, "raises": 1, "fine0": 1}


def test_here_too_an_exception_is_an_outcome_unless_it_was_not_expected() -> None:
    jobs = [("raises",), ("no memory",), ("fine",)]
    found = dict(each_outcome(meet, jobs, workers=0))
    assert (type(found[0]), type(found[1]), found[2]) == (ScanError, MemoryError, "fine")
    for workers in (0, 1):
        with pytest.raises(MemoryError):
            list(each_in_processes(meet, jobs, expected=ScanError, workers=workers))


def test_all_of_them_are_in_order_or_the_first_error_ends_it() -> None:
    done: list[int] = []
    jobs = [(number,) for number in range(5, 0, -1)]
    assert all_in_processes(after_a_while, jobs, after_each=lambda: done.append(1)) == [5, 4, 3, 2, 1]
    assert len(done) == 5
    with pytest.raises(ScanError):
        all_in_processes(meet, [("fine",), ("raises",)])


def after_a_while(number: int) -> int:
    """The first job is the last to end."""
    time.sleep(0.02 * number)
    return number


def rest(folder: Path, number: int) -> str:
    (folder / f"{number}-{os.getpid()}").write_text("")
    os.kill(os.getpid(), number)
    return "went on"


def test_signals_to_a_process_alone(tmp_path: Path) -> None:
    """One that is told to end costs its job; those meant for whoever started it are not heard."""
    told = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    found = dict(each_outcome(rest, [(tmp_path, number) for number in told], workers=1))
    assert str(found[0]) == "its process was ended by SIGTERM"
    assert [found[index] for index in (1, 2, 3)] == ["went on"] * 3


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_process_that_is_stopped_goes_on_or_is_ended(tmp_path: Path, goes_on: bool) -> None:
    def let_it_go_on() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 1)
        (path,) = tmp_path.iterdir()
        process = int(path.name.partition("-")[2])
        wait_until(lambda: Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        os.kill(process, signal.SIGCONT)

    helper = threading.Thread(target=let_it_go_on if goes_on else int)
    helper.start()
    found = dict(each_outcome(rest, [(tmp_path, signal.SIGSTOP)], workers=1, timeout_s=60.0 if goes_on else 1.0))
    helper.join()
    assert found[0] == "went on" if goes_on else type(found[0]) is WorkerTimedOut


def nap(folder: Path) -> str:
    (folder / "begun").write_text("")
    time.sleep(1.0)
    return "rested"


def test_time_when_all_were_stopped_does_not_count(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom mendscan.parallel import each_outcome\n"
        "from test_workers import nap\n"
        "print(list(each_outcome(nap, [(Path(sys.argv[1]),)], workers=1, timeout_s=4.0)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    told = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(told, env=environment, stdout=subprocess.PIPE, start_new_session=True) as parent:
        wait_until((tmp_path / "begun").exists)
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.killpg(parent.pid, signal.SIGCONT)
        assert parent.communicate(timeout=60)[0] == b"[(0, 'rested')]\n"


def fail() -> None:
    raise ScanError("not ready")


def test_processes_that_cannot_start_end_the_work() -> None:
    with pytest.raises(ScanError, match="not ready"):
        list(each_outcome(meet, [("fine",)], workers=1, initializer=fail))
    with pytest.raises(WorkerDied, match="before their first job"):
        list(each_outcome(meet, [("fine",)], workers=1, initializer=os._exit, initargs=(3,)))


def test_no_process_outlives_the_work(tmp_path: Path) -> None:
    outcomes = each_outcome(meet, [("fine", tmp_path), ("hangs", tmp_path), ("hangs", tmp_path)], workers=2)
    next(outcomes)
    outcomes.close()
    assert_gone(tmp_path)


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom mendscan.parallel import each_outcome\n"
        "from test_workers import meet\n"
        "list(each_outcome(meet, [('hangs', Path(sys.argv[1]))] * 2, workers=2))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.wait()
    assert_gone(tmp_path)


def assert_gone(folder: Path) -> None:
    for path in folder.iterdir():
        wait_until(partial(gone, Path("/proc", path.read_text())))


def gone(process: Path) -> bool:
    """Whether it has ended; one that nobody has asked about is still listed, as a zombie."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    ends = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
