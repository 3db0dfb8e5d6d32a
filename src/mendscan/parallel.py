"""Work in parallel: many scans in processes, the slices of one scan in threads.

Each of them lets torch use one thread only: two threads inside one operation stall as soon as anything else runs.
loky, scikit-learn's pool, is used because a script that calls mendscan needs no ``if __name__ == "__main__"`` for it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from loky import ProcessPoolExecutor, as_completed

__all__ = ["available_cores", "each_in_processes", "each_in_threads"]

_LOOK_EVERY_SECONDS = 0.5
"""How often a worker looks whether its parent still lives."""


def available_cores() -> int:
    """Return how many cores this process may really use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def each_in_processes(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    expected: type[Exception],
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    workers: int | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run `work(*job)` for each job; yield (index of the job, result) as they finish.

    Args:
        work: A function of a module.
        jobs: Arguments of each call.
        expected: An error of this kind is yielded in place of the result; any other is raised.
        initializer: Called once in each process.
        initargs: Its arguments.
        workers: Processes; None = one per core; 0 = none, the work is done here.
    """
    count = min(available_cores() if workers is None else workers, len(jobs))
    if count == 0:
        yield from _each_here(work, jobs, expected, initializer, initargs)
        return
    with ProcessPoolExecutor(count, initializer=_begin_worker, initargs=(os.getpid(), initializer, initargs)) as pool:
        try:
            with _signals_held_back():
                futures = {pool.submit(work, *job): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                error = future.exception()
                yield futures[future], error if isinstance(error, expected) else future.result()
        except BaseException:
            pool.shutdown(wait=False, kill_workers=True)
            raise


def _begin_worker(parent: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a parent that was killed could not end it."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_SECONDS)
    os._exit(1)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes that begin in the block never hear of signals to stop, which a terminal or a batch system sends to all.

    They belong to the process that began them: it hears, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def each_in_threads(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, workers: int) -> list[Any]:
    """Return the results of `work(*job)` for each job, in order, computed by up to `workers` threads.

    For work that spends its time outside the interpreter's lock and shares large data.  An error ends it all: jobs not
    yet begun are left out.
    """
    if min(workers, len(jobs)) <= 1:
        return [work(*job) for job in jobs]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _each_here(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    expected: type[Exception],
    initializer: Callable[..., None] | None,
    initargs: tuple[Any, ...],
) -> Iterator[tuple[int, Any]]:
    if initializer is not None:
        initializer(*initargs)
    for index, job in enumerate(jobs):
        try:
            result: Any = work(*job)
        except expected as error:
            result = error
        yield index, result
