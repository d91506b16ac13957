"""The programs that a user would pick instead, built with the sizes that are compared. Each is optional."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import torch
from torch import Tensor, nn

from inkwash.nn import UNet2DConfig
from inkwash.value import parse

CIFAR10 = "ddpm_cifar10"
MINI = "UNet2DConfig(8, 8, (96, 128, 128), 1, ('none', 'text', 'text'), ('none', 'text', 'text'), 'text', (2, 2, 2), (1, 1, 1), 192)"
SD1 = "sd1"


def diffusers() -> Any:
    """diffusers, or None when it is not installed."""
    try:
        return importlib.import_module("diffusers")
    except ImportError:
        return None


def their_unet(name: str) -> nn.Module:
    """diffusers' module of a size above, with random weights."""
    d = diffusers()
    if name == CIFAR10:
        return d.UNet2DModel(sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2, attention_head_dim=None,  # type: ignore[no-any-return]
                             down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"), norm_eps=1e-5,
                             up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), downsample_padding=0, flip_sin_to_cos=False,
                             freq_shift=1)
    text = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": (96, 128, 128), "layers_per_block": 1,
            "cross_attention_dim": 192, "attention_head_dim": 2, "in_channels": 8, "out_channels": 8, "sample_size": 16} if name == MINI else {
            "cross_attention_dim": 768, "sample_size": 64}
    return d.UNet2DConditionModel(**text)  # type: ignore[no-any-return]


def unets(name: str) -> tuple[nn.Module, nn.Module]:
    """(ours, theirs) with the same random weights, none of them zero."""
    torch.manual_seed(0)
    theirs = their_unet(name)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    ours = parse(name, UNet2DConfig).build()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def lucidrains() -> Any:
    """The module `denoising_diffusion_pytorch.denoising_diffusion_pytorch`, or None when it is not installed.

    Its trainer, which is not used here, imports torchvision, accelerate and others that cannot stand beside a torch without CUDA. For this import
    alone, empty modules stand in for those that are missing; the library's own code is as its authors wrote it.
    """
    stubs = {"torchvision": ("transforms", "utils"), "accelerate": ("Accelerator",), "ema_pytorch": ("EMA",), "pytorch_fid": (),
             "pytorch_fid.inception": ("InceptionV3",), "pytorch_fid.fid_score": ("calculate_frechet_distance",)}
    added = []
    for name, members in stubs.items():
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            for member in members:
                setattr(module, member, None)
            sys.modules[name] = module
            added.append(name)
    try:
        return importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    except ImportError:
        return None
    finally:
        for name in added:
            del sys.modules[name]


def call(module: nn.Module, x: Tensor, noise: Tensor, tokens: Tensor | None = None, label: Tensor | None = None) -> Tensor:
    """diffusers' module as a function of tensors: a U-Net, or with labels a DiT."""
    if label is not None:
        return module(x, noise, class_labels=label).sample  # type: ignore[no-any-return]
    return (module(x, noise) if tokens is None else module(x, noise, tokens)).sample  # type: ignore[no-any-return]
