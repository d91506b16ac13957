"""Who is compared at the embedded model's task, and how each peer trains: on pixels from nothing, and on the embedded model's latents.

On pixels both peers have what their own examples do at 128 pixels: diffusers the network and settings of `train_unconditional`, lucidrains those of
the README. On latents diffusers has a UNet2DConditionModel of about our size, with the settings of `train_text_to_image` and one caption in ten
dropped, without which it could not be guided; lucidrains the README's again, told nothing, since its network reads no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import peers
from quality_peers import Recipe, eps_loss, lucidrains, unconditional, warmup
from torch import nn

from inkwash.nn import UNet2DConfig
from inkwash.nn.unet2d import Reads
from inkwash.value import parse

SIZE = 128
WIDTHS = (128, 128, 256, 256, 512, 512)
READS: tuple[Reads, ...] = ("none", "none", "none", "none", "pixels", "none")
LATENTS: UNet2DConfig = parse(peers.MINI, UNet2DConfig)


class Contestant(NamedTuple):
    """`group` says what it was given; `recipe` is a peer's, None for us; `told` whether it reads captions."""

    library: str
    group: str
    told: bool
    recipe: Callable[[], Recipe] | None = None


def pixels_of_diffusers(widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """The network of `train_unconditional` at 128 pixels."""
    down = tuple("AttnDownBlock2D" if reads == "pixels" else "DownBlock2D" for reads in READS)
    up = tuple("AttnUpBlock2D" if reads == "pixels" else "UpBlock2D" for reads in reversed(READS))
    network: nn.Module = peers.diffusers().UNet2DModel(sample_size=SIZE, block_out_channels=widths, layers_per_block=2, down_block_types=down,
                                                       up_block_types=up)
    return network


def same_pixels(widths: tuple[int, ...] = WIDTHS) -> UNet2DConfig:
    """Ours with the same weights and the same function."""
    return UNet2DConfig(3, 3, widths, 2, READS, READS, "pixels", tuple(width // 8 for width in widths), (1,) * 6, 0, image=SIZE)


def diffusers() -> Recipe:
    """16 pictures a step, 4 at a time, which need less memory."""
    return unconditional(pixels_of_diffusers(), 4, 4)


def diffusers_latents() -> Recipe:
    """AdamW at 1e-4, constant after the warm-up, EMA with the warm-up of `EMAModel`; 64 latents a step, as ours has."""
    network = peers.their_unet(peers.MINI)
    return Recipe(network, eps_loss(network), 64, 1, 1e-4, (0.9, 0.999), 1e-2, warmup, lambda step: min(0.9999, (1 + step) / (10 + step)))


def lucidrains_pixels() -> Recipe:
    """32 pictures twice a step, 8 at a time."""
    return lucidrains(SIZE)._replace(batch=8, accumulate=8)


GROUPS = {"nothing": "each from nothing", "latents": "each given the autoencoder of the embedded model, and its text encoder where it reads captions"}
CONTESTANTS = {
    "inkwash": Contestant("inkwash", "nothing", True),
    "diffusers": Contestant("diffusers", "nothing", False, diffusers),
    "lucidrains": Contestant("lucidrains", "nothing", False, lucidrains_pixels),
    "inkwash-latents": Contestant("inkwash", "latents", True),
    "diffusers-latents": Contestant("diffusers", "latents", True, diffusers_latents),
    "lucidrains-latents": Contestant("lucidrains", "latents", False, lambda: lucidrains(SIZE // 8, 8)),
}
