"""One small configuration of every network, with inputs that it accepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inkwash.nn import (
    AutoencoderConfig,
    AutoencoderKLConfig,
    ClassifierConfig,
    ClipConfig,
    ClipTextConfig,
    DiTConfig,
    ImageTowerConfig,
    MMDiTConfig,
    NetworkConfig,
    TextEncoderConfig,
    UNet2DConfig,
    UNetConfig,
)
from inkwash.nn.features import FeatureNetConfig, LinearHeadConfig
from inkwash.nn.inception import InceptionConfig
from inkwash.nn.patch_discriminator import PatchDiscriminatorConfig

TEXT = TextEncoderConfig(vocab=50, width=16, layers=2, heads=2, max_tokens=12)
TOWER = ImageTowerConfig(widths=(8, 16), blocks=(1, 1), out_dim=16)
UNET = UNetConfig(in_channels=4, out_channels=4, widths=(16, 24, 32), attention=(False, True, True), cross=(False, True, True), head_dim=8,
                  text_dim=16, pooled_dim=12, num_classes=5, embed_dim=32)
DIT = DiTConfig(in_channels=4, out_channels=4, width=32, depth=3, heads=4, text_dim=16, pooled_dim=12, num_classes=5)
MMDIT = MMDiTConfig(in_channels=4, out_channels=4, width=32, depth=3, heads=4, text_dim=16, pooled_dim=12, num_classes=5)
VAE = AutoencoderConfig(latent_channels=4, widths=(16, 24, 32), decoder_blocks=(1, 1, 2))

EXAMPLES: dict[str, NetworkConfig] = {
    "AutoencoderConfig": VAE,
    "AutoencoderKLConfig": AutoencoderKLConfig(widths=(16, 24), blocks=1, groups=8),
    "ClassifierConfig": ClassifierConfig(in_channels=4, widths=(16, 24), attention=(False, True), head_dim=8, embed_dim=32),
    "ClipConfig": ClipConfig(TEXT, TOWER, shared_dim=8),
    "ClipTextConfig": ClipTextConfig(vocab=50, width=16, inner=32, layers=2, heads=2, max_tokens=12, projection=8, end=49),
    "DiTConfig": DIT,
    "FeatureNetConfig": FeatureNetConfig(size=32, patch=2, widths=(8, 16), blocks=(1, 1), features=(6, 10)),
    "ImageTowerConfig": TOWER,
    "InceptionConfig": InceptionConfig(),
    "LinearHeadConfig": LinearHeadConfig(dim=12, classes=3),
    "MMDiTConfig": MMDIT,
    "PatchDiscriminatorConfig": PatchDiscriminatorConfig(widths=(8, 12, 16)),
    "TextEncoderConfig": TEXT,
    "UNet2DConfig": UNet2DConfig(widths=(16, 32), blocks=1, down=("text", "pixels"), up=("text", "pixels"), heads=(2, 4), depth=(2, 1), text_dim=16,
                                 groups=8, num_classes=6),
    "UNetConfig": UNET,
}
DENOISERS = [UNET, DIT, MMDIT]  # those that are told a mask and pooled text


def conditions(batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Tokens, a ragged mask, pooled text and labels for the DENOISERS."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch) % 4 + 3
    return {"tokens": torch.randn(batch, 7, 16, generator=rng), "mask": torch.arange(7)[None] < lengths[:, None],
            "pooled": torch.randn(batch, 12, generator=rng), "label": torch.arange(batch) % 6}


def inputs(config: NetworkConfig, batch: int = 2) -> tuple[object, ...]:
    """Arguments of the forward pass."""
    rng = torch.Generator().manual_seed(7)
    images = torch.rand(batch, 3, 32, 32, generator=rng) * 2 - 1
    latents = torch.randn(batch, 4, 16, 16, generator=rng)
    noise = torch.linspace(30.0, 900.0, batch)
    ids = torch.randint(0, 50, (batch, 7), generator=rng)
    mask = torch.arange(7)[None] < torch.tensor([[5], [7]])[torch.arange(batch) % 2]
    return {
        "AutoencoderConfig": (images, torch.randn(batch, 4, 4, 4, generator=rng)),
        "AutoencoderKLConfig": (images, torch.randn(batch, 4, 16, 16, generator=rng)),
        "ClassifierConfig": (latents, noise),
        "ClipConfig": (images, ids, mask),
        "ClipTextConfig": (ids,),
        "DiTConfig": (latents, noise, conditions(batch)),
        "FeatureNetConfig": (images,),
        "ImageTowerConfig": (images,),
        "InceptionConfig": (torch.rand(batch, 3, 107, 107, generator=rng) * 2 - 1,),
        "LinearHeadConfig": (torch.randn(batch, 12, generator=rng),),
        "MMDiTConfig": (latents, noise, conditions(batch)),
        "PatchDiscriminatorConfig": (images,),
        "TextEncoderConfig": (ids, mask),
        "UNet2DConfig": (latents, noise, conditions(batch)),
        "UNetConfig": (latents, noise, conditions(batch)),
    }[type(config).__name__]


def build(config: NetworkConfig, seed: int = 0, trained: bool = True) -> nn.Module:
    """The module; `trained` gives the parameters that start at zero random numbers, as training would."""
    torch.manual_seed(seed)
    net = config.build()
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return net
