"""A training step: noise prediction, AdamW, gradients clipped; our U-Net against diffusers' with the same weights, and lucidrains' own."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import peers
import torch
from harness import alternate, compare, memory
from torch import Tensor, nn

from inkwash.nn import DiTConfig
from inkwash.train.memory import keep
from inkwash.value import parse

BATCH = 32
DIT = "DiTConfig(in_channels=3, out_channels=3, patch=2, width=384, depth=12, heads=6)"


def step_of(predict: Callable[[Tensor, Tensor], Tensor], module: nn.Module, x: Tensor, bf16: bool) -> Callable[[], float]:
    """One step as a function: loss, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    noise = torch.linspace(1, 990, len(x), device=x.device)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)

    def step() -> float:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = (predict(x, noise).float() - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def measure(quick: bool) -> list[dict[str, Any]]:
    if peers.diffusers() is None:
        return [{"title": "Skipped", "notes": {"why": "diffusers is not installed"}}]
    keep()
    x = torch.randn(8 if quick else BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.to("cuda" if torch.cuda.is_available() else "cpu")
    first = unets(x, quick)
    gc.collect()
    return [first, transformers(x, quick)]


def unets(x: Tensor, quick: bool) -> dict[str, Any]:
    """The U-Net of DDPM, ours and diffusers' with the same weights, and lucidrains' of about that size."""
    device, batch = x.device, len(x)
    last = x.to(memory_format=torch.channels_last)
    ours, theirs = (module.to(device).train() for module in peers.unets(peers.CIFAR10))
    ways: dict[str, Callable[[], float]] = {}
    held: dict[str, float] = {}

    def add(label: str, module: nn.Module, predict: Callable[[nn.Module, Tensor, Tensor], Tensor], bf16: bool, channels_last: bool,
            compiled: bool = False) -> None:
        module = copy.deepcopy(module).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        called = torch.compile(module) if compiled else module
        gc.collect()
        before = memory()
        ways[label] = step_of(lambda x, noise: predict(called, x, noise), module, last if channels_last else x, bf16)  # type: ignore[arg-type]
        ways[label]()
        held[label] = memory() - before

    def their(module: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
        return peers.call(module, x, noise, None)

    def own(module: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
        return module(x, noise, {})  # type: ignore[no-any-return]

    if not quick:
        add("diffusers float32", theirs, their, False, False)
        add("diffusers bf16 autocast", theirs, their, True, False)
    add("diffusers bf16 autocast, channels_last", theirs, their, True, True)
    if not quick:
        add("diffusers bf16 autocast, channels_last, compiled", theirs, their, True, True, True)
    add("inkwash bf16", ours, own, True, True)
    lucid = peers.lucidrains()
    if lucid is not None:
        torch.manual_seed(0)
        unet = lucid.Unet(dim=128, dim_mults=(1, 2, 2, 2), flash_attn=True, full_attn=(False, True, False, False)).to(device)
        add("lucidrains bf16 autocast, channels_last", unet, lambda module, x, noise: module(x, noise), True, True)
    found = alternate(ways, 3 if quick else 9, 20 if quick else 150)
    result = compare(f"U-Net of DDPM at CIFAR-10 size (35.7 M), batch {batch}", found, "images/s", batch)
    first = {label: way() for label, way in ways.items()}
    result["notes"] = {"MiB held after the first step more than before": ", ".join(f"{label} {value:.0f}" for label, value in held.items()),
                       "lucidrains": "not installed" if lucid is None else
                       f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters of its own design; empty modules stood in for "
                       "torchvision and other imports of its trainer",
                       "loss now": ", ".join(f"{label} {value:.4f}" for label, value in first.items())}
    return result


def transformers(x: Tensor, quick: bool) -> dict[str, Any]:
    """DiT-S/2 at the same size of image: 33 M parameters, 256 tokens. diffusers' has other weights and its own embedding of labels."""
    torch.manual_seed(0)
    ours = parse(DIT, DiTConfig).build().to(x.device)
    theirs = peers.diffusers().DiTTransformer2DModel(num_attention_heads=6, attention_head_dim=64, in_channels=3, out_channels=3, num_layers=12,
                                                     sample_size=32, patch_size=2, num_embeds_ada_norm=1000).to(x.device)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def their(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, noise: module(x, noise.long(), class_labels=labels).sample

    ways = {"diffusers bf16 autocast": step_of(their(theirs), theirs, x, True)}
    if not quick:
        again = copy.deepcopy(theirs)
        ways["diffusers bf16 autocast, compiled"] = step_of(their(torch.compile(again)), again, x, True)  # type: ignore[arg-type]
    ways["inkwash bf16"] = step_of(lambda x, noise: ours(x, noise, {}), ours, x, True)
    return compare(f"DiT-S/2 (33 M) on 32 x 32 x 3, batch {len(x)}", alternate(ways, 3 if quick else 9, 15 if quick else 90), "images/s", len(x))
