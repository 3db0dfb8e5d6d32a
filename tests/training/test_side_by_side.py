"""Networks trained at once: whoever is furthest behind goes first, one that fails or is stopped ends all.

And what comes out is what comes out one after the other.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mendscan.errors import Interrupted, MendscanError
from mendscan.models.dropout import ChannelDropout, dropout_drawn_from
from mendscan.training.interrupts import StopRequest
from mendscan.training.side_by_side import Crew, Turn, side_by_side
from training.conftest import SMALL
from training.test_trainer import digests, train

CPU = torch.device("cpu")
TWO = Crew(at_once=2, threads=1)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mendscan.training.side_by_side.available_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def counting(steps: int, order: list[str], name: str) -> tuple[int, Callable[[Turn], str]]:
    """A training that takes its steps, and notes them."""

    def training(turn: Turn) -> str:
        for _ in range(steps):
            order.append(name)
            time.sleep(1e-3)
            turn.pass_on()
        return name

    return steps, training


def test_results_are_in_the_order_of_the_trainings() -> None:
    order: list[str] = []
    trainings = [counting(steps, order, name) for name, steps in (("a", 9), ("b", 3), ("c", 6))]
    for crew in (TWO, Crew(1, 1), Crew(5, 1)):
        assert side_by_side(trainings, crew, StopRequest()) == ["a", "b", "c"]
    assert [order.count(name) for name in "abc"] == [27, 9, 18]


def test_all_come_to_their_end_together() -> None:
    """Three trainings of different lengths on two places: none may begin when another is half done."""
    order: list[str] = []
    steps = {"a": 40, "b": 20, "c": 60}
    side_by_side([counting(count, order, name) for name, count in steps.items()], TWO, StopRequest())
    taken = dict.fromkeys(steps, 0)
    for name in order:
        taken[name] += 1
        done = {each: taken[each] / steps[each] for each in steps}
        assert max(done.values()) - min(done.values()) < 0.25


def test_no_more_are_at_work_than_there_are_places() -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def training(turn: Turn) -> None:
        nonlocal at_work, most
        for _ in range(10):
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(1e-3)
            with lock:
                at_work -= 1
            turn.pass_on()

    side_by_side([(10, training)] * 4, TWO, StopRequest())
    assert most == 2


def test_the_error_of_one_stops_the_others_and_is_the_one_that_is_raised() -> None:
    stop, ended = StopRequest(), []

    def fails(turn: Turn) -> None:
        turn.pass_on()
        raise MendscanError("the disk is full", where="b", code="E_NO_SPACE")

    def goes_on(turn: Turn) -> None:
        while not stop.made:
            turn.pass_on()
        ended.append(turn.taken)
        raise Interrupted("stopped", where="a")

    with pytest.raises(MendscanError, match="disk is full"):
        side_by_side([(10**6, goes_on), (5, fails), (10**6, goes_on)], TWO, stop)
    assert len(ended) == 2


def test_a_signal_stops_all_of_them() -> None:
    stop = StopRequest(prompt=True)

    def goes_on(turn: Turn) -> None:
        while not stop.made:
            turn.pass_on()
            if turn.taken == 20:
                stop(signal.SIGTERM, None)
        raise Interrupted("stopped", where="a")

    with pytest.raises(Interrupted):
        side_by_side([(10**6, goes_on)] * 3, TWO, stop)
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGTERM, None)


@pytest.mark.usefixtures("two_cores")
def test_the_crew_shares_out_the_cores() -> None:
    assert Crew.for_networks(3, CPU) == (2, 1)
    assert Crew.for_networks(1, CPU) == (1, 2)
    assert Crew.for_networks(3, torch.device("meta")) == (1, 2)


def test_more_cores_than_networks_are_used_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mendscan.training.side_by_side.available_cores", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert Crew.for_networks(3, CPU) == (3, 2)


def test_threads_of_a_crew_compute_with_as_many_threads_as_it_says() -> None:
    before = torch.get_num_threads()
    seen = side_by_side([(1, lambda _: torch.get_num_threads())] * 2, TWO, StopRequest())
    assert seen == [1, 1]
    assert torch.get_num_threads() == before


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_dropout_draws_from_its_own_thread_s_stream() -> None:
    dropout, x = ChannelDropout(0.5), torch.ones(4, 64, 1, 1)

    def draws(seed: int) -> Callable[[Turn], list[torch.Tensor]]:
        def training(turn: Turn) -> list[torch.Tensor]:
            drawn = []
            with dropout_drawn_from(torch.Generator().manual_seed(seed)):
                for _ in range(20):
                    drawn.append(dropout(x))
                    turn.pass_on()
            return drawn

        return training

    alone = [draws(seed)(Turn()) for seed in range(3)]
    together = side_by_side([(20, draws(seed)) for seed in range(3)], TWO, StopRequest())
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(alone[0][0], alone[1][0])


def test_dropout_drops_whole_channels_and_keeps_the_mean() -> None:
    with dropout_drawn_from(torch.Generator().manual_seed(0)):
        out = ChannelDropout(0.25)(torch.ones(50, 200, 2, 3))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((2, 3)), out.amax((2, 3)))
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(ChannelDropout(1.0)(torch.ones(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1))


def test_dropout_does_nothing_in_evaluation() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(ChannelDropout(0.9).eval()(x), x)


# --- a whole training -----------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A CPU's last bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_side_by_side_and_one_after_the_other_make_the_same_model(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignments = (*SMALL, "training.choose_detection=false")
    train(healthy, tmp_path / "alone", assignments=assignments)
    crews = []

    def of_two(*_: object) -> Crew:
        crews.append(TWO)
        return TWO

    monkeypatch.setattr(Crew, "for_networks", of_two)
    train(healthy, tmp_path / "together", assignments=assignments)
    assert crews
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")


@pytest.mark.usefixtures("one_thread")
def test_stopped_side_by_side_it_goes_on(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assignments = (*SMALL, "training.choose_detection=false")
    train(healthy, tmp_path / "whole", assignments=assignments)
    monkeypatch.setattr(Crew, "for_networks", lambda *_: TWO)

    class StopAfter:
        """Progress that asks to stop when all trainings together have taken so many steps."""

        def __init__(self, steps: int) -> None:
            self.left, self.of_thread = steps, threading.local()

        def begin(self, stage: str, total: int, *, done: int = 0) -> None:
            self.of_thread.counts = stage.startswith(("vqvae", "prior", "discriminator"))

        def advance(self, units: int = 1, **facts: float) -> None:
            self.left -= self.of_thread.counts
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

        def say(self, message: str) -> None: ...

    for steps in (2, 7, 9):
        with pytest.raises(Interrupted, match="resume"):
            train(
                healthy, tmp_path / "model", assignments=assignments, progress=StopAfter(steps),
                resume=(tmp_path / "model" / "work").exists(),
            )  # fmt: skip
    train(healthy, tmp_path / "model", assignments=assignments, resume=True)
    assert digests(tmp_path / "model") == digests(tmp_path / "whole")
