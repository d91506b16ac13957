"""How cost grows: with batch, with the side of the image, with channels and with steps. Exponents are slopes in log-log."""

from __future__ import annotations

import math
from typing import Any

import torch
from harness import alternate
from torch.utils.flop_counter import FlopCounterMode

from inkwash.nn import DiTConfig, UNetConfig
from inkwash.nn.attention import attend


def exponent(sizes: list[float], values: list[float]) -> float:
    """The slope of log value over log size, by least squares."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def measure(quick: bool) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = 3 if quick else 9
    fits: dict[str, Any] = {}

    def fit(label: str, sizes: list[int], make: Any) -> None:
        found = alternate({str(size): make(size) for size in sizes}, rounds, 20)
        seconds = [found[str(size)]["median"] for size in sizes]
        counted = []
        for size in (sizes[0], sizes[-1]):
            with FlopCounterMode(display=False) as counter:
                make(size)()
            counted.append(counter.get_total_flops())
        growth = "torch counts no operations"
        if counted[0]:
            growth = f"operations ~ size^{math.log(counted[1] / counted[0]) / math.log(sizes[-1] / sizes[0]):.2f}"
        fits[label] = (f"time ~ size^{exponent([float(size) for size in sizes], seconds):.2f}, {growth}; ms at {sizes}: "
                       f"{[round(one * 1e3, 2) for one in seconds]}")

    def unet(widths: tuple[int, ...] = (128, 128, 144), batch: int = 8, side: int = 16) -> Any:
        net = UNetConfig(8, 8, widths, attention=(False, True, True)).build().to(device, torch.bfloat16).to(memory_format=torch.channels_last).eval()
        x = torch.randn(batch, 8, side, side, device=device).bfloat16().to(memory_format=torch.channels_last)
        return lambda: net(x, torch.full((batch,), 500.0, device=device), {})

    def attention(side: int) -> Any:
        q, k, v = (torch.randn(1, 4, side * side, 64, device=device).bfloat16() for _ in range(3))
        return lambda: attend(q, k, v)

    def tokens(side: int) -> Any:
        net = DiTConfig(8, 8, 1, 256, 4, 4).build().to(device, torch.bfloat16).eval()
        x = torch.randn(1, 8, side, side, device=device).bfloat16()
        return lambda: net(x, torch.full((1,), 500.0, device=device), {})

    def steps(count: int) -> Any:
        call = unet(batch=2)
        return lambda: [call() for _ in range(count)]

    def copy(side: int) -> Any:
        x = torch.randn(64, side, side, device=device)
        return lambda: x * 1.5

    with torch.no_grad():
        fit("batch, U-Net", [4, 8, 16, 32], lambda batch: unet(batch=batch))
        fit("channels, U-Net", [128, 256, 512], lambda width: unet((width, width, width), batch=4))
        fit("side, attention alone", [16, 32, 64], attention)
        fit("side, values alone", [128, 256, 512], copy)
        fit("side, convolutions and attention of a U-Net", [16, 32, 64], lambda side: unet(batch=1, side=side))
        fit("side, a DiT", [16, 32, 64], tokens)
        fit("steps", [2, 4, 8], steps)
    return [{"title": "Exponents of cost, measured and counted", "notes": fits}]
