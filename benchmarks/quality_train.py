"""Trains a peer for a number of core-minutes; it can be stopped at any time and goes on from its last point.

What counts is the processor time of the steps themselves, of all threads; reading the data, saving and starting are free. At the points of the curve
the averaged weights are kept, and at the end also the weights themselves: an average that is made for long runs lags behind in a short one. Random
numbers are a function of the step.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import torch
from quality_data import training
from quality_peers import RECIPES, Recipe
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash.train.memory import keep

SAVE_SECONDS = 240.0                                       # of training between two states


def spent() -> float:
    """Core-seconds of this process so far, of all its threads."""
    return time.process_time()


def peer(name: str, folder: Path, points: list[float]) -> None:
    """Trains `name` to the last of `points` (core-minutes), and keeps its average at each as `folder/NAME-MINUTES.safetensors`."""
    keep()
    torch.manual_seed(0)
    recipe = RECIPES[name]()
    images = training(folder)                                                           # uint8 (N, 3, 32, 32)
    network = recipe.network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)
    step, seconds = restore(folder / f"{name}-state.safetensors", network, average, optimizer)
    saved = seconds
    for point in points:
        while seconds < point * 60:
            start = spent()
            loss = advance(recipe, optimizer, average, images, step, seconds / (points[-1] * 60))
            step += 1
            seconds += spent() - start
            if step % 20 == 0:
                print(f"{name} step {step} {seconds / 60:.2f} core-minutes {step * recipe.batch * recipe.accumulate / seconds:.1f} images/s "
                      f"loss {loss:.4f}", file=sys.stderr, flush=True)
            if seconds - saved > SAVE_SECONDS:
                save(folder / f"{name}-state.safetensors", network, average, optimizer, step, seconds)
                saved = seconds
        about = {"step": str(step), "seconds": f"{seconds:.1f}", "images": str(step * recipe.batch * recipe.accumulate)}
        kept = {name: average, **({f"{name}.last": network} if point == points[-1] else {})}
        for key, module in kept.items():
            if not (target := folder / f"{key}-{point:g}.safetensors").exists():
                write(target, module.state_dict(), about)
        save(folder / f"{name}-state.safetensors", network, average, optimizer, step, seconds)
        saved = seconds


def advance(recipe: Recipe, optimizer: torch.optim.Optimizer, average: nn.Module, images: Tensor, step: int, share: float) -> float:
    """One optimizer step; the mean loss."""
    torch.manual_seed(1 + step)
    total = 0.0
    for _ in range(recipe.accumulate):
        chosen = images[torch.randint(0, len(images), (recipe.batch,))]
        flipped = torch.where((torch.rand(len(chosen)) < 0.5)[:, None, None, None], chosen.flip(-1), chosen)
        x0 = (flipped.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = recipe.loss(x0) / recipe.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    nn.utils.clip_grad_norm_(recipe.network.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * recipe.rate(step, share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    decay = recipe.decay(step + 1)
    if decay is not None:
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(recipe.network.parameters()), 1 - decay)
    return total


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Writes beside and renames, so that a stop leaves no half file."""
    beside = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, beside, about)
    beside.replace(path)


def save(path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"average/{key}": value for key, value in average.state_dict().items()}
    for i, parameter in enumerate(network.parameters()):
        tensors |= {f"optimizer/{i}/{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    write(path, {**tensors, "step": torch.tensor(step), "seconds": torch.tensor(seconds, dtype=torch.float64)}, {})


def restore(path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """(steps, core-seconds) made so far."""
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)
    for prefix, module in (("network/", network), ("average/", average)):
        module.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    for i, parameter in enumerate(network.parameters()):
        state = {key.rsplit("/", 1)[1]: value for key, value in tensors.items() if key.startswith(f"optimizer/{i}/")}
        if state:
            optimizer.state[parameter] = {key: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
                                          for key, value in state.items()}
    return int(tensors["step"]), float(tensors["seconds"])
