"""Work in parallel: many scans in processes, the slices of one scan in threads.

Each of them lets torch use one thread only: two threads inside one operation stall as soon as anything else runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mendscan.workers import outcomes_of_workers

__all__ = ["all_in_processes", "available_cores", "each_in_processes", "each_in_threads", "each_outcome"]

Result = TypeVar("Result")


def available_cores() -> int:
    """Return how many cores this process may really use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def all_in_processes(
    work: Callable[..., Result],
    jobs: Sequence[tuple[Any, ...]],
    *,
    after_each: Callable[[], object] = lambda: None,
    workers: int | None = None,
) -> list[Result]:
    """Return the results of `work(*job)` for each job, in order, computed in one process per core.

    The first error ends it all.

    Args:
        work: A function of a module.
        jobs: Arguments of each call.
        after_each: Called when a job is done, whichever it is.
        workers: Processes; None = one per core; 0 = none, the work is done here.
    """
    results: dict[int, Result] = {}
    for index, outcome in each_outcome(work, jobs, workers=workers):
        if isinstance(outcome, Exception):
            raise outcome
        results[index] = outcome
        after_each()
    return [results[index] for index in range(len(jobs))]


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
    for index, outcome in each_outcome(work, jobs, initializer=initializer, initargs=initargs, workers=workers):
        if isinstance(outcome, Exception) and not isinstance(outcome, expected):
            raise outcome
        yield index, outcome


def each_outcome(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    workers: int | None = None,
    timeout_s: float | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run `work(*job)` for each job; yield (index of the job, result or whatever exception it raised) as they finish.

    As `each_in_processes`, but nothing that happens to one job ends the others.

    Args:
        work: A function of a module.
        jobs: Arguments of each call.
        initializer: Called once in each process.
        initargs: Its arguments.
        workers: Processes; None = one per core; 0 = none, the work is done here.
        timeout_s: The most seconds that a job may take in a process; None = any.

    Yields:
        With the exceptions `WorkerDied` and `WorkerTimedOut` besides those of `work`.
    """
    count = min(available_cores() if workers is None else workers, len(jobs))
    if count == 0:
        yield from _each_here(work, jobs, initializer, initargs)
        return
    yield from outcomes_of_workers(
        work, jobs, workers=count, initializer=initializer, initargs=initargs, timeout_s=timeout_s
    )


def each_in_threads(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    after_each: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Return the results of `work(*job)` for each job, in order, computed by up to `workers` threads.

    For work that spends its time outside the interpreter's lock and shares large data.  An error ends it all: jobs not
    yet begun are left out.

    Args:
        work: What is done.
        jobs: Arguments of each call.
        workers: Threads; with one, the work is done in this.
        after_each: Called in this thread as each result is taken, such as `Progress.advance`.
    """
    results: list[Any] = []

    def take(result: Any) -> None:
        results.append(result)
        after_each()

    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            take(work(*job))
        return results
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            for future in futures:
                take(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


def _each_here(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    initializer: Callable[..., None] | None,
    initargs: tuple[Any, ...],
) -> Iterator[tuple[int, Any]]:
    if initializer is not None:
        initializer(*initargs)
    for index, job in enumerate(jobs):
        try:
            result: Any = work(*job)
        except Exception as error:  # noqa: BLE001
            result = error
        yield index, result
