"""What the machine can do at best: plain convolutions and matrix products, in TFLOP/s."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from harness import alternate


def ceilings(quick: bool) -> dict[str, float]:
    """TFLOP/s of a bfloat16 and a float32 convolution and of a bfloat16 matrix product, all of comfortable sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, float] = {}
    ways: dict[str, Any] = {}
    work: dict[str, float] = {}
    for name, dtype, batch in (("bf16 convolution", torch.bfloat16, 8), ("float32 convolution", torch.float32, 2)):
        x = torch.randn(batch, 320, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(320, 320, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        ways[name] = lambda x=x, weight=weight: F.conv2d(x, weight, padding=1)
        work[name] = 2 * batch * 64 * 64 * 320 * 320 * 9
    a, b = torch.randn(4096, 2048, device=device).bfloat16(), torch.randn(2048, 2048, device=device).bfloat16()
    ways["bf16 matrix product"], work["bf16 matrix product"] = lambda: F.linear(a, b), 2 * 4096 * 2048 * 2048
    with torch.inference_mode():
        for name, one in alternate(ways, 3 if quick else 9).items():
            found[name] = round(work[name] / one["median"] / 1e12, 3)
    return found


def measure(quick: bool) -> list[dict[str, Any]]:
    return [{"title": "Plain operators, TFLOP/s", "notes": ceilings(quick)}]
