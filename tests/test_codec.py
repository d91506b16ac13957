"""Images and model space: exact where it can be, typed where it must be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkwash.codec import Latent, Pixels
from inkwash.core import noise
from inkwash.core.level import Clean
from inkwash.io.folder import load_part

IMAGES = (noise.uniform((3, 3, 32, 48), 0, 0, 0, "images") * 256).to(torch.uint8)


@pytest.fixture(scope="module")
def vae(tiny_model: Path) -> torch.nn.Module:
    return load_part(tiny_model, "vae")


def test_pixels_return_every_byte() -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    assert torch.equal(Pixels().decode(Pixels().encode(every)), every)
    assert Pixels().shape(48, 32) == (3, 32, 48)


def test_L5_only_clean_latents_are_decoded(vae: torch.nn.Module) -> None:
    codec = Latent(vae, [0.0] * 4, [1.0] * 4, 4)
    for noisy in (torch.randn(1, 4, 8, 8), (torch.randn(1, 4, 8, 8),), None):
        for one in (codec, Pixels()):
            with pytest.raises(TypeError, match="only clean latents"):
                one.decode(noisy)


def test_encode_refuses_what_is_not_uint8() -> None:
    for wrong in (torch.rand(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4, 8, 8, dtype=torch.uint8)):
        with pytest.raises(TypeError, match="uint8"):
            Pixels().encode(wrong)


def test_L3_stored_statistics_give_unit_variance_and_are_undone_by_decode(vae: torch.nn.Module) -> None:
    z = Latent(vae, [0.0] * 4, [1.0] * 4, 4).encode(IMAGES).x
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    codec = Latent(vae, mean.tolist(), std.tolist(), 4)
    clean = codec.encode(IMAGES)
    assert clean.x.dtype == torch.float32
    assert clean.x.shape == (3, *codec.shape(48, 32)) == (3, 4, 8, 12)
    assert float(clean.x.mean(dim=(0, 2, 3)).abs().max()) < 1e-4
    assert float((clean.x.std(dim=(0, 2, 3)) - 1).abs().max()) < 1e-4
    plain = vae.decode(z).detach().add(1).mul(127.5).round().clamp(0, 255)
    assert float((codec.decode(clean).float() - plain).abs().max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_has_the_same_latents_and_bytes_in_any_company(tiny_model: Path, dtype: torch.dtype) -> None:
    codec = Latent(load_part(tiny_model, "vae").to(dtype), [0.0] * 4, [1.0] * 4, 4)
    together = codec.encode(IMAGES)
    back = codec.decode(together)
    for i in range(3):
        assert torch.equal(codec.encode(IMAGES[i : i + 1]).x[0], together.x[i])
        assert torch.equal(codec.decode(Clean(together.x[i : i + 1]))[0], back[i])


def test_tiles_cover_the_image_and_memory_is_that_of_one_tile(vae: torch.nn.Module) -> None:
    codec = Latent(vae, [0.0] * 4, [1.0] * 4, 4, tile=32)
    x0 = noise.normal((1, 4, 24, 20), 0, 0, 0, "latents")
    sizes = []
    hook = vae.pixels.register_forward_hook(lambda module, given, out: sizes.append(out.shape[2:].numel()))
    tiled = codec.decode(Clean(x0)).float()
    assert max(sizes) <= 32 * 32
    assert len(sizes) > 4
    hook.remove()
    assert tiled.shape == (1, 3, 96, 80)


def test_tiles_whose_overlap_exceeds_the_reach_of_the_decoder_give_the_whole_image(vae: torch.nn.Module) -> None:
    codec = Latent(vae, [0.0] * 4, [1.0] * 4, 4, tile=512)
    clean = Clean(noise.normal((1, 4, 6, 160), 0, 0, 0, "latents"))
    sizes: list[int] = []
    hook = vae.pixels.register_forward_hook(lambda module, given, out: sizes.append(out.shape[2:].numel()))
    tiled = codec.decode(clean).int()
    hook.remove()
    assert len(sizes) == 2, "one long side is enough"
    codec.tile = None
    assert int((tiled - codec.decode(clean).int()).abs().max()) <= 1


def test_statistics_must_be_usable(vae: torch.nn.Module) -> None:
    for mean, std in (([0.0], []), ([], []), ([0.0], [0.0]), ([0.0], [-1.0])):
        with pytest.raises(ValueError, match="mean and std"):
            Latent(vae, mean, std, 4)
