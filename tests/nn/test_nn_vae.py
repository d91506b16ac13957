"""The autoencoder: latents, divergence, tiles (rows L1, L3)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nn_examples import EXAMPLES, VAE, build
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from inkwash.errors import UsageError
from inkwash.nn import AutoencoderConfig
from inkwash.nn.vae import kl_divergence


def test_l1_numbers_and_positions_saved_by_factor_eight() -> None:
    config = AutoencoderConfig(latent_channels=4)
    assert config.factor == 8
    with torch.device("meta"):
        mean, logvar = config.build().encode(torch.empty(1, 3, 512, 512))
        image = config.build().decode(mean)
    assert mean.numel() == logvar.numel() == 64 * 64 * 4 == 16384
    assert image.numel() == 512 * 512 * 3 == 786432
    assert image.numel() / mean.numel() == 48
    assert image.shape[2] * image.shape[3] / (mean.shape[2] * mean.shape[3]) == 64


@pytest.mark.parametrize(("widths", "patch"), [((8,), 1), ((8,), 4), ((8, 8), 2), ((8, 8, 8, 8), 1)])
def test_factor_is_what_encoding_does(widths: tuple[int, ...], patch: int) -> None:
    blocks = (1,) * len(widths)
    config = AutoencoderConfig(widths=widths, encoder_blocks=blocks, decoder_blocks=blocks, patch=patch, latent_channels=2)
    net = config.build()
    x = torch.rand(1, 3, 2 * config.factor, 3 * config.factor)
    mean, _ = net.encode(x)
    assert mean.shape == (1, 2, 2, 3)
    assert net.decode(mean).shape == x.shape


def test_default_size() -> None:
    count = sum(parameter.numel() for parameter in AutoencoderConfig().build().parameters())
    assert 1.5e6 < count < 2.0e6


def test_odd_images_raise() -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        build(VAE).encode(torch.rand(1, 3, 32, 36))


def test_l3_divergence_equals_the_reference_and_is_zero_for_the_prior_only() -> None:
    mean, logvar = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    expected = reference_kl(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(kl_divergence(mean, logvar).double(), expected, rtol=1e-5, atol=0)
    assert (kl_divergence(mean, logvar) > 0).all()
    assert not kl_divergence(torch.zeros(2, 4), torch.zeros(2, 4)).any()


@pytest.mark.parametrize("name", ["AutoencoderConfig", "AutoencoderKLConfig"])
def test_forward_samples_the_latent(name: str) -> None:
    net, x = build(EXAMPLES[name]).eval(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        mean, logvar = net.encode(x)
        image, _, _ = net(x, torch.full_like(mean, 2.0))
        torch.testing.assert_close(image, net.decode(mean + 2.0 * (0.5 * logvar).exp()))
        assert not torch.equal(image, net.decode(mean))


@pytest.mark.parametrize(("name", "last"), [("AutoencoderConfig", "moments"), ("AutoencoderKLConfig", "quant_conv")])
def test_the_deviation_of_a_latent_stays_in_its_range(name: str, last: str) -> None:
    net = build(EXAMPLES[name]).eval()
    with torch.no_grad():
        for bias, expected in ((1e3, 10.0), (-1e3, -20.0)):
            net.get_submodule(last).bias[4:] = bias
            assert bool((net.encode(torch.rand(1, 3, 32, 32))[1] == expected).all())


@pytest.mark.parametrize("size", [(20, 64), (64, 20), (57, 71)])
def test_tiles_equal_the_whole_once_the_overlap_exceeds_the_reach(size: tuple[int, int]) -> None:
    """This decoder reaches 6.75 latents far, a quarter of 28 is 7."""
    net, z = build(VAE).eval(), torch.randn(1, 4, *size)
    with torch.no_grad():
        torch.testing.assert_close(net.decode_tiled(z, tile=56, overlap=28), net.decode(z), rtol=1e-5, atol=1e-5)


def test_tiles_with_less_overlap_come_close() -> None:
    net, z = build(VAE).eval(), torch.randn(1, 4, 48, 48)
    with torch.no_grad():
        whole = net.decode(z)
        errors = [float((net.decode_tiled(z, tile=24, overlap=overlap) - whole).square().mean().sqrt() / whole.std()) for overlap in (0, 4, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_tiles_cover_any_size_and_refuse_impossible_ones() -> None:
    net = build(dataclasses.replace(VAE, mid_attention=True)).eval()
    z = torch.randn(1, 4, 5, 9)
    with torch.no_grad():
        torch.testing.assert_close(net.decode_tiled(z, 16, 4), net.decode(z))           # one tile
        assert net.decode_tiled(z, 4, 0).shape == (1, 3, 40, 72)
    for tile, overlap in [(8, 5), (8, -1), (0, 0)]:
        with pytest.raises(UsageError):
            net.decode_tiled(z, tile, overlap)


def test_decoding_is_local_unless_attention_is_on() -> None:
    for config, local in [(VAE, True), (dataclasses.replace(VAE, mid_attention=True), False)]:
        net, z = build(config).eval(), torch.randn(1, 4, 32, 8)
        far = z.clone()
        far[:, :, 0] += 1.0
        with torch.no_grad():
            change = (net.decode(far) - net.decode(z)).abs().amax(dim=(0, 1, 3))
        assert change[:8].min() > 0
        assert bool((change[-8:] == 0).all()) is local


def test_autoencoder_learns_to_copy() -> None:
    torch.manual_seed(0)
    net = AutoencoderConfig(widths=(16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1), patch=2).build()
    x = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4) * 2 - 1, scale_factor=4, mode="bilinear")
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        image, mean, logvar = net(x, torch.randn(4, 8, 4, 4))
        ((image - x).square().mean() + 1e-4 * kl_divergence(mean, logvar).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        error = (net.decode(net.encode(x)[0]) - x).square().mean()
    assert error < 0.1 * x.var()
