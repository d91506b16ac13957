"""The native kernels against torch's operators: a step of training of the embedded model's denoiser and autoencoder, by turns in one process.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/native.py

A step is that of the recipe on random data: loss, backward, gradients clipped, AdamW. Processor seconds of the process are counted, since
other programs may share the core; with several threads they are no measure, so there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from torch import Tensor, nn

import inkwash.recipes
from inkwash.nn import AutoencoderConfig, UNetConfig, native
from inkwash.train.autoencoder import edge_loss
from inkwash.train.memory import keep
from inkwash.value import parse

Losses = Callable[[], Tensor]


def recipe(name: str) -> tuple[str, int]:
    """Network and batch of a recipe."""
    found = yaml.safe_load((Path(inkwash.recipes.__file__).parent / f"{name}.yaml").read_text("utf-8"))
    return found["network"], found["batch"]


def denoiser() -> tuple[nn.Module, Losses, int]:
    text, batch = recipe("mini-denoiser")
    config = parse(text, UNetConfig)
    network = config.build().to(memory_format=torch.channels_last)
    x = torch.randn(batch, config.in_channels, 16, 16).to(memory_format=torch.channels_last)
    target, noise = torch.randn_like(x), torch.linspace(1, 990, batch)
    mask = torch.arange(32)[None] < torch.randint(3, 33, (batch, 1))
    cond = {"tokens": torch.randn(batch, 32, config.text_dim), "mask": mask, "pooled": torch.randn(batch, config.pooled_dim)}
    return network, lambda: (network(x, noise, cond).float() - target).square().mean(), batch


def autoencoder() -> tuple[nn.Module, Losses, int]:
    text, batch = recipe("mini-autoencoder")
    network = parse(text, AutoencoderConfig).build().to(memory_format=torch.channels_last)
    x, eps = torch.rand(batch, 3, 128, 128) * 2 - 1, torch.randn(batch, 8, 16, 16)

    def loss() -> Tensor:
        y, mean, logvar = network(x, eps)
        error = y.float() - x
        return error.abs().mean() + error.square().mean() + edge_loss(x, y.float()).mean() + 1e-4 * (mean.square() + logvar.exp() - logvar).mean()

    return network, loss, batch


def step_of(network: nn.Module, loss: Losses) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep()
    print(f"native kernels: {native.status()}")
    for name, make in {"mini-denoiser": denoiser, "mini-autoencoder": autoencoder}.items():
        torch.manual_seed(0)
        network, loss, batch = make()
        step = step_of(network, loss)
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(rounds + 1):
            for own in (True, False):
                with patch.object(native, "usable", lambda own=own: own):
                    before = time.process_time()
                    step()
                    if number:                                                          # the first of each is not counted
                        times[own].append(time.process_time() - before)
        rates = {own: batch / statistics.median(found) for own, found in times.items()}
        print(f"{name:<18} native {rates[True]:6.1f} samples/s, torch {rates[False]:6.1f}, ratio {rates[True] / rates[False]:.2f}   "
              f"(fastest {batch / min(times[True]):.1f} and {batch / min(times[False]):.1f}, {rounds} rounds)")


if __name__ == "__main__":
    main()
