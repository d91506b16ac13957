"""Networks that hold published weights: names and numbers equal to diffusers' and transformers' modules (rows L7, L8, N1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import AutoencoderKLConfig, ClipTextConfig, NetworkConfig, UNet2DConfig
from inkwash.value import parse

NOISE = torch.tensor([3.0, 900.0])


def count(text: str) -> int:
    """Parameters of a network, counted without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in parse(text, NetworkConfig).build().parameters())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_weights(theirs: nn.Module, config: NetworkConfig) -> nn.Module:
    """Our module with the weights of theirs: every name and shape must fit."""
    ours = config.build()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm())


@pytest.mark.parametrize(("text", "parameters"), [("sd1", 859_520_964), ("sd2", 865_910_724), ("sdxl", 2_567_463_684), ("ddpm_cifar10", 35_746_307)])
def test_l7_published_unets_have_their_published_sizes(text: str, parameters: int) -> None:
    assert count(text) == parameters


TEXT_UNETS: list[tuple[UNet2DConfig, dict[str, Any]]] = [
    (UNet2DConfig(widths=(32, 64), blocks=1, down=("text", "none"), up=("text", "none"), heads=(2, 2), depth=(1, 1), text_dim=24, groups=8),
     {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 2}),
    (UNet2DConfig(widths=(32, 64), blocks=1, down=("none", "text"), up=("none", "text"), heads=(2, 4), depth=(1, 2), text_dim=24, groups=8,
                  linear=True, pooled_dim=10, sizes_dim=8),
     {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
      "attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
      "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
      "projection_class_embeddings_input_dim": 58}),
]


@pytest.mark.parametrize(("config", "options"), TEXT_UNETS, ids=["sd1", "sdxl"])
def test_text_unet_equals_diffusers(config: UNet2DConfig, options: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
                                            **options).eval()
    ours = same_weights(theirs, config)
    x, tokens, pooled, sizes = random(2, 4, 16, 24), random(2, 7, 24, seed=1), random(2, 10, seed=2), torch.arange(12.0).view(2, 6)
    with torch.no_grad():
        a = theirs(x, NOISE, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        b = ours(x, NOISE, {"tokens": tokens, "pooled": pooled, "sizes": sizes})
    assert distance(a, b) < 1e-5


def test_a_student_of_guidance_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    config, options = TEXT_UNETS[0]
    theirs = diffusers.UNet2DConditionModel(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
                                            time_cond_proj_dim=256, **options).eval()
    ours = same_weights(theirs, dataclasses.replace(config, guidance=True))
    x, tokens, w = random(2, 4, 16, 24), random(2, 7, 24, seed=1), torch.tensor([1.0, 7.3])
    told = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding(None, w - 1, 256)
    with torch.no_grad():
        a, b = theirs(x, NOISE, tokens, timestep_cond=told).sample, ours(x, NOISE, {"tokens": tokens, "guidance": w})
        other = ours(x, NOISE, {"tokens": tokens, "guidance": w + 1})
    assert distance(a, b) < 1e-5
    assert distance(a, other) > 1e-3, "the scale would not matter"
    with pytest.raises(UsageError, match="guidance"):
        ours(x, NOISE, {"tokens": tokens})


@pytest.mark.parametrize("head_dim", [None, 8])
@pytest.mark.parametrize(("pad", "shift", "flip"), [(0, 1, False), (1, 0, True)])
def test_pixel_unet_equals_diffusers(head_dim: int | None, pad: int, shift: int, flip: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(block_out_channels=(32, 64), layers_per_block=2, norm_num_groups=8, norm_eps=1e-6, attention_head_dim=head_dim,
                                   down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                                   freq_shift=shift, flip_sin_to_cos=flip, downsample_padding=pad, num_class_embeds=5).eval()
    heads = (1, 1) if head_dim is None else (4, 8)
    ours = same_weights(theirs, UNet2DConfig(3, 3, (32, 64), 2, ("none", "pixels"), ("none", "pixels"), "pixels", heads, (1, 1), text_dim=0,
                                             num_classes=5, groups=8, eps=1e-6, flip=flip, shift=float(shift), pad=pad))
    x, label = random(2, 3, 16, 16), torch.tensor([4, 0])
    with torch.no_grad():
        assert distance(theirs(x, NOISE, label).sample, ours(x, NOISE, {"label": label})) < 1e-5


@pytest.mark.parametrize(("text", "parameters"), [("sd_vae", 83_653_863), ("clip_vit_l_14", 123_060_480)])
def test_l7_published_autoencoder_and_text_encoder_have_their_published_sizes(text: str, parameters: int) -> None:
    assert count(text) == parameters


def their_vae() -> tuple[Any, AutoencoderKLConfig]:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    config = AutoencoderKLConfig(widths=(16, 32, 32), blocks=2, groups=8)
    return diffusers.AutoencoderKL(block_out_channels=config.widths, layers_per_block=2, norm_num_groups=8, latent_channels=4,
                                   down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3).eval(), config


@torch.no_grad()
def test_autoencoder_equals_diffusers() -> None:
    theirs, config = their_vae()
    ours, x, z = same_weights(theirs, config), random(2, 3, 24, 32).clamp(-1, 1), random(2, 4, 6, 8, seed=1)
    for a, b in zip((theirs.encode(x).latent_dist.mean, theirs.encode(x).latent_dist.logvar), ours.encode(x)):
        assert distance(a, b) < 1e-5
    assert distance(theirs.decode(z).sample, ours.decode(z)) < 1e-5
    assert distance(ours.decode(z), ours.decode_tiled(z, tile=8, overlap=2)) < 1e-6     # one tile


@torch.no_grad()
def test_autoencoder_absorbs_the_statistics_of_its_latents() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLConfig(widths=(16, 32), blocks=1, groups=8).build().eval()
    x, mean, std = random(1, 3, 8, 8), torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, 1.0, 3.0])
    wide = (1, -1, 1, 1)
    (before, logvar), image = vae.encode(x), vae.decode(random(1, 4, 4, 4, seed=3) * std.view(wide) + mean.view(wide))
    vae.absorb(mean, std)
    torch.testing.assert_close(vae.encode(x)[0], (before - mean.view(wide)) / std.view(wide))
    torch.testing.assert_close(vae.encode(x)[1], logvar - 2 * std.log().view(wide))
    torch.testing.assert_close(vae.decode(random(1, 4, 4, 4, seed=3)), image, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("activation", "projection"), [("quick_gelu", 0), ("gelu", 12)])
@torch.no_grad()
def test_text_encoder_equals_transformers(activation: str, projection: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = kind(transformers.CLIPTextConfig(vocab_size=50, hidden_size=16, intermediate_size=40, projection_dim=12, num_hidden_layers=2,
                                              num_attention_heads=2, max_position_embeddings=12, hidden_act=activation, bos_token_id=0,
                                              eos_token_id=49, pad_token_id=49)).eval()
    config = ClipTextConfig(50, 16, 40, 2, 2, 12, "gelu" if activation == "gelu" else "quick_gelu", projection, end=49)
    weights = {name if name.startswith("text_") else f"text_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    ours = config.build().eval()
    ours.load_state_dict(weights, strict=True)
    ids = torch.tensor([[0, 7, 9, 49, 49, 49], [0, 3, 49, 2, 49, 49]])
    a, b = theirs(ids), ours(ids)
    assert distance(a.last_hidden_state, b.tokens) < 1e-5
    assert distance(a.text_embeds if projection else a.pooler_output, b.pooled) < 1e-5


def test_a_new_unet_predicts_zero() -> None:
    config = UNet2DConfig(widths=(16, 32), blocks=1, down=("text", "pixels"), up=("text", "none"), heads=(2, 2), depth=(1, 1), text_dim=8, groups=8)
    y = config.build()(random(2, 4, 8, 8), NOISE, {"tokens": random(2, 3, 8)})
    assert torch.equal(y, torch.zeros(2, 4, 8, 8))


@pytest.mark.parametrize("text", ["sd1(heads=(3, 8, 8, 8))", "sd1(text_dim=0)", "ddpm_cifar10(text_dim=8)", "sd1(groups=48)", "sd1(down=('text',))",
                                  "sd1(mid='image')", "sd1(pooled_dim=8)", "sd1(widths=())"])
def test_impossible_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text, NetworkConfig)
