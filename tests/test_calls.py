"""Cutting rows into calls: every row has a place, no way is faster, and the choice changes no bit."""

from __future__ import annotations

import tracemalloc
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.calls import cut
from inkwash.selftest import certified


@pytest.mark.parametrize("seconds", [{2: 1.0}, {2: 1.0, 4: 1.5, 8: 2.2}, {1: 1.0, 2: 1.1, 4: 4.0}, {3: 1.0, 1: 0.2}])
def test_no_way_to_cut_is_faster(seconds: dict[int, float]) -> None:
    for pending in range(1, 13):
        sizes = cut(pending, seconds)
        assert sum(sizes) >= pending
        assert set(sizes) <= set(seconds)
        ways = (way for length in range(1, pending + 1) for way in combinations_with_replacement(seconds, length) if sum(way) >= pending)
        best = min(sum(seconds[size] for size in way) for way in ways)
        assert sum(seconds[size] for size in sizes) == pytest.approx(best)


def test_the_largest_batch_is_cut_in_little_memory() -> None:
    tracemalloc.start()
    try:
        assert cut(20_000, {2: 1.0}) == (2,) * 10_000
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_sizes_whose_rows_differ_are_not_certified(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    assert 2 in certified(pipe, (4, 8, 8), 8)
    pipe.denoiser.network.register_forward_hook(lambda module, given, out: out + (1e-2 if len(out) == 4 else 0.0))
    assert 4 not in certified(pipe, (4, 8, 8), 8)


def test_any_cut_into_certified_calls_gives_the_same_bytes(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    asked = [Request("a small red cube", seed=i, steps=3, sampler="ddim", guidance=w, width=48, height=32)
             for i, w in enumerate((3.0, 1.0, 2.0, 5.0))]
    plain = [pipe.generate([request])[0].pixels for request in asked]
    sizes = list(pipe.call_seconds(pipe.codec.shape(48, 32), 8))
    for way in ([size] for size in sizes):
        pipe.calls = lambda shape, pending, way=way: lambda count: way * -(-count // way[0])  # type: ignore[method-assign, misc]
        for image, expected in zip(pipe.generate(asked), plain, strict=True):
            assert image.pixels is not None
            assert expected is not None
            assert torch.equal(image.pixels, expected), way
