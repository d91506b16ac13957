"""Trains a peer for a budget of time; it can be stopped at any time and goes on from its last point.

What counts are the steps themselves, by a clock that is handed in: processor time of all threads, or time on the wall. Saving and starting are
free. At the points of the curve the averaged weights are kept, and at the end also the weights themselves: an average that is made for long runs
lags behind in a short one. Random numbers are a function of the step.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from quality_peers import Recipe
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash.train.memory import keep

SAVE_SECONDS = 240.0                                       # of training between two states
Examples = Callable[[int], tuple[Tensor, ...]]             # the number of a batch, counted over accumulation, to x0 and what is told


def train(name: str, make: Callable[[], Recipe], examples: Callable[[Recipe], Examples], folder: Path, points: list[float],
          clock: Callable[[], float]) -> None:
    """Trains `name` to the last of `points` (minutes of `clock`), and keeps its average at each as `folder/NAME-MINUTES.safetensors`."""
    if (folder / f"{name}.last-{points[-1]:g}.safetensors").exists():
        return
    keep()
    torch.manual_seed(0)
    recipe = make()
    batches = examples(recipe)
    network = recipe.network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)
    step, seconds = restore(folder / f"{name}-state.safetensors", network, average, optimizer)
    saved = seconds
    for point in points:
        while seconds < point * 60:
            start = clock()
            loss = advance(recipe, optimizer, average, batches, step, seconds / (points[-1] * 60))
            step += 1
            seconds += clock() - start
            if step % 20 == 0:
                print(f"{name} step {step} {seconds / 60:.2f} minutes {step * recipe.batch * recipe.accumulate / seconds:.1f} images/s "
                      f"loss {loss:.4f}", file=sys.stderr, flush=True)
            if seconds - saved > SAVE_SECONDS:
                save(folder / f"{name}-state.safetensors", network, average, optimizer, step, seconds)
                saved = seconds
        save(folder / f"{name}-state.safetensors", network, average, optimizer, step, seconds)
        saved = seconds
        facts = {"step": str(step), "seconds": f"{seconds:.1f}", "images": str(step * recipe.batch * recipe.accumulate)}
        kept = {name: average, **({f"{name}.last": network} if point == points[-1] else {})}
        for key, module in kept.items():
            if not (target := folder / f"{key}-{point:g}.safetensors").exists():
                write(target, module.state_dict(), facts)


def advance(recipe: Recipe, optimizer: torch.optim.Optimizer, average: nn.Module, batches: Examples, step: int, share: float) -> float:
    """One optimizer step; the mean loss."""
    torch.manual_seed(1 + step)
    total = 0.0
    for k in range(recipe.accumulate):
        given = batches(step * recipe.accumulate + k)
        with torch.autocast("cpu", torch.bfloat16):
            loss = recipe.loss(*given) / recipe.accumulate
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


def about(weights: Path) -> dict[str, str]:
    """What stands in a file of weights: "step", "seconds" and "images"."""
    with weights.open("rb") as file:
        found: dict[str, str] = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    return found


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
    """(steps, seconds) made so far."""
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
