"""Processes that do one job at a time: whatever happens to one of them costs its own job and no other.

A pool of the usual kind breaks as a whole when one process dies, and cannot say which job it died of.  Here every
process has a pipe of its own, so it is known what each one does; one that dies or hangs is replaced.
loky starts them, because a script that calls mendscan then needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
from loky.backend.process import LokyProcess
from loky.backend.utils import kill_process_tree

__all__ = ["WorkerDied", "WorkerTimedOut", "outcomes_of_workers"]

_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_STOP_SIGNALS = tuple(getattr(signal, name) for name in _STOPPING if hasattr(signal, name))
_STARTS = 3
"""So many processes in a row may die before they are ready for a job."""
_TICK_S = 0.5
"""So often it is looked whether this process was stopped while it waited."""
_GRACE_S = 10.0
"""Longest wait for a process that was told to go, or killed."""


class WorkerDied(BrokenExecutor):
    """A process ended while it worked, such as by a signal of the kernel; the text says how."""


class WorkerTimedOut(WorkerDied):
    """A process took longer than it was given, and was ended."""


@dataclass
class _Worker:
    process: LokyProcess
    pipe: Connection
    job: int | None = None
    ready: bool = False
    deadline: float | None = None


def outcomes_of_workers(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    timeout_s: float | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run `work(*job)` for each job in processes; yield (index of the job, result or exception) as they finish.

    A job whose process died is tried once more when all others are done, alone: memory may have run out because of a
    neighbour.  Closing the generator ends the processes at once, and they end by themselves when this process does.

    Args:
        work: What to do; it may be a closure, as may be `initializer`.
        jobs: Arguments of each call.
        workers: Most processes at a time, at least 1.
        initializer: Called once in each process; what it raises is raised here.
        initargs: Its arguments.
        timeout_s: The most seconds that a job may take; None = any.

    Raises:
        WorkerDied: If processes die before they are ready for a job.
    """
    crew = _Crew(cloudpickle.dumps((work, initializer, initargs)), jobs, timeout_s)
    try:
        yield from crew.outcomes(workers)
    finally:
        crew.dismiss_all()


class _Crew:
    def __init__(self, task: bytes, jobs: Sequence[tuple[Any, ...]], timeout_s: float | None) -> None:
        self._task, self._jobs, self._timeout_s = task, jobs, timeout_s
        self._waiting: deque[int] = deque(range(len(jobs)))
        self._suspects: deque[int] = deque()
        self._tried: set[int] = set()
        self._team: list[_Worker] = []
        self._stillborn = 0
        self._lifeline_end, self._lifeline = Pipe(duplex=False)

    def outcomes(self, most: int) -> Iterator[tuple[int, Any]]:
        while self._waiting or self._suspects or self._team:
            if not self._waiting and not self._team:
                self._waiting.append(self._suspects.popleft())
            starting = sum(not worker.ready for worker in self._team)
            while len(self._team) < most and starting < len(self._waiting):
                self._hire()
                starting += 1
            yield from self._events()

    def dismiss_all(self) -> None:
        """End every process, at once."""
        for worker in list(self._team):
            self._end(worker)
        self._lifeline.close()
        self._lifeline_end.close()

    def _hire(self) -> None:
        ours, theirs = Pipe()
        process = LokyProcess(target=_serve, args=(theirs, self._lifeline_end, self._task), name="mendscan-worker")
        with _signals_held_back():  # the child inherits that, and Ctrl-C in a terminal reaches children, too
            process.start()
            self._team.append(_Worker(process, ours))
        theirs.close()

    def _events(self) -> Iterator[tuple[int, Any]]:
        heard = self._heard()
        for worker in list(self._team):
            if worker.pipe in heard or worker.process.sentinel in heard:
                yield from self._hear(worker)
            elif worker.deadline is not None and time.monotonic() >= worker.deadline and worker.job is not None:
                self._end(worker)
                yield worker.job, WorkerTimedOut(f"took longer than {self._timeout_s:g} s")

    def _heard(self) -> list[Any]:
        """Wait until a process speaks, ends or may have taken too long; time when all were stopped is given back.

        Ctrl-Z and batch systems stop this process and its children alike, and go on later.
        """
        pipes = [each for worker in self._team for each in (worker.pipe, worker.process.sentinel)]
        deadlines = [worker.deadline for worker in self._team if worker.deadline is not None]
        if not deadlines:
            return wait(pipes)
        began = time.monotonic()
        patience = min(_TICK_S, max(0.0, min(deadlines) - began))
        heard = wait(pipes, patience)
        stopped_s = time.monotonic() - began - patience
        for worker in self._team:
            if worker.deadline is not None and stopped_s > _TICK_S:
                worker.deadline += stopped_s
        return heard

    def _hear(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        kind: str
        content: Any
        try:
            kind, content = worker.pipe.recv() if worker.pipe.poll() else ("died", None)
        except (EOFError, OSError):
            kind, content = "died", None
        except Exception as error:  # noqa: BLE001
            kind, content = "done", error  # what it sent cannot be rebuilt here
        if kind == "unready":
            raise content
        if kind == "died":
            yield from self._bury(worker)
            return
        job, self._stillborn = worker.job, 0
        self._employ(worker)
        if job is not None:
            yield job, content

    def _employ(self, worker: _Worker) -> None:
        """Give a process that waits its next job; without one it may go."""
        worker.job, worker.ready, worker.deadline = None, True, None
        if not self._waiting:
            self._end(worker, politely=True)
            return
        worker.job = self._waiting.popleft()
        try:
            worker.pipe.send_bytes(cloudpickle.dumps(self._jobs[worker.job]))
        except OSError:
            return  # it has died, and its end of the pipe will say so
        if self._timeout_s is not None:
            worker.deadline = time.monotonic() + self._timeout_s

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        self._end(worker, politely=True)
        how = _cause_of_death(worker.process.exitcode)
        if worker.job is None:
            self._stillborn += 1
            if self._stillborn == _STARTS:
                raise WorkerDied(f"{_STARTS} processes in a row ended before their first job: {how}")
        elif worker.job in self._tried:
            yield worker.job, WorkerDied(how)
        else:
            self._tried.add(worker.job)
            self._suspects.append(worker.job)

    def _end(self, worker: _Worker, *, politely: bool = False) -> None:
        worker.pipe.close()
        if politely:
            worker.process.join(_GRACE_S)
        if worker.process.exitcode is None:
            kill_process_tree(worker.process)
            worker.process.join(_GRACE_S)
        self._team.remove(worker)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{memory}"


@contextmanager
def _signals_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, lifeline: Connection, task: bytes) -> None:
    """Do jobs until there are no more: the life of a process."""
    for number in _STOP_SIGNALS:  # whoever started this process decides when it ends
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has gone, or wants no more
        _work_on(pipe, task)


def _work_on(pipe: Connection, task: bytes) -> None:
    try:
        work = _prepared(task)
    except Exception as error:  # noqa: BLE001
        pipe.send(("unready", _sendable(error)))
        return
    pipe.send(("ready", None))
    while True:
        _report(pipe, _outcome(work, pipe.recv()))


def _prepared(task: bytes) -> Callable[..., Any]:
    work: Callable[..., Any]
    work, initializer, initargs = cloudpickle.loads(task)
    if initializer is not None:
        initializer(*initargs)
    return work


def _outcome(work: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    try:
        return work(*job)
    except Exception as error:  # noqa: BLE001
        return _sendable(error)


def _report(pipe: Connection, outcome: Any) -> None:
    try:
        message = cloudpickle.dumps(("done", outcome))
    except Exception as error:  # noqa: BLE001
        message = cloudpickle.dumps(("done", _sendable(error)))
    pipe.send_bytes(message)


def _sendable(error: Exception) -> Exception:
    """Return the error with its traceback as a note; one that cannot be rebuilt elsewhere, in words."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = error.__notes__
        return told
    return error


def _end_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.poll(None)  # nothing is ever written to it: it ends when the parent does
    finally:
        os._exit(1)
