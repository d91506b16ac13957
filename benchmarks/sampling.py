"""One call of a network, as sampling makes it: our U-Net against diffusers' with the same weights and inputs, each in all its ways."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peers
import torch
from ceiling import ceilings
from harness import alternate, compare
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inkwash.nn import native
from inkwash.nn.unet2d_fast import FastUNet2D

GOAL, WRONG = 1e-2, 5e-2                                  # of the relative distance to float32: rounding, and what no rounding explains
CASES = {"U-Net of DDPM, CIFAR-10 size (35.7 M), batch 16": (peers.CIFAR10, (16, 3, 32, 32), 0),
         "U-Net of mini's size (16 x 16 x 8), batch 2": (peers.MINI, (2, 8, 16, 16), 192),
         "U-Net of Stable Diffusion 1.5 (859.5 M, 512 x 512), batch 2": (peers.SD1, (2, 4, 64, 64), 768)}


def measure(quick: bool) -> list[dict[str, Any]]:
    if peers.diffusers() is None:
        return [{"title": "Skipped", "notes": {"why": "diffusers is not installed"}}]
    top = ceilings(True)
    cases = dict(list(CASES.items())[:2]) if quick else CASES
    return [case(title, *sizes, top=top, quick=quick) for title, sizes in cases.items()]


def case(title: str, name: str, shape: tuple[int, ...], text: int, top: dict[str, float], quick: bool) -> dict[str, Any]:
    """All ways of one size. How far their results are from float32 is told beside the goal."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = (module.eval().requires_grad_(False).to(device) for module in peers.unets(name))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device)
    noise = torch.linspace(10, 900, shape[0]).to(device)
    tokens = torch.randn(shape[0], 77 if text == 768 else 32, text, generator=generator).to(device) if text else None
    large = name == peers.SD1

    def own(module: nn.Module, x: Tensor, tokens: Tensor | None) -> Tensor:
        return module(x, noise, {} if tokens is None else {"tokens": tokens})  # type: ignore[no-any-return]

    def their(module: nn.Module, x: Tensor, tokens: Tensor | None) -> Tensor:
        return peers.call(module, x, noise, tokens)

    ways: dict[str, Callable[[], Tensor]] = {}

    def add(label: str, function: Callable[..., Tensor], module: nn.Module, dtype: torch.dtype, last: bool, compiled: str = "") -> None:
        module = module.to(dtype) if large and dtype != torch.float32 else copy.deepcopy(module).to(dtype)
        layout = torch.channels_last if last else torch.contiguous_format
        module = module.to(memory_format=layout)
        given, told = x.to(dtype).to(memory_format=layout), None if tokens is None else tokens.to(dtype)
        if compiled:
            torch._dynamo.reset()
            options = {"freezing": True} if compiled == "freezing" else None
            module = torch.compile(module, options=options)  # type: ignore[assignment]
        ways[label] = lambda: function(module, given, told)

    with torch.no_grad():
        exact = own(ours, x, tokens)
        with FlopCounterMode(display=False) as counter:
            own(ours, x, tokens)
        flops = counter.get_total_flops()
        equal = float((their(theirs, x, tokens) - exact).norm() / exact.norm())
        assert equal < 1e-4, f"the two modules differ by {equal:.2e} in float32"
        if not large:
            add("diffusers float32", their, theirs, torch.float32, False)
        add("diffusers bf16 channels_last", their, theirs, torch.bfloat16, True)
        if not quick:
            add("diffusers bf16 channels_last, compiled, freezing", their, theirs, torch.bfloat16, True, "freezing")
        add("inkwash bf16", own, ours, torch.bfloat16, True)
        if not quick:
            add("inkwash bf16, compiled, freezing", own, ours, torch.bfloat16, True, "freezing")
        if device.type == "cpu" and native.usable():
            fast = FastUNet2D(ours)
            told = {} if tokens is None else {"text_context": fast.text_context(tokens.bfloat16())}      # once for all steps, as a text is
            ways["inkwash FastUNet2D"] = lambda: fast(x, noise, told)
        errors = {label: float((way().float() - exact).norm() / exact.norm()) for label, way in ways.items()}
        for label, error in errors.items():
            assert error < WRONG, f"{label} is {error:.4f} away from float32"
        found = alternate(ways, 3 if quick else 15, 20 if quick else 60)
    result = compare(title, found, "calls/s", 1.0)
    best = result["rows"][result["best"]]["calls/s"] * flops / 1e12
    result["notes"] = {"GFLOP a call": round(flops / 1e9, 2), "our best in TFLOP/s": round(best, 3),
                       "bf16 convolution here, TFLOP/s": top["bf16 convolution"],
                       "share of that ceiling": f"{best / top['bf16 convolution']:.0%}",
                       f"relative distance to float32, goal {GOAL}": ", ".join(f"{label} {error:.4f}" for label, error in errors.items())}
    return result
