"""A tiny untrained text-to-image model of the form that diffusers opens: every part of it, and the mathematics of the embedded model."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.codec import Latent
from inkwash.condition import TextConditioner
from inkwash.core.coordinate import Coordinate
from inkwash.core.prediction import V
from inkwash.denoiser import Denoiser
from inkwash.io.info import Defaults, ModelInfo, Sizes
from inkwash.nn import AutoencoderKLConfig, ClipTextConfig, UNet2DConfig
from inkwash.pipeline import Pipeline
from inkwash.tokenizer import Tokenizer
from inkwash.value import parse
from tiny import CAPTIONS

PROCESS, LENGTH = "DiscreteCosine()", 16


def build_shared(folder: Path, dtype: torch.dtype = torch.float32, guidance: bool = False) -> Path:
    """Latent diffusion at 32 x 32 with random weights, saved as `folder`. No part of it is nothing, and its latents have scale 2.

    With `guidance` it is a student that is told the scale.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = Tokenizer.train_clip(CAPTIONS * 5, 560, LENGTH)
        encoder = ClipTextConfig(tokenizer.size, 24, 48, 2, 3, LENGTH, end=tokenizer.end).build()
        unet = UNet2DConfig(widths=(16, 32), blocks=1, down=("none", "text"), up=("none", "text"), heads=(1, 2), depth=(1, 1), text_dim=24, groups=8,
                            image=16, guidance=guidance).build()
        vae = AutoencoderKLConfig(widths=(16, 32), blocks=1, groups=8, image=32).build()
        with torch.no_grad():
            for parameter in (*unet.parameters(), *vae.parameters()):
                if not parameter.any():
                    parameter.normal_(std=0.1)
    info = ModelInfo("shared", PROCESS, "V()", coordinate=f"TimeIndex({PROCESS}, 1000.0, -1.0)", channels=4, factor=2, mean=(0.0,) * 4,
                     std=(2.0,) * 4, length=LENGTH, sizes=Sizes((32, 32), 16, 64, 4), defaults=Defaults(10, "dpmpp_2m", "trailing", 4.0))
    denoiser = Denoiser(unet.eval(), V(), coordinate=parse(info.coordinate, Coordinate))  # type: ignore[type-abstract]
    pipe = Pipeline(denoiser, Latent(vae, info.mean, info.std, 2), TextConditioner(tokenizer, encoder, None), info)
    pipe.to("cpu", torch.float32).save_pretrained(folder, dtype)
    return folder
