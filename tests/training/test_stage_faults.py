"""One stage, on a network of a few weights: whatever happens to it or its checkpoints, what comes out is the same."""

import errno
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from mendscan.config import PRESETS
from mendscan.errors import Interrupted, MendscanError, WriteError
from mendscan.models.dropout import ChannelDropout
from mendscan.training import run as run_module
from mendscan.training.checkpoint import load_checkpoint, state_digest
from mendscan.training.interrupts import StopRequest, stop_requests
from mendscan.training.loop import LossOfStep, generator_for
from mendscan.training.metrics_log import MetricsLog
from mendscan.training.run import StageFolder, StageRun, Validate

STEPS = 8


class Listener:
    """Remembers what is said, and does something at a step."""

    def __init__(self, at: int = -1, then: Callable[[], object] = int) -> None:
        self.at, self.then, self.done, self.said = at, then, 0, []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        self.done = done

    def advance(self, units: int = 1, **facts: float) -> None:
        self.done += units
        if self.done == self.at:
            self.then()

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(autouse=True)
def save_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_SAVE_EVERY_SECONDS", -1.0)


def run(
    folder: Path,
    listener: Listener | None = None,
    *,
    stop: StopRequest | None = None,
    basis: str = "",
    spoil: Callable[[int, nn.Module], float] = lambda *_: 0.0,
    on_begin: Callable[[], object] = int,
) -> str:
    """Run the stage to its end; return the digest of the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropout = (nn.Unflatten(1, (8, 1, 1)), ChannelDropout(0.2), nn.Flatten())
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), *dropout, nn.Linear(8, 1))

    def loss_of_step(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 4, generator=generator_for("data", step))
        error = (network(x) - x.sum(1, keepdim=True)).pow(2).mean()
        return {"loss": error + spoil(step, network), "error": error}

    folder.mkdir(exist_ok=True)
    listener = listener or Listener()
    where = StageFolder(folder, MetricsLog(folder / "metrics.jsonl"), listener, stop or StopRequest())

    def begin() -> tuple[LossOfStep, Validate]:
        on_begin()
        return loss_of_step, lambda _: {}

    StageRun("prior", network, 1e-2, STEPS, PRESETS["brain"], where, basis=basis).run(begin)
    return state_digest(network)


def stopped(folder: Path, at: int) -> None:
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(folder, Listener(at, lambda: stop(signal.SIGTERM, None)), stop=stop)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("prior-*.safetensors"))


def steps_logged(folder: Path) -> list[int]:
    return [entry["step"] for entry in MetricsLog(folder / "metrics.jsonl").entries()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(tmp_path_factory.mktemp("whole"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(place: float) -> Callable[[Path], None]:
    def flipped(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)

    return flipped


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "cut off": cut_off,
    "no byte": lambda path: path.write_bytes(b""),
    "a bit of a weight": flip(0.97),
    "a bit of the header": flip(0.1),
    "a bit of the length": flip(0.0),
    "dangling": dangle,
    "not ours": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)),
}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    assert [path.name for path in checkpoints(tmp_path)] == ["prior-00000004.safetensors", "prior-00000005.safetensors"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole: str, tmp_path: Path, damage: str) -> None:
    stopped(tmp_path, 5)
    DAMAGES[damage](checkpoints(tmp_path)[-1])
    listener = Listener()
    assert run(tmp_path, listener) == whole
    assert len(listener.said) == 1
    assert "prior-00000005.safetensors: the checkpoint is damaged" in listener.said[0]
    assert steps_logged(tmp_path) == list(range(STEPS))


def test_the_good_one_stays_until_another_is_written(tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    cut_off(checkpoints(tmp_path)[-1])
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path, Listener(5, lambda: stop(signal.SIGTERM, None)), stop=stop)
    for path in checkpoints(tmp_path):
        load_checkpoint(path)
    assert len(checkpoints(tmp_path)) == 2


def test_with_no_good_checkpoint_the_stage_begins_anew_and_ends_the_same(whole: str, tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    for path in checkpoints(tmp_path):
        cut_off(path)
    listener = Listener()
    assert run(tmp_path, listener) == whole
    assert len(listener.said) == 2
    assert steps_logged(tmp_path) == list(range(STEPS))


@pytest.mark.parametrize("at", [5, STEPS])
def test_a_damaged_log_is_put_right_by_the_checkpoint(whole: str, tmp_path: Path, at: int) -> None:
    run(tmp_path) if at == STEPS else stopped(tmp_path, at)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes()[:50])
    assert run(tmp_path) == whole
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)
    assert steps_logged(tmp_path) == list(range(STEPS))


def test_a_checkpoint_on_top_of_other_networks_is_not_used(tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    listener = Listener()
    run(tmp_path, listener, basis="another")
    assert all("other networks" in line for line in listener.said)
    assert len(listener.said) == 2


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    listener, threads = Listener(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run(tmp_path, listener)
    finally:
        torch.set_num_threads(threads)
    assert any("threads" in line for line in listener.said)


WRITE_CALLS = ("fsync", "replace", "unlink")
"""What the system is asked for while a checkpoint is written, and those before it are removed."""


def killed_at(folder: Path, nth: int) -> int:
    """Run in a process that is killed before the n-th such call after the fifth step; return how it ended."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def aim() -> None:
        calls = itertools.count()
        for name in WRITE_CALLS:
            setattr(os, name, partial(strike, getattr(os, name), calls))

    def strike(genuine: Callable[..., object], calls: Iterator[int], *given: object, **options: object) -> object:
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(*given, **options)

    try:
        run(folder, Listener(5, aim))
    finally:
        os._exit(0)


@pytest.mark.parametrize("nth", range(7))
def test_killed_at_any_point_of_a_save_it_goes_on(whole: str, tmp_path: Path, nth: int) -> None:
    assert killed_at(tmp_path, nth) == -signal.SIGKILL
    readable = []
    for path in checkpoints(tmp_path):
        load_checkpoint(path)
        readable.append(path)
    assert len(readable) >= 2
    assert run(tmp_path) == whole
    assert steps_logged(tmp_path) == list(range(STEPS))


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_changes_nothing(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    genuine = time.time
    with stop_requests() as stop, pytest.raises(Interrupted):
        run(tmp_path, Listener(3, lambda: stop(signal.SIGTERM, None)), stop=stop)
    monkeypatch.setattr(time, "time", lambda: genuine() + years * 3.15e7)
    for path in tmp_path.iterdir():
        os.utime(path, (genuine() - years * 3.15e7,) * 2)
    assert run(tmp_path) == whole


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_write_that_fails_leaves_the_checkpoints_before_it(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched, pytest.raises(WriteError) as caught:
        run(tmp_path, Listener(5, lambda: patched.setattr(os, call, fail)))
    assert os.strerror(code) in str(caught.value)
    assert ("MB free" in str(caught.value)) == (code in {errno.ENOSPC, errno.EDQUOT})
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.glob(".*"))
    for path in checkpoints(tmp_path):
        load_checkpoint(path)
    assert run(tmp_path) == whole
    assert steps_logged(tmp_path) == list(range(STEPS))


def test_files_that_may_not_grow_are_said(whole: str, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(WriteError, match="File too large") as caught:
            run(tmp_path, Listener(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "E_NO_SPACE"
    assert not list(tmp_path.glob(".*"))
    assert load_checkpoint(checkpoints(tmp_path)[-1]).facts["step"] == 4
    assert run(tmp_path) == whole


def test_a_folder_that_vanishes_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with pytest.raises(WriteError, match="work"):
        run(folder, Listener(5, lambda: folder.rename(tmp_path / "elsewhere")))
    (tmp_path / "elsewhere").rename(folder)
    run(folder)


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "work"

    def replace() -> None:
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("")

    with pytest.raises(WriteError, match="Not a directory"):
        run(folder, Listener(5, replace))


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MendscanError, match=r"training\.learning_rate_prior") as caught:
        run(tmp_path, spoil=lambda step, _: float("nan") if step == 5 else 0.0)
    assert caught.value.code == "E_DIVERGED"
    assert load_checkpoint(checkpoints(tmp_path)[-1]).facts["step"] == 5


def test_a_weight_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    def spoil(step: int, network: nn.Module) -> float:
        if step == 5:
            network.register_buffer("spoilt", torch.tensor(float("inf")))
        return 0.0

    with pytest.raises(MendscanError) as caught:
        run(tmp_path, spoil=spoil)
    assert caught.value.code == "E_DIVERGED"
    assert [load_checkpoint(path).facts["step"] for path in checkpoints(tmp_path)] == [4, 5]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_every_signal_to_stop_saves_at_the_step(whole: str, tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run where it is ignored
    try:
        with stop_requests(prompt=True) as stop, pytest.raises(Interrupted, match="step 3 of 8"):
            run(tmp_path, Listener(3, lambda: os.kill(os.getpid(), number)), stop=stop)
    finally:
        signal.signal(number, before)
    assert run(tmp_path) == whole


def test_a_second_signal_during_a_save_stops_at_once_and_leaves_no_trace(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def interrupted(descriptor: int) -> None:
        fsync(descriptor)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, stop_requests(prompt=True) as stop, pytest.raises(KeyboardInterrupt):
        run(tmp_path, Listener(5, lambda: patched.setattr(os, "fsync", interrupted)), stop=stop)
    assert not list(tmp_path.glob(".*"))
    assert run(tmp_path) == whole


def test_outside_the_steps_the_first_signal_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests(prompt=True):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests(prompt=True) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.made
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_stage_needs_is_made_only_if_it_takes_a_step(tmp_path: Path) -> None:
    """The prior's codes take minutes to make, and a training that is resumed after it needs none of them."""
    begun: list[str] = []
    first, again = (run(tmp_path, on_begin=lambda: begun.append("begun")) for _ in range(2))
    assert begun == ["begun"]
    assert first == again
