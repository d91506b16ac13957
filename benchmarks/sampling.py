"""One call of a network, as sampling makes it: our U-Net and DiT against diffusers' with the same weights and inputs, each in all its ways."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peers
import peers_dit
import torch
from ceiling import ceilings
from harness import alternate, compare
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from inkwash.nn import DiTConfig, NetworkConfig, UNet2DConfig, native
from inkwash.nn.unet2d_fast import FastUNet2D
from inkwash.value import parse

GOAL, WRONG = 1e-2, 5e-2                                  # of the relative distance to float32: rounding, and what no rounding explains
CASES = {"U-Net of DDPM, CIFAR-10 size (35.7 M), batch 16": (peers.CIFAR10, (16, 3, 32, 32)),
         "U-Net of mini's size (16 x 16 x 8), batch 2": (peers.MINI, (2, 8, 16, 16)),
         "DiT-S/2 at CIFAR-10 size (32.5 M), batch 16": (peers_dit.CIFAR10, (16, 3, 32, 32)),
         "DiT on mini's latents (9.8 M, 16 x 16 x 8), batch 2": (peers_dit.MINI, (2, 8, 16, 16)),
         "DiT-B/2 (130.3 M, latents of 32 x 32 x 4), batch 8": (peers_dit.B2, (8, 4, 32, 32)),
         "U-Net of Stable Diffusion 1.5 (859.5 M, 512 x 512), batch 2": (peers.SD1, (2, 4, 64, 64))}
ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}  # not known to torch
LARGE = (peers.SD1, peers_dit.B2)                         # left out by --quick
WAYS = {"float32": (torch.float32, False, ""), "bf16": (torch.bfloat16, False, ""), "bf16 channels_last": (torch.bfloat16, True, ""),
        "bf16 channels_last, compiled": (torch.bfloat16, True, "plain"),
        "bf16 channels_last, compiled, freezing": (torch.bfloat16, True, "freezing")}
ONE = ("bf16 channels_last", "bf16 channels_last, compiled, freezing")  # all that fits beside each other of Stable Diffusion, and all of ours


def measure(quick: bool) -> list[dict[str, Any]]:
    if peers.diffusers() is None:
        return [{"title": "Skipped", "notes": {"why": "diffusers is not installed"}}]
    top = ceilings(True)
    return [case(title, *sizes, top=top, quick=quick) for title, sizes in CASES.items() if not (quick and sizes[0] in LARGE)]


def case(title: str, name: str, shape: tuple[int, ...], top: dict[str, float], quick: bool) -> dict[str, Any]:
    """All ways of one size. How far their results are from float32 is told beside the goal."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config: NetworkConfig = parse(name, NetworkConfig)  # type: ignore[type-abstract]
    assert isinstance(config, DiTConfig | UNet2DConfig)
    pair = peers_dit.dits(config, shape[-1]) if isinstance(config, DiTConfig) else peers.unets(name)
    ours, theirs = (module.eval().requires_grad_(False).to(device) for module in pair)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device)
    noise = torch.linspace(10, 900, shape[0]).to(device)
    cond: dict[str, Tensor] = {}
    if config.text_dim:
        cond["tokens"] = torch.randn(shape[0], 77 if config.text_dim == 768 else 32, config.text_dim, generator=generator).to(device)
    if config.num_classes:
        cond["label"] = torch.randint(config.num_classes, shape[:1], generator=generator).to(device)

    def own(module: nn.Module, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return module(x, noise, cond)  # type: ignore[no-any-return]

    def their(module: nn.Module, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return peers.call(module, x, noise, **cond)

    ways: dict[str, Callable[[], Tensor]] = {}

    def add(label: str, function: Callable[..., Tensor], module: nn.Module, dtype: torch.dtype, last: bool, compiled: str) -> None:
        module = module.to(dtype) if name == peers.SD1 else copy.deepcopy(module).to(dtype)
        layout = torch.channels_last if last else torch.contiguous_format
        module = module.to(memory_format=layout)
        given = x.to(dtype).to(memory_format=layout)
        told = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in cond.items()}
        if compiled:
            torch._dynamo.reset()
            module = torch.compile(module, options={"freezing": True} if compiled == "freezing" else None)  # type: ignore[assignment]
        ways[label] = lambda: function(module, given, told)

    with torch.no_grad():
        exact = own(ours, x, cond)
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            own(ours, x, cond)
        flops = counter.get_total_flops()
        equal = float((their(theirs, x, cond) - exact).norm() / exact.norm())
        assert equal < 1e-4, f"the two modules differ by {equal:.2e} in float32"
        for label, way in WAYS.items():
            if not (quick and way[2]) and (name != peers.SD1 or label in ONE):
                add(f"diffusers {label}", their, theirs, *way)
        for label in ONE[: 1 if quick else 2]:
            add(f"inkwash {label.replace(' channels_last', '')}", own, ours, *WAYS[label])
        if isinstance(config, UNet2DConfig) and device.type == "cpu" and native.usable():
            fast = FastUNet2D(ours)  # type: ignore[arg-type]
            told = {"text_context": fast.text_context(cond["tokens"].bfloat16())} if cond else {}         # once for all steps, as a text is
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
