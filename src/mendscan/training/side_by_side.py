"""Networks that do not depend on each other are trained at once, each by threads of its own.

Two threads within one operation wait for each other; two networks do not: on two cores the networks of the ``auto``
plan take 1.26 times as many steps in the same time (``benchmarks/side_by_side.py``), and other load on the machine
costs no more than its share.

There may be more networks than cores.  After each step whoever is furthest behind goes on, so that all end together.
What comes out does not depend on who went first: every draw is a function of seed, network and step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Condition
from typing import NamedTuple, TypeVar

import torch

from mendscan.detection.devices import threads
from mendscan.errors import Interrupted
from mendscan.parallel import available_cores
from mendscan.training.interrupts import StopRequest

__all__ = ["Crew", "Turn", "side_by_side"]

Result = TypeVar("Result")
_TICK_S = 0.2
"""So often it is looked whether a signal came."""


class Crew(NamedTuple):
    """How many networks are trained at once, and by how many threads each."""

    at_once: int
    threads: int

    @classmethod
    def for_networks(cls, networks: int, device: torch.device) -> Crew:
        """Return the crew for so many networks: on the CPU one core each, or more where there are more cores.

        On another device networks are trained one after the other, for each fills it.
        """
        allowed = torch.get_num_threads()
        cores = min(allowed, max(1, available_cores()))
        if device.type != "cpu" or networks == 1:
            return cls(1, allowed)
        at_once = min(cores, networks)
        return cls(at_once, max(1, cores // at_once))


class _Places:
    """So many places to work at, for those who are furthest behind."""

    def __init__(self, count: int) -> None:
        self._free, self._waiting, self._changed = count, list[Turn](), Condition()

    def take(self, turn: Turn) -> None:
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._free > 0 and min(self._waiting, key=lambda each: each.done) is turn)
            self._waiting.remove(turn)
            self._free -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def pass_on(self, turn: Turn) -> None:
        with self._changed:
            if any(other.done < turn.done for other in self._waiting):
                self.leave()
                self.take(turn)


@dataclass(eq=False)
class Turn:
    """How far one of several trainings is, and its place among them.

    Attributes:
        steps: It takes so many.
        taken: So many are taken.
    """

    steps: int = 1
    taken: int = 0
    _places: _Places = field(default_factory=lambda: _Places(1))

    @property
    def done(self) -> float:
        """Which part of its steps is taken."""
        return self.taken / max(1, self.steps)

    def pass_on(self, steps: int = 1) -> None:
        """Count steps, and let those go on who are further behind."""
        self.taken += steps
        self._places.pass_on(self)


def side_by_side(
    trainings: Sequence[tuple[int, Callable[[Turn], Result]]], crew: Crew, stop: StopRequest
) -> list[Result]:
    """Run trainings, as many at once as the crew says; return their results in order.

    Args:
        trainings: Of each the number of steps and what to do; it is given its turn, and passes it on after each step.
        crew: How many at once.
        stop: Where it was asked for, each training ends at its next step; one that fails asks the others to.

    Raises:
        Exception: What a training raised; `Interrupted` only if none failed for another reason.
    """
    places = _Places(crew.at_once)

    def run(steps: int, training: Callable[[Turn], Result]) -> Result:
        turn = Turn(steps, _places=places)
        places.take(turn)
        try:
            return training(turn)
        except BaseException:
            stop.ask()
            raise
        finally:
            places.leave()

    with stop.deferred(), threads(crew.threads):
        if crew.at_once == 1:
            return [run(*training) for training in trainings]
        with ThreadPoolExecutor(len(trainings), thread_name_prefix="training") as pool:
            futures = [pool.submit(run, *training) for training in trainings]
            # A signal that another thread was given is handled in this one, once it wakes.
            while wait(futures, timeout=_TICK_S).not_done:
                pass
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, Interrupted)):
        raise error
    return [future.result() for future in futures]
