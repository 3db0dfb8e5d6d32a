"""The incremental form of every layer is its parallel form, whatever forks and whatever was in memory before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from mendscan.models import attention, causal, masked, pixelsnail
from mendscan.models.attention import CausalAttention
from mendscan.models.causal import BlockAtOnce, BlockByRows, CausalBlock, CausalLayer, WeightNormConv
from mendscan.models.masked import CodeConv, MaskedConv
from mendscan.models.memory import Memory
from mendscan.models.pixelsnail import PixelSNAIL, PriorSteps
from mendscan.models.products import Product, RowConv
from models.test_pixelsnail import POSITIONS, K, changed_codes, multiplied, small_prior, some_codes

N, C = 4, 5
GRIDS = [(1, 1), (1, 7), (6, 1), (2, 2), (3, 5), (8, 6)]
HALVED_GRIDS = [(2, 2), (2, 8), (6, 2), (4, 6)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def empty_memory(rows: int = N, **options: torch.dtype | None) -> Memory:
    return Memory(rows, device=torch.device("cpu"), **{"dtype": torch.float64} | options)


def begun(make: Callable[[Memory], Any], rows: int = N) -> Any:
    """Steps whose memory has state rows."""
    memory = empty_memory(rows)
    steps = make(memory)
    memory.begin(rows)
    return steps


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def coordinates(rows: int = N) -> Tensor:
    return torch.linspace(-0.5, 0.4, rows, dtype=torch.float64)


def driven(
    grid: tuple[int, int],
    step: Callable[[int, int], Tensor | None],
    begin_row: Callable[[int], None] = lambda _row: None,
) -> Tensor:
    """What the steps return in raster order, as a grid."""
    rows = []
    for row in range(grid[0]):
        begin_row(row)
        outputs = [step(row, column) for column in range(grid[1])]
        rows.append([output for output in outputs if output is not None])
    return torch.stack([torch.stack(outputs, dim=-1) for outputs in rows if outputs], dim=-2)


def deciding(steps: Any, codes_Bhw: Tensor) -> Callable[[int, int], Tensor]:
    """Steps that write given codes."""

    def step(*at: int) -> Tensor:
        output = steps.step(*at)
        steps.write(*at, codes_Bhw[:, *at])
        return output

    return step


def logits_of(steps: PriorSteps, codes_Bhw: Tensor, position_B: Tensor) -> Tensor:
    steps.begin(position_B)
    return driven(codes_Bhw.shape[1:], deciding(steps, codes_Bhw), steps.begin_row)


def incremental_logits(prior: PixelSNAIL, codes_Bhw: Tensor, position_B: Tensor) -> Tensor:
    return logits_of(prior.incremental(empty_memory(len(codes_Bhw)), *codes_Bhw.shape[1:]), codes_Bhw, position_B)


def assert_same(found: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    """Up to rounding, which is relative to the largest number around."""
    assert expected.isfinite().all()
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0.01 * rtol * float(expected.abs().max()))


# --- each layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [*GRIDS, (9, 9)])
def test_code_conv_by_steps(grid: tuple[int, int]) -> None:
    layer, codes = multiplied(CodeConv(K, C), 10.0), some_codes(N, *grid)
    steps = begun(lambda memory: layer.incremental(memory, *grid))
    steps.begin()
    assert_same(driven(grid, deciding(steps, codes)), layer(codes))


def block_by_steps(block: CausalBlock, x: Tensor, c: Tensor, aux: Tensor) -> Tensor:
    """The output of a block in whichever of its three incremental forms it has."""
    grid = x.shape[2:]
    steps = begun(lambda memory: block.incremental(memory, grid[1]))
    if isinstance(steps, BlockByRows):
        return torch.stack([steps.row(row, x[:, :, row].mT, c).mT for row in range(grid[0])], dim=2)
    if isinstance(steps, BlockAtOnce):
        second = {} if block.aux is None else {at: steps.aux(aux[:, :, *at]) for at in np.ndindex(*grid)}
        return driven(grid, lambda *at: steps.step(x[:, :, *at], second.get(at)))
    return driven(
        grid,
        lambda row, column: steps.step(column, x[:, :, row, column]),
        lambda row: steps.begin_row(row, c, aux[:, :, row].mT),
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(("kernel", "aux_channels"), [((2, 3), None), ((2, 2), None), ((2, 2), 3)])
@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_blocks_by_rows_and_by_steps(
    grid: tuple[int, int], conditioned: bool, kernel: tuple[int, int], aux_channels: int | None, factor: float
) -> None:
    block = multiplied(CausalBlock(C, kernel, conditioned=conditioned, aux_channels=aux_channels), factor)
    x, c, aux = noise(N, C, *grid), coordinates(), noise(N, aux_channels or 1, *grid)
    assert_same(block_by_steps(block, x, c, aux), block(x, c, aux if aux_channels else None))


@pytest.mark.parametrize("aux_channels", [None, 3])
def test_blocks_at_once(aux_channels: int | None) -> None:
    block = multiplied(CausalBlock(C, (1, 1), aux_channels=aux_channels), 10.0)
    x, c, aux = noise(N, C, 3, 4), coordinates(), noise(N, aux_channels or 1, 3, 4)
    assert_same(block_by_steps(block, x, c, aux), block(x, c, aux if aux_channels else None))


def test_a_block_at_once_takes_no_slice_coordinate() -> None:
    with pytest.raises(ValueError, match="slice coordinate"):
        begun(lambda memory: CausalBlock(C, (1, 1), conditioned=True).double().incremental(memory, 1))


def test_a_full_memory_refuses_to_fork() -> None:
    memory = Memory(2, device=torch.device("cpu"), dtype=torch.float64)
    memory.begin(2)
    with pytest.raises(ValueError, match="room for 2"):
        memory.fork(torch.tensor([0]))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("parts", [(3,), (2, 4)])
def test_masked_conv_by_steps(grid: tuple[int, int], kernel: int, stride: int, parts: tuple[int, ...]) -> None:
    layer = multiplied(MaskedConv(sum(parts) + 2, C, kernel, stride), 10.0)
    x, places = noise(N, sum(parts), *grid), noise(2, *grid)
    steps = begun(lambda memory: layer.incremental(memory, places))
    found = driven(grid, lambda *at: steps.step(*at, *x[:, :, *at].split(parts, dim=1)), steps.begin_row)
    assert_same(found, layer(torch.cat([x, places.expand(N, -1, -1, -1)], dim=1)))


@pytest.mark.parametrize("grid", GRIDS[1:])
@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_attention_by_steps(grid: tuple[int, int], factor: float) -> None:
    layer = multiplied(CausalAttention(C, key_channels=3, value_channels=4), factor)
    seeking, seen, (height, width) = noise(N, C, *grid), noise(N, C, *grid), grid
    steps = begun(lambda memory: layer.incremental(memory, height * width))
    found = driven(grid, lambda *at: steps.step(at[0] * width + at[1], seeking[:, :, *at], seen[:, :, *at]))
    assert (found[:, :, 0, 0] == 0).all()
    assert_same(found, layer(seeking, seen, coordinates()))


@pytest.mark.parametrize(("step", "grid"), [*((1, grid) for grid in GRIDS), *((2, grid) for grid in HALVED_GRIDS)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_whole_block_by_steps(step: int, grid: tuple[int, int], kernel: int) -> None:
    block = small_prior(step=step, kernel=kernel, factor=3.0).blocks[0]
    x, places, c = noise(N, 6, *grid), noise(2, *grid), coordinates()
    steps = begun(lambda memory: block.incremental(memory, places))
    found = driven(grid, lambda *at: steps.step(*at, x[:, :, *at]), lambda row: steps.begin_row(row, c))
    assert_same(found, block(x, c, places.expand(N, -1, -1, -1)))


def test_every_layer_of_the_prior_promises_an_incremental_form() -> None:
    found = {
        each
        for module in (causal, masked, attention, pixelsnail)
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, nn.Module) and each.__module__ == module.__name__
    } - {WeightNormConv, CausalLayer}
    assert {CausalBlock, CodeConv, MaskedConv, CausalAttention, PixelSNAIL} < found
    assert [each.__name__ for each in found if not issubclass(each, CausalLayer)] == []


def test_a_layer_without_an_incremental_form_cannot_be_made() -> None:
    class Forgetful(CausalLayer):
        pass

    with pytest.raises(TypeError, match="incremental"):
        Forgetful()


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "grid"), [*((1, grid) for grid in GRIDS), *((2, grid) for grid in HALVED_GRIDS)])
@pytest.mark.parametrize(("factor", "rtol"), [(1.0, 1e-10), (4.0, 1e-10), (30.0, 1e-8)])
def test_logits_are_those_of_the_parallel_form(step: int, grid: tuple[int, int], factor: float, rtol: float) -> None:
    prior, codes, c = small_prior(step=step, factor=factor), some_codes(N, *grid), coordinates()
    assert_same(incremental_logits(prior, codes, c), prior(codes, c), rtol)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("channels", "blocks", "layers"), [(1, 1, 1), (3, 1, 4), (8, 4, 1), (5, 3, 2)])
@pytest.mark.parametrize("step", [1, 2])
def test_at_every_width_and_depth(kernel: int, channels: int, blocks: int, layers: int, step: int) -> None:
    size = {"channels": channels, "value_channels": channels + 1, "blocks": blocks, "layers_per_block": layers}
    settings = small_prior(step=step, kernel=kernel).settings.model_copy(update=size)
    prior, codes, c = multiplied(PixelSNAIL(settings, codes=K), 2.0), some_codes(N, 4, 6), coordinates()
    assert_same(incremental_logits(prior, codes, c), prior(codes, c))


# --- nothing leaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(("factor", "gain"), [(1.0, 1.0), (4.0, 1.0), (30.0, 1.0), (1.0, 1e4)])
def test_a_code_moves_logits_after_it_only(step: int, factor: float, gain: float) -> None:
    """All variants of a grid are state rows of one memory: nothing passes from one to another either."""
    prior, seen = small_prior(step=step, factor=factor), []
    for block in prior.blocks:
        for name in ("query", "key"):
            getattr(block.attention, name).gain.mul_(gain)
            getattr(block.attention, name).register_forward_hook(lambda _m, _i, out: seen.append(out.flatten(2)))
    codes = some_codes()[0]
    codes, c = torch.cat([codes[None], changed_codes(codes)]), coordinates(1).expand(POSITIONS + 1)
    expected = prior(codes, c)
    largest = torch.einsum("bkn,bkm->bnm", *seen[:2]).abs().max()
    assert largest > 1e6 or factor * gain < 10
    logits = incremental_logits(prior, codes, c)
    assert_same(logits, expected, 1e-8)
    logits = logits.flatten(2)
    # How far each variant is from the first row, relative to the largest logit of a position.
    moved = ((logits[1:] - logits[0]).abs() / logits[0].abs().amax(0)).amax(1)
    after = torch.ones(POSITIONS, POSITIONS).triu(1).bool()
    assert moved[~after].max() < 1e-12
    # Beyond all measure, some gates are shut for good, and a change is less than rounding of what it is added to.
    assert (moved * after > 1e-9).any(1).sum() > (POSITIONS - 2 if factor < 30 else POSITIONS * 0.75)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_forks_each_row_has_the_logits_of_its_own_codes(step: int, seed: int) -> None:
    """After every position some rows are copied, perhaps one of them twice; the codes of all are random."""
    torch.manual_seed(seed)
    prior, memory = small_prior(step=step, kernel=5, factor=2.0), empty_memory(100)
    steps = prior.incremental(memory, 4, 6)
    steps.begin(coordinates(2))
    slice_n, codes_ni, logits_nKi = torch.arange(2), torch.empty(2, 0, dtype=torch.long), torch.empty(2, K, 0)
    for i in range(POSITIONS):
        if i % 6 == 0:
            steps.begin_row(i // 6)
        logits_nKi = torch.cat([logits_nKi, steps.step(*divmod(i, 6))[:, :, None]], dim=2)
        parents = torch.randint(memory.rows, (i % 4,))
        memory.fork(parents)
        slice_n, codes_ni, logits_nKi = (torch.cat([x, x[parents]]) for x in (slice_n, codes_ni, logits_nKi))
        codes_ni = torch.cat([codes_ni, torch.randint(K, (memory.rows, 1))], dim=1)
        steps.write(*divmod(i, 6), codes_ni[:, -1])
    assert memory.rows == 2 + 36
    assert_same(logits_nKi, prior(codes_ni.reshape(-1, 4, 6), coordinates(2)[slice_n]).flatten(2))


def forked_logits(prior: PixelSNAIL, at: int, codes_3hw: Tensor) -> Tensor:
    """Logits of two slices and, after position `at`, of a copy of the second one that goes on with codes of its own."""
    memory = empty_memory(3)
    steps = prior.incremental(memory, 4, 6)
    steps.begin(coordinates(2))
    logits = []
    for i in range(POSITIONS):
        if i % 6 == 0:
            steps.begin_row(i // 6)
        logits.append(steps.step(*divmod(i, 6)))
        if i == at:
            memory.fork(torch.tensor([1]))
        steps.write(*divmod(i, 6), codes_3hw.flatten(1)[: memory.rows, i])
    return torch.stack(logits[at + 1 :], dim=2)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("at", [0, 5, 9, 17, 22])
def test_parent_and_child_are_equals_until_their_codes_differ(step: int, at: int) -> None:
    prior, codes = small_prior(step=step, factor=2.0), some_codes(2)
    exactly = {"rtol": 1e-12, "atol": 1e-12}  # not bitwise: elu rounds differently in the last lanes of a tensor
    alone = incremental_logits(prior, codes, coordinates(2)).flatten(2)[:, :, at + 1 :]
    twins = forked_logits(prior, at, torch.cat([codes, codes[1:]]))
    torch.testing.assert_close(twins, alone[[0, 1, 1]], **exactly)
    different = forked_logits(prior, at, torch.cat([codes, (codes[1:] + 1) % K]))
    torch.testing.assert_close(different[:2], alone, **exactly)
    assert not torch.allclose(different[2], alone[1])


@pytest.mark.parametrize("step", [1, 2])
def test_a_second_batch_does_not_see_the_first(step: int) -> None:
    prior, codes, c = small_prior(step=step, kernel=5, factor=2.0), some_codes(3), coordinates(3)
    fresh, used = (prior.incremental(empty_memory(9), 4, 6) for _ in range(2))
    expected = logits_of(fresh, codes, c)
    assert not torch.allclose(logits_of(used, some_codes(9), coordinates(9))[:3], expected)
    assert torch.equal(logits_of(used, codes, c), expected)


def test_kept_tensors_begin_as_zeros_and_are_all_copied_by_a_fork() -> None:
    memory = empty_memory(6)
    kept = [memory.keep(2), memory.keep(), memory.keep(3, 1, dtype=torch.long)]
    for each in kept:
        each.fill_(77)
    memory.begin(3)
    for each in kept:
        assert (each[:3] == 0).all()
        each[:3] = torch.tensor([10, 20, 30]).reshape(-1, *[1] * (each.ndim - 1))
    memory.fork(torch.tensor([2, 0, 2]))
    assert memory.rows == 6
    for each in kept:
        assert each.reshape(6, -1)[:, 0].tolist() == [10, 20, 30, 30, 10, 30]


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (3, 7, 2), (8, 32, 64), (50, 5, 9)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_linear(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    x, weight, b = noise(rows, inputs), noise(outputs, inputs), noise(outputs) if bias else None
    exact, single = linear(x, weight, b), None if b is None else b.float()
    assert torch.equal(Product(weight, b, empty_memory(8))(x), exact)
    packed = Product(weight.float(), single, empty_memory(8, dtype=torch.float32))(x.float())
    torch.testing.assert_close(packed, linear(x.float(), weight.float(), single), rtol=1e-5, atol=1e-5)
    coarse = Product(weight.float(), single, empty_memory(8, dtype=torch.float32, arithmetic=torch.bfloat16))(x.float())
    torch.testing.assert_close(coarse, exact.float(), rtol=1e-2, atol=1e-2 * float(exact.abs().max()))
    assert not torch.equal(coarse, packed)


@pytest.mark.parametrize(("kernel", "stride"), [((1, 2), 1), ((2, 3), 1), ((1, 3), 2), ((2, 5), 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_row_conv_is_a_convolution(kernel: tuple[int, int], stride: int, bias: bool) -> None:
    rows, weight, b = noise(N, kernel[0], 8, 3), noise(4, 3, *kernel), noise(4) if bias else None
    expected = conv2d(rows.movedim(3, 1), weight, b, stride=(1, stride))[:, :, 0].mT
    torch.testing.assert_close(RowConv(weight, empty_memory(), b, stride)(rows), expected, rtol=1e-12, atol=1e-12)
    memory = empty_memory(dtype=torch.float32, arithmetic=torch.bfloat16)
    coarse = RowConv(weight.float(), memory, None if b is None else b.float(), stride)(rows.bfloat16())
    torch.testing.assert_close(coarse, expected.float(), rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.parametrize(("arithmetic", "tolerance"), [(None, 1e-4), (torch.bfloat16, 5e-2)])
def test_logits_in_lower_precision(arithmetic: torch.dtype | None, tolerance: float) -> None:
    prior, codes, c = small_prior(step=2, factor=1.5), some_codes(N), coordinates()
    expected = prior(codes, c)
    memory = empty_memory(dtype=torch.float32, arithmetic=arithmetic)
    found = logits_of(prior.float().incremental(memory, 4, 6), codes, c.float())
    assert found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.abs().max()
    assert 0 < error < tolerance
