"""Decoding what changed equals decoding everything, for every decoder and wherever codes change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mendscan.config import PRESETS, VqvaeSettings
from mendscan.models.decoding import SliceDecoder
from mendscan.models.vqvae import VQVAE
from mendscan.models.windows import reach_of, steps_of

POSITION = torch.tensor(0.2)

SMALL: dict[str, Any] = {"channels": (4, 4, 6), "stem_kernel": 3, "blocks_per_level": 1, "codes": 16}

DECODERS: dict[str, tuple[VqvaeSettings, tuple[int, int]]] = {
    "brain": (PRESETS["brain"].vqvae.model_copy(update={"channels": (2, 3, 4, 6), "codes": 16}), (20, 20)),
    "abdomen": (PRESETS["abdomen"].vqvae.model_copy(update={"channels": (2, 3, 3, 4, 6), "codes": 16}), (10, 10)),
    "no down-sampling": (VqvaeSettings(**SMALL | {"channels": (6,)}), (12, 9)),
    "norm by groups": (VqvaeSettings(**SMALL, norm="group"), (8, 8)),
    "norm by groups, one level": (VqvaeSettings(**SMALL | {"channels": (8,)}, norm="group"), (9, 8)),
} | {
    f"stride {stride}, up_kernel {kernel}": (
        VqvaeSettings(**SMALL, stem_stride=stride, up_kernel=kernel, stem_blocks=0),
        (11, 14),
    )
    for stride, kernel in [(1, 1), (1, 2), (1, 3), (1, 5), (2, 2), (2, 3), (2, 4), (2, 6), (2, 7)]
}


def trained(settings: VqvaeSettings) -> VQVAE:
    """An auto-encoder whose norms and codes are not those of a first step."""
    vqvae = VQVAE(settings).eval()
    nn.init.normal_(vqvae.quantizer.vectors_KE)
    for norm in (layer for layer in vqvae.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return vqvae


def receptive_field(vqvae: VQVAE) -> float:
    """How many pixels beyond those of its own position a changed code may change, to either side."""
    _, before, after = reach_of(steps_of(vqvae.decoder))
    return float(max(before, after))


def decoder_of(name: str) -> tuple[VQVAE, Tensor]:
    settings, grid = DECODERS[name]
    return trained(settings).double(), torch.randint(settings.codes, grid)


def changed_at(codes_hw: Tensor, *positions: tuple[int, int], codes: int = 16) -> Tensor:
    changed_hw = codes_hw.clone()
    for row, column in positions:
        changed_hw[row, column] = (changed_hw[row, column] + 1) % codes
    return changed_hw


def restorations(codes_hw: Tensor) -> Tensor:
    """Nothing changed, one code in each corner, at each border, in the middle, two far apart, a few, everything."""
    height, width = codes_hw.shape
    rows, columns = (0, height // 2, height - 1), (0, width // 2, width - 1)
    single = [changed_at(codes_hw, (row, column)) for row in rows for column in columns]
    apart = changed_at(codes_hw, (1, 1), (height - 2, width - 2))
    column = changed_at(codes_hw, *((row, 2) for row in range(height)))
    few = torch.where(torch.rand(codes_hw.shape) < 0.03, torch.randint(16, codes_hw.shape), codes_hw)
    return torch.stack([codes_hw, *single, apart, column, few, torch.randint(16, codes_hw.shape)])


def decoded_whole(vqvae: VQVAE, codes_Dhw: Tensor) -> Tensor:
    with torch.inference_mode():
        return vqvae.decode_codes(codes_Dhw, POSITION.expand(len(codes_Dhw)))


def assert_equal_up_to_rounding(decoded: Tensor, expected: Tensor, relative: float) -> None:
    assert decoded.shape == expected.shape
    assert (decoded - expected).abs().max() <= relative * expected.abs().max()


def with_plain(vqvae: VQVAE, codes_hw: Tensor) -> SliceDecoder:
    """A decoder that has evaluated its plain reconstruction, so that any window worth following is followed."""
    decoder = SliceDecoder(vqvae, codes_hw, POSITION)
    assert decoder.plain_HW.ndim == 2
    return decoder


@pytest.mark.parametrize("worthwhile", [0.85, 2.0], ids=["by share", "always by window"])
@pytest.mark.parametrize("name", DECODERS)
def test_equals_decoding_every_grid_whole(name: str, worthwhile: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mendscan.models.decoding._WORTHWHILE", worthwhile)
    vqvae, codes_hw = decoder_of(name)
    codes_Dhw = restorations(codes_hw)
    decoder = with_plain(vqvae, codes_hw)
    assert_equal_up_to_rounding(decoder.decode(codes_Dhw), decoded_whole(vqvae, codes_Dhw), 1e-12)
    assert torch.equal(decoder.plain_HW, decoded_whole(vqvae, codes_hw[None])[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["brain", "stride 2, up_kernel 3"])
def test_equals_in_single_precision_and_either_layout(name: str, layout: torch.memory_format) -> None:
    vqvae, codes_hw = decoder_of(name)
    vqvae.float().to(memory_format=layout)
    codes_Dhw = restorations(codes_hw)
    decoded_DHW = SliceDecoder(vqvae, codes_hw, POSITION).decode(codes_Dhw)
    assert decoded_DHW.dtype == torch.float32
    assert_equal_up_to_rounding(decoded_DHW, decoded_whole(vqvae, codes_Dhw), 1e-4)


@pytest.mark.parametrize("name", [name for name in DECODERS if "groups" not in name])
def test_pixels_beyond_the_receptive_field_are_bitwise_the_plain_ones(name: str) -> None:
    settings, _ = DECODERS[name]
    vqvae, codes_hw = trained(settings).double(), torch.randint(16, (32, 32))
    reach, factor, row, column = int(receptive_field(vqvae)), settings.downsampling, 16, 30
    decoder = with_plain(vqvae, codes_hw)
    decoded_HW = decoder.decode(changed_at(codes_hw, (row, column))[None])[0]
    # The window is rounded to even positions: here to two codes from (16, 30).
    inside_HW = torch.zeros_like(decoded_HW, dtype=torch.bool)
    top, left = (max(0, at * factor - reach) for at in (row, column))
    inside_HW[top : (row + 2) * factor + reach, left : (column + 2) * factor + reach] = True
    changed_HW = decoded_HW != decoder.plain_HW
    assert changed_HW.any()
    assert not changed_HW[~inside_HW].any()
    if "abdomen" not in name:  # whose 32 × 32 codes are all within reach of one
        assert not inside_HW.all()


@pytest.mark.parametrize("name", [name for name in DECODERS if "groups" not in name])
def test_the_receptive_field_is_as_far_as_the_whole_decoder_carries_a_change(name: str) -> None:
    settings, _ = DECODERS[name]
    vqvae, factor = trained(settings).double(), settings.downsampling
    reach = int(receptive_field(vqvae))
    at = -(-reach // factor) + 1  # of the changed code: neither side of the field is cut off
    codes_hw = torch.randint(16, (2 * at + 1, 2 * at + 1))
    # One by one: the rounding of an element depends on where in a batch it is.
    plain_HW, moved_HW = (decoded_whole(vqvae, grid[None])[0] for grid in (codes_hw, changed_at(codes_hw, (at, at))))
    rows = (plain_HW != moved_HW).any(1).nonzero()
    before, after = at * factor - int(rows[0]), int(rows[-1]) + 1 - (at + 1) * factor
    assert max(before, after) == reach


def test_a_local_change_of_a_large_grid_is_a_fraction_of_the_work() -> None:
    vqvae = trained(DECODERS["stride 1, up_kernel 2"][0]).double()
    codes_hw = torch.randint(16, (32, 32))
    decoder = with_plain(vqvae, codes_hw)
    codes_Dhw = torch.stack([changed_at(codes_hw, (15, 17)), changed_at(codes_hw, (31, 31), (30, 29)), codes_hw])
    assert_equal_up_to_rounding(decoder.decode(codes_Dhw), decoded_whole(vqvae, codes_Dhw), 1e-12)
    assert 1 < decoder.work < 1.3


def test_the_brain_decoder_of_a_large_grid_works_less() -> None:
    vqvae = trained(DECODERS["brain"][0]).double()
    codes_hw = torch.randint(16, (32, 32))
    decoder = with_plain(vqvae, codes_hw)
    codes_Dhw = changed_at(codes_hw, (14, 15), (17, 16))[None]
    assert_equal_up_to_rounding(decoder.decode(codes_Dhw), decoded_whole(vqvae, codes_Dhw), 1e-12)
    assert 1 < decoder.work < 1.5


def test_windows_lie_between_even_positions() -> None:
    vqvae, codes_hw = decoder_of("stride 1, up_kernel 2")
    works = []
    for positions in ([(4, 6)], [(5, 7)], [(4, 6), (5, 7)]):
        decoder = with_plain(vqvae, codes_hw)
        decoder.decode(changed_at(codes_hw, *positions)[None])
        works.append(decoder.work)
    assert works[0] == works[1] == works[2] < 1.8


def test_nothing_changed_is_the_plain_reconstruction_and_its_work() -> None:
    vqvae, codes_hw = decoder_of("brain")
    decoder = SliceDecoder(vqvae, codes_hw, POSITION)
    decoded_DHW = decoder.decode(codes_hw.expand(3, -1, -1))
    assert all(torch.equal(decoded_HW, decoder.plain_HW) for decoded_HW in decoded_DHW)
    assert decoder.decode(codes_hw[None][:0]).shape == (0, 160, 160)
    assert decoder.work == 1


def test_the_plain_reconstruction_is_evaluated_only_where_it_saves_more_than_it_costs() -> None:
    vqvae = trained(DECODERS["stride 1, up_kernel 2"][0]).double()
    codes_hw = torch.randint(16, (32, 32))
    codes_Dhw = torch.stack([changed_at(codes_hw, (15, 17)), changed_at(codes_hw, (14, 17)), codes_hw])
    one, three = SliceDecoder(vqvae, codes_hw, POSITION), SliceDecoder(vqvae, codes_hw, POSITION)
    assert torch.equal(one.decode(codes_Dhw[:1]), decoded_whole(vqvae, codes_Dhw[:1]))
    assert one.work == pytest.approx(1)
    assert_equal_up_to_rounding(three.decode(codes_Dhw), decoded_whole(vqvae, codes_Dhw), 1e-12)
    assert 1 < three.work < 1.5


@pytest.mark.parametrize("name", ["brain", "norm by groups"])
def test_grids_with_too_little_to_save_are_decoded_whole(name: str) -> None:
    vqvae, codes_hw = decoder_of(name)
    decoder = SliceDecoder(vqvae, codes_hw, POSITION)
    everything = torch.randint(16, (3, *codes_hw.shape))
    assert torch.equal(decoder.decode(everything), decoded_whole(vqvae, everything))
    assert decoder.work == pytest.approx(3)


def test_one_change_of_a_norm_by_groups_changes_everything() -> None:
    vqvae, codes_hw = decoder_of("norm by groups")
    decoder = SliceDecoder(vqvae, codes_hw, POSITION)
    decoder.decode(changed_at(codes_hw, (0, 0))[None])
    assert decoder.work == pytest.approx(1)
    assert receptive_field(vqvae) == math.inf


def test_results_depend_neither_on_earlier_calls_nor_on_other_grids() -> None:
    vqvae, codes_hw = decoder_of("brain")
    codes_Dhw = restorations(codes_hw)
    decoder = SliceDecoder(vqvae, codes_hw, POSITION)
    first, second = decoder.decode(codes_Dhw), decoder.decode(codes_Dhw)
    with torch.inference_mode():
        first.zero_()
    third = decoder.decode(codes_Dhw)
    assert torch.equal(second, third)
    one_by_one = torch.cat([decoder.decode(grid[None]) for grid in codes_Dhw])
    assert_equal_up_to_rounding(one_by_one, third, 1e-12)


UNUSUAL = [
    nn.AvgPool2d(2),
    nn.Conv2d(6, 6, 3, padding=1, stride=2),
    nn.Conv2d(6, 6, 3, padding=2, dilation=2),
    nn.Conv2d(6, 6, (3, 1), padding=(1, 0)),
    nn.Conv2d(6, 6, 3, padding="same"),
    nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(6, 6, 3, padding=2),
    nn.Conv2d(6, 6, 2),
    nn.ConvTranspose2d(6, 6, 2, stride=2, padding=1),
    nn.ConvTranspose2d(6, 6, 2, stride=(2, 1)),
    nn.BatchNorm2d(6, track_running_stats=False),
]


@pytest.mark.parametrize("layer", UNUSUAL, ids=lambda layer: str(layer).split("(")[0])
def test_other_layers_are_refused(layer: nn.Module) -> None:
    vqvae = trained(VqvaeSettings(**SMALL))
    vqvae.decoder.insert(2, layer)
    with pytest.raises(TypeError, match="no window can be followed"):
        SliceDecoder(vqvae.eval(), torch.zeros(4, 4, dtype=torch.int64), POSITION)


def test_training_mode_is_refused() -> None:
    vqvae = trained(VqvaeSettings(**SMALL)).train()
    with pytest.raises(ValueError, match="training"):
        SliceDecoder(vqvae, torch.zeros(4, 4, dtype=torch.int64), POSITION)
