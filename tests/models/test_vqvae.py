"""The auto-encoder: the shapes that every setting promises, and codes that decode to what forward returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mendscan.cohort.planning import Fingerprint, plan_auto
from mendscan.config import PRESETS, Settings, VqvaeSettings
from mendscan.errors import SettingsError
from mendscan.models.vqvae import VQVAE


def small(**changes: Any) -> VQVAE:
    values = {"channels": (8, 8, 12), "blocks_per_level": 1, "codes": 16, "norm": "group"} | changes
    return VQVAE(VqvaeSettings(**values)).eval()


def auto_settings() -> Settings:
    cohort = Fingerprint(
        scans=40,
        shape_min=(180, 216, 180),
        shape_median=(181.0, 217.0, 181.0),
        shape_max=(182, 218, 182),
        spacing_median_mm=(1.0, 1.0, 1.0),
        spacing_max_mm=(1.0, 1.0, 1.0),
        extent_median_mm=(181.0, 217.0, 181.0),
        foreground_mm=(150.0, 180.0, 150.0),
        orientations={"RAS": 40},
        intensity_scale_ratio=1.1,
        intensity_low=0.0,
        intensity_high=100.0,
        background_fraction=0.6,
    )
    return plan_auto(cohort, seed=0).settings


def assert_shapes(vqvae: VQVAE, height: int, width: int, latent: tuple[int, int]) -> None:
    slices_BHW, position_B = torch.randn(2, height, width), torch.tensor([-0.5, 0.5])
    with torch.inference_mode():
        result = vqvae(slices_BHW, position_B)
        unquantised = vqvae(slices_BHW, position_B, quantise=False)
    assert result.slices_BHW.shape == unquantised.slices_BHW.shape == (2, height, width)
    assert result.latents_BEhw.shape == (2, vqvae.settings.channels[-1], *latent)
    assert result.quantised.codes_Bhw.shape == (2, *latent)
    assert result.quantised.codes_Bhw.dtype == torch.int64
    assert unquantised.quantised is None


@pytest.mark.parametrize(("preset", "grid"), [("brain", (20, 20)), ("abdomen", (10, 10))])
def test_presets_have_the_papers_grids(preset: str, grid: tuple[int, int]) -> None:
    settings = PRESETS[preset]
    assert settings.latent_shape == grid
    assert_shapes(VQVAE(settings.vqvae).eval(), 160, 160, grid)


def test_auto_settings_fit_their_grid() -> None:
    settings = auto_settings()
    assert_shapes(VQVAE(settings.vqvae).eval(), *settings.slice_shape, settings.latent_shape)


@pytest.mark.parametrize("height_width", [(16, 16), (24, 16), (8, 32)])
@pytest.mark.parametrize(("stride", "kernel"), [(1, 1), (1, 3), (1, 7), (2, 2), (2, 4), (2, 6)])
def test_stems(stride: int, kernel: int, height_width: tuple[int, int]) -> None:
    vqvae = small(channels=(8, 12), stem_stride=stride, stem_kernel=kernel)
    height, width = height_width
    factor = vqvae.settings.downsampling
    assert factor == 2 * stride
    assert_shapes(vqvae, height, width, (height // factor, width // factor))


@pytest.mark.parametrize(("kernel", "down_kernel"), [(1, 5), (3, 4), (5, 4), (7, 4)])
def test_odd_stems_of_stride_two(kernel: int, down_kernel: int) -> None:
    assert_shapes(small(channels=(8, 12), stem_stride=2, stem_kernel=kernel, down_kernel=down_kernel), 16, 16, (4, 4))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 6, 7])
def test_down_kernels(kernel: int) -> None:
    assert_shapes(small(down_kernel=kernel), 16, 24, (4, 6))


@pytest.mark.parametrize("kernel", [2, 4, 6, 8])
def test_even_up_kernels(kernel: int) -> None:
    assert_shapes(small(up_kernel=kernel), 16, 24, (4, 6))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_odd_up_kernels(kernel: int) -> None:
    assert_shapes(small(up_kernel=kernel), 16, 24, (4, 6))


def test_an_even_stem_of_stride_one_is_refused() -> None:
    from mendscan.config import override

    with pytest.raises(SettingsError):
        override(PRESETS["brain"], ["vqvae.stem_kernel=4"])


@pytest.mark.parametrize(("preset", "grid"), [("brain", (20, 20)), ("abdomen", (10, 10))])
def test_a_stem_without_padding_sees_less_and_keeps_the_grid(preset: str, grid: tuple[int, int]) -> None:
    settings = PRESETS[preset].vqvae.model_copy(update={"stem_padding": False})
    vqvae = VQVAE(settings).eval()
    assert vqvae.encoder[0](torch.zeros(1, 2, 160, 160)).shape[2:] == (154, 154)
    assert settings.encoded(160) == grid[0]
    assert_shapes(vqvae, 160, 160, grid)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("pixels", [16, 17, 24, 31])
@pytest.mark.parametrize(("stride", "kernel", "down"), [(1, 7, 5), (1, 3, 4), (2, 4, 4), (2, 5, 3)])
def test_settings_know_what_the_encoder_returns(stride: int, kernel: int, down: int, pixels: int, padded: bool) -> None:
    vqvae = small(stem_stride=stride, stem_kernel=kernel, down_kernel=down, stem_padding=padded)
    with torch.inference_mode():
        latents = vqvae.encode(torch.zeros(1, pixels, pixels), torch.zeros(1))
    assert latents.shape[2:] == (vqvae.settings.encoded(pixels),) * 2


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"stem_blocks": 0}, {"dropout": 0.5}, {"channels": (8,)}])
def test_other_settings(changes: dict[str, Any]) -> None:
    vqvae = small(**changes)
    factor = vqvae.settings.downsampling
    assert_shapes(vqvae, 16, 8, (16 // factor, 8 // factor))


def test_decoding_the_codes_gives_what_forward_gives() -> None:
    vqvae = small()
    spread_codes(vqvae)
    slices_BHW, position_B = torch.randn(3, 16, 16), torch.tensor([-0.5, 0.0, 0.5])
    with torch.inference_mode():
        result = vqvae(slices_BHW, position_B)
        codes_Bhw = vqvae.codes(slices_BHW, position_B)
        assert torch.equal(codes_Bhw, result.quantised.codes_Bhw)
        assert len(codes_Bhw.unique()) > 4
        decoded_BHW = vqvae.decode_codes(codes_Bhw, position_B)
    torch.testing.assert_close(decoded_BHW, result.slices_BHW, rtol=1e-4, atol=1e-5)


def test_the_slice_coordinate_enters_encoder_and_decoder() -> None:
    vqvae = small()
    slices_BHW, position_B = torch.randn(1, 16, 16).expand(2, -1, -1), torch.tensor([-0.5, 0.5])
    with torch.inference_mode():
        assert vqvae.encode(slices_BHW, position_B).diff(dim=0).abs().max() > 1e-4
        codes_Bhw = torch.zeros(2, 4, 4, dtype=torch.int64)
        assert vqvae.decode_codes(codes_Bhw, position_B).diff(dim=0).abs().max() > 1e-4


def test_codes_do_not_depend_on_the_batch() -> None:
    vqvae = small()
    spread_codes(vqvae)
    slices_BHW, position_B = torch.randn(9, 16, 16), torch.linspace(-0.5, 0.5, 9)
    with torch.inference_mode():
        together = vqvae.codes(slices_BHW, position_B)
        alone = torch.cat([vqvae.codes(slices_BHW[i : i + 1], position_B[i : i + 1]) for i in range(9)])
    assert torch.equal(together, alone)


def test_height_and_width_are_not_mixed_up() -> None:
    """A change in the upper right corner moves the latents and the pixels there, and not those opposite."""
    vqvae = small(channels=(8, 8), norm="batch", stem_kernel=3, down_kernel=3, up_kernel=4)
    slices = torch.zeros(2, 64, 128)
    slices[1, :2, -2:] = 5
    with torch.inference_mode():
        moved = vqvae(slices, torch.zeros(2), quantise=False)
    latents = moved.latents_BEhw.diff(dim=0)[0].abs().sum(0)
    pixels = moved.slices_BHW.diff(dim=0)[0].abs()
    for change in (latents, pixels):
        height, width = change.shape
        assert change[0, -1] > 1e-3
        assert change[height // 2 :].max() == 0
        assert change[:, : width // 2].max() == 0


def test_every_parameter_is_learnt() -> None:
    vqvae = small().train()
    result = vqvae(torch.randn(4, 16, 16), torch.linspace(-0.5, 0.5, 4))
    loss = result.slices_BHW.pow(2).mean() + result.quantised.codebook_loss + result.quantised.commitment_loss
    loss.backward()
    idle = [name for name, p in vqvae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def spread_codes(vqvae: VQVAE) -> None:
    """Place the codes on latents, so that slices use many of them."""
    with torch.no_grad():
        latents = vqvae.encode(torch.randn(8, 16, 16), torch.linspace(-0.5, 0.5, 8))
    vqvae.quantizer.start_from(latents.movedim(1, -1).flatten(0, -2), generator=torch.Generator().manual_seed(0))
