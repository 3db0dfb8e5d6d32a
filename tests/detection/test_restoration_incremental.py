"""Incremental restoration is the sequential definition, and computes every distinct prefix once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import cross_entropy

from detection.test_restoration import EVERYTHING, NOTHING, K, case, median_nll
from mendscan.config import PRESETS, PriorSettings
from mendscan.detection import restoration
from mendscan.detection.restoration import (
    Restored,
    draw_uniforms,
    restore_by_fixed_point,
    restore_incrementally,
    restore_sequentially,
)
from mendscan.models.pixelsnail import PixelSNAIL

Case = tuple[Tensor, Tensor, Tensor]
TINY = PriorSettings(channels=6, blocks=2, layers_per_block=1, key_channels=3, value_channels=4, attention_kernel=3)
PROBABILITY, NATS = 1e-4, 1e-3
"""How far float32 may be off."""


def random_prior(
    seed: int, *, step: int = 1, kernel: int = 3, factor: float = 1.5, settings: PriorSettings = TINY, codes: int = K
) -> PixelSNAIL:
    """A float64 prior with large weights: unlikely codes make others unlikely, so that changes cascade."""
    settings = settings.model_copy(update={"attention_downsampling": step, "attention_kernel": kernel})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        prior = PixelSNAIL(settings, codes=codes)
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter)).mul_(factor)
    return prior.double().eval()


def stripes(count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Grids whose codes are counted along rows or diagonals, from a random one on."""
    first, slope = (torch.randint(end, (count, 1, 1), generator=generator) for end in (K, 2))
    row, column = torch.arange(grid[0])[:, None], torch.arange(grid[1])
    return (first + slope * row + column) % K


@pytest.fixture(scope="module", params=[1, 2], ids=["each position", "every second position"])
def trained_prior(request: pytest.FixtureRequest) -> PixelSNAIL:
    """A float64 prior that has learnt stripes, so that it is sure of most codes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = PixelSNAIL(TINY.model_copy(update={"attention_downsampling": request.param}), codes=K)
        optimiser, generator = torch.optim.Adam(prior.parameters(), lr=0.01), torch.Generator().manual_seed(0)
        for _ in range(150):
            codes = stripes(16, (6, 8), generator)
            position = torch.rand(16, generator=generator) - 0.5
            optimiser.zero_grad()
            cross_entropy(prior(codes, position), codes).backward()
            optimiser.step()
    return prior.double().eval().requires_grad_(False)


def damaged_stripes(seed: int, grid: tuple[int, int] = (6, 8), *, slices: int = 4, restorations: int = 6) -> Case:
    """Stripes of which a fifth of the codes are random; the last slice is undamaged."""
    codes, position, uniforms = case(seed, grid, slices=slices, restorations=restorations)
    generator = torch.Generator().manual_seed(seed)
    damaged = torch.rand(codes.shape, generator=generator) < 0.2
    damaged[-1] = False
    return torch.where(damaged, codes, stripes(slices, grid, generator)), position, uniforms


def defined(prior: PixelSNAIL, given: Case, nats: float) -> Tensor:
    """The definition, all restorations at once."""
    codes, position, uniforms = given
    restorations = len(uniforms)
    restored = restore_sequentially(
        prior,
        repeat(codes, "S h w -> (R S) h w", R=restorations),
        repeat(position, "S -> (R S)", R=restorations),
        rearrange(uniforms, "R S h w -> (R S) h w"),
        threshold_nats=nats,
    )
    return rearrange(restored, "(R S) h w -> R S h w", R=restorations)


def threshold(which: str, prior: PixelSNAIL, given: Case) -> float:
    return {"nothing": NOTHING, "everything": EVERYTHING, "middle": median_nll(prior, *given[:2])}[which]


# --- the same codes as the definition --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (5, 1), (4, 4), (3, 5), (6, 8)])
@pytest.mark.parametrize(("seed", "factor"), [(0, 0.8), (1, 1.5), (2, 3.0)])
@pytest.mark.parametrize("which", ["nothing", "everything", "middle"])
def test_incremental_restoration_is_the_definition(grid: tuple[int, int], seed: int, factor: float, which: str) -> None:
    prior, given = random_prior(seed, factor=factor), case(seed, grid)
    nats = threshold(which, prior, given)
    found = restore_incrementally(prior, *given, threshold_nats=nats).codes_RShw
    assert found.dtype == given[0].dtype
    assert torch.equal(found, defined(prior, given, nats))
    assert (found == given[0]).all() == (which == "nothing") or given[0][0].numel() < 6


@pytest.mark.parametrize("grid", [(2, 2), (2, 6), (4, 4), (6, 8)])
@pytest.mark.parametrize(("seed", "factor", "kernel"), [(0, 0.8, 1), (1, 1.5, 3), (2, 3.0, 5)])
@pytest.mark.parametrize("which", ["nothing", "everything", "middle"])
def test_also_with_attention_on_every_second_position(
    grid: tuple[int, int], seed: int, factor: float, kernel: int, which: str
) -> None:
    prior, given = random_prior(seed, step=2, kernel=kernel, factor=factor), case(seed, grid)
    nats = threshold(which, prior, given)
    assert torch.equal(restore_incrementally(prior, *given, threshold_nats=nats)[0], defined(prior, given, nats))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("step", [1, 2])
def test_also_on_a_larger_grid(kernel: int, step: int) -> None:
    prior, given = random_prior(3, kernel=kernel, step=step), case(3, (12, 10), slices=4, restorations=5)
    nats = median_nll(prior, *given[:2])
    found = restore_incrementally(prior, *given, threshold_nats=nats)
    assert torch.equal(found.codes_RShw, restore_by_fixed_point(prior, *given, threshold_nats=nats))
    assert 0.1 < (found.codes_RShw != given[0]).double().mean() < 0.9


@pytest.mark.parametrize("grid", [(6, 8), (4, 6), (10, 2)])
@pytest.mark.parametrize("nats", [0.01, 2.0])
def test_also_with_a_prior_that_is_sure(trained_prior: PixelSNAIL, grid: tuple[int, int], nats: float) -> None:
    given = damaged_stripes(1, grid, restorations=2)
    found = restore_incrementally(trained_prior, *given, threshold_nats=nats).codes_RShw
    assert torch.equal(found, defined(trained_prior, given, nats))
    assert (found != given[0]).any()


def test_a_trained_prior_is_sure(trained_prior: PixelSNAIL) -> None:
    codes = stripes(20, (6, 8), torch.Generator().manual_seed(9))
    assert median_nll(trained_prior, codes, torch.zeros(20).double()) < 0.1


@pytest.mark.parametrize("preset", ["brain", "abdomen"])
@pytest.mark.parametrize("grid", [(20, 20), (10, 10)])
def test_also_with_the_depth_of_the_presets(preset: str, grid: tuple[int, int]) -> None:
    narrow = {"channels": 8, "key_channels": 4, "value_channels": 8}
    settings = PRESETS[preset].prior.model_copy(update=narrow)
    prior = random_prior(
        0,
        settings=settings,
        step=settings.attention_downsampling,
        kernel=settings.attention_kernel,
        factor=0.8,
        codes=16,
    )
    codes, position, uniforms = case(0, grid, slices=1, restorations=2)
    given = (2 * codes + 3) % 16, position, uniforms
    nats = median_nll(prior, *given[:2])
    found = restore_incrementally(prior, *given, threshold_nats=nats).codes_RShw
    assert torch.equal(found, restore_by_fixed_point(prior, *given, threshold_nats=nats))
    if grid == (10, 10):
        assert torch.equal(found, defined(prior, given, nats))
    assert 0.05 < (found != given[0]).double().mean() < 0.95


# --- float32 ---------------------------------------------------------------------------------------------------------


def unexplained(prior: PixelSNAIL, given: Case, found_RShw: Tensor, nats: float) -> list[list[int]]:
    """(restoration, slice, row, column) of each code that rounding cannot have decided, by the prior in float64.

    One pass over what was found shows every decision, since logits depend on the codes before only.  A code can have
    been decided if it is the original, whose NLL is not above the threshold by more than `NATS`; or if the NLL is not
    below by more than that, and the interval of the distribution that belongs to the code is within `PROBABILITY` of
    the uniform.
    """
    codes, position, uniforms = given
    impossible = []
    for found_Shw, uniforms_Shw in zip(found_RShw, uniforms, strict=True):
        with torch.no_grad():
            log_p = torch.log_softmax(prior(found_Shw, position), dim=1)
        nll = -log_p.gather(1, codes[:, None])[:, 0]
        above = log_p.exp().cumsum(1)
        upper, lower = (x.gather(1, found_Shw[:, None])[:, 0] for x in (above, above - log_p.exp()))
        kept = (found_Shw == codes) & (nll <= nats + NATS)
        near = (lower - PROBABILITY <= uniforms_Shw) & (uniforms_Shw <= upper + PROBABILITY)
        impossible.append(~(kept | (near & (nll > nats - NATS))))
    return torch.stack(impossible).nonzero().tolist()


def at_the_edges(prior: PixelSNAIL, given: Case, nats: float) -> Case:
    """The same case with every uniform moved to the upper end of the code it draws: half of them round to the next."""
    codes, position, uniforms = given
    exact = restore_by_fixed_point(prior, *given, threshold_nats=nats)
    with torch.no_grad():
        probability = torch.stack([torch.softmax(prior(each, position), dim=1) for each in exact])
    ends = probability.cumsum(2).gather(2, exact[:, :, None])[:, :, 0]
    return codes, position, torch.where(exact == codes, uniforms, (ends - 1e-11).clamp(0, 1 - 1e-11))


def in_float32(prior: PixelSNAIL, given: Case, nats: float, arithmetic: torch.dtype | None = None) -> Restored:
    codes, position, uniforms = given
    with torch.random.fork_rng(devices=[]):
        single = PixelSNAIL(prior.settings, codes=K).eval()
    single.load_state_dict(prior.state_dict())
    return restore_incrementally(single, codes, position.float(), uniforms, threshold_nats=nats, arithmetic=arithmetic)


def an_nll(prior: PixelSNAIL, given: Case, nats: float) -> float:
    """An NLL that restoration compares with the threshold, the one nearest to `nats`: as a threshold it is a tie."""
    restored = restore_by_fixed_point(prior, *given, threshold_nats=nats)
    with torch.no_grad():
        log_p = torch.log_softmax(prior(restored[0], given[1]), dim=1)
    compared = -log_p.gather(1, given[0][:, None]).flatten()
    return float(compared[(compared - nats).abs().argmin()])


@pytest.mark.parametrize("edges", [False, True], ids=["random uniforms", "uniforms at steps"])
@pytest.mark.parametrize("which", ["everything", "few", "a tie"])
def test_float32_differs_where_rounding_decides_only(trained_prior: PixelSNAIL, edges: bool, which: str) -> None:
    given = damaged_stripes(2, restorations=8)
    nats = an_nll(trained_prior, given, 2.0) if which == "a tie" else {"everything": EVERYTHING, "few": 2.0}[which]
    given = at_the_edges(trained_prior, given, nats) if edges else given
    exact, found = defined(trained_prior, given, nats), in_float32(trained_prior, given, nats).codes_RShw
    differing = int((exact != found).flatten(2).any(2).sum())
    assert unexplained(trained_prior, given, exact, nats) == []
    assert unexplained(trained_prior, given, found, nats) == [], f"{differing} grids of 32 differ from the definition"
    assert not edges or differing > 2, "no uniform was decided by rounding: the test has shown nothing"


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_code_is_not_explained_by_rounding(trained_prior: PixelSNAIL, seed: int) -> None:
    given = damaged_stripes(3)
    found = in_float32(trained_prior, given, 2.0).codes_RShw
    generator = torch.Generator().manual_seed(seed)
    at = [int(torch.randint(end, (), generator=generator)) for end in found.shape]
    found[*at] = (found[*at] + 1 + int(torch.randint(K - 1, (), generator=generator))) % K
    assert unexplained(trained_prior, given, found, 2.0)[0] == at


def test_a_missed_and_a_needless_replacement_are_not_explained_either(trained_prior: PixelSNAIL) -> None:
    given = damaged_stripes(3)
    found = in_float32(trained_prior, given, 2.0).codes_RShw
    assert unexplained(trained_prior, given, given[0].expand_as(found), 2.0)
    assert unexplained(trained_prior, given, found, 0.1)
    assert unexplained(trained_prior, given, in_float32(trained_prior, given, 0.1).codes_RShw, 2.0)
    codes, position, uniforms = given
    assert unexplained(trained_prior, (codes, position, uniforms.roll(1, 0)), found, 2.0)


def test_bfloat16_is_computed_in_and_changes_few_codes(
    trained_prior: PixelSNAIL, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, genuine, computed_in = damaged_stripes(4), restoration.Memory, []

    def memory(*args: Any, **options: Any) -> Any:
        computed_in.append(options["arithmetic"])
        return genuine(*args, **options)

    monkeypatch.setattr(restoration, "Memory", memory)
    exact, coarse = (in_float32(trained_prior, given, 2.0, each).codes_RShw for each in (None, torch.bfloat16))
    assert computed_in == [None, torch.bfloat16]
    assert coarse.shape == given[2].shape
    assert coarse.dtype == torch.int64
    changed = float((coarse != exact).double().mean())
    assert changed < 0.1, f"{changed:.1%} of the codes changed"


# --- the work --------------------------------------------------------------------------------------------------------


def distinct_prefixes(restored_RShw: Tensor) -> int:
    count = 0
    for restored_Rn in rearrange(restored_RShw, "R S h w -> S R (h w)").tolist():
        count += sum(len({tuple(codes_n[:i]) for codes_n in restored_Rn}) for i in range(len(restored_Rn[0])))
    return count


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (4, 4), (6, 8)])
@pytest.mark.parametrize("restorations", [1, 2, 7])
@pytest.mark.parametrize("which", ["nothing", "everything", "middle"])
def test_every_distinct_prefix_is_evaluated_once(grid: tuple[int, int], restorations: int, which: str) -> None:
    prior, given = random_prior(5), case(5, grid, restorations=restorations)
    found = restore_incrementally(prior, *given, threshold_nats=threshold(which, prior, given))
    assert found.positions == distinct_prefixes(found.codes_RShw)
    least, most = given[0].numel(), restorations * given[0].numel()
    assert least <= found.positions <= most
    assert found.positions == least or (restorations > 1 and which != "nothing")
    if which == "nothing" or restorations == 1:
        assert found.rows == len(given[0])
    elif grid == (6, 8):
        assert found.rows == restorations * len(given[0])
        assert least < found.positions < most


def test_restorations_share_what_a_sure_prior_restores_alike(trained_prior: PixelSNAIL) -> None:
    given = damaged_stripes(6, restorations=20)
    found = restore_incrementally(trained_prior, *given, threshold_nats=2.0)
    assert found.positions == distinct_prefixes(found.codes_RShw)
    assert found.positions < 0.5 * found.codes_RShw.numel()


# --- what does not matter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("chosen", [[0], [3], [1, 2], [4, 0, 2]])
def test_slices_do_not_depend_on_each_other(step: int, chosen: list[int]) -> None:
    prior, (codes, position, uniforms) = random_prior(6, step=step), case(6, (4, 6), slices=5, restorations=4)
    nats = median_nll(prior, codes, position)
    together = restore_incrementally(prior, codes, position, uniforms, threshold_nats=nats)
    part = restore_incrementally(prior, codes[chosen], position[chosen], uniforms[:, chosen], threshold_nats=nats)
    assert torch.equal(part.codes_RShw, together.codes_RShw[:, chosen])


def test_the_first_restorations_are_the_same_however_many_there_are() -> None:
    prior, (codes, position, _) = random_prior(7), case(7, (5, 5))
    nats = median_nll(prior, codes, position)
    few, many = (
        restore_incrementally(
            prior,
            codes,
            position,
            draw_uniforms(count, 3, (5, 5), generator=torch.Generator().manual_seed(8)),
            threshold_nats=nats,
        ).codes_RShw
        for count in (2, 7)
    )
    assert torch.equal(few, many[:2])
    assert not torch.equal(many[0], many[2])


def test_a_slice_without_an_unlikely_code_stays_as_it_is_beside_others_that_change(trained_prior: PixelSNAIL) -> None:
    given = damaged_stripes(8)
    with torch.no_grad():
        nats = 1e-6 + float(trained_prior.nll(*given[:2])[-1].max())
    found = restore_incrementally(trained_prior, *given, threshold_nats=nats).codes_RShw
    assert (found[:, -1] == given[0][-1]).all()
    assert (found != given[0])[:, :-1].flatten(2).any(2).all()


def test_equal_uniforms_are_one_state_row_to_the_end() -> None:
    prior, (codes, position, uniforms) = random_prior(9), case(9, (4, 4))
    found = restore_incrementally(prior, codes, position, uniforms[:1].expand(6, -1, -1, -1), threshold_nats=EVERYTHING)
    assert (found.positions, found.rows) == (codes.numel(), len(codes))
    assert torch.equal(found.codes_RShw[0], found.codes_RShw[5])
    assert not torch.equal(found.codes_RShw[0], codes)


def test_inputs_are_left_alone() -> None:
    prior, given = random_prior(6), case(6, (4, 4))
    before = [x.clone() for x in given]
    restore_incrementally(prior, *given, threshold_nats=0.5)
    assert all(map(torch.equal, before, given))
