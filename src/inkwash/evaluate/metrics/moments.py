"""Mean and covariance of features, summed so that no order of summation shows.

Features are rounded to a grid of 2^-26 and cut into two limbs of 18 bits, n = 2^18 h + l. Sums of h, l, h h', h l' and l l' over at most
2^15 rows are integers below 2^53, so a float64 matrix product gives them exactly, in any order, on any machine; totals are int64. Shards
therefore merge to the bits of one process (Demmel & Nguyen 2013 take the same way to reproducible sums). The grid moves a feature by at most
2^-27 = 7e-9, less than float32 does beyond 1/8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError

GRID = 2.0**-26
LIMB = 2.0**18
LIMIT = 1024.0                                             # of one feature: 36 bits on the grid
ROWS = 2**15                                               # per product: 2^18 * 2^18 * 2^15 < 2^53


class Moments(NamedTuple):
    """Sums over samples; `merge` is associative and commutative to the last bit."""

    num: int
    total: Tensor                                          # (2, D) int64: sums of h and l
    products: Tensor                                       # (3, D, D) int64: sums of h h', h l' + l h', l l'

    @staticmethod
    def of(features: Tensor) -> Moments:
        """Of features (N, D). Raises UsageError `bad_features` for other shapes, values that are not finite or beyond 1024."""
        check_features("features", features, least=0)
        num, dim = features.shape
        total = torch.zeros(2, dim, dtype=torch.int64)
        products = torch.zeros(3, dim, dim, dtype=torch.int64)
        for rows in features.detach().split(ROWS):
            n = (rows.double() / GRID).round()
            high = (n / LIMB).round()
            low = n - high * LIMB
            cross = high.T @ low
            total += torch.stack([high.sum(0), low.sum(0)]).long().cpu()
            products += torch.stack([high.T @ high, cross + cross.T, low.T @ low]).long().cpu()
        return Moments(num, total, products)

    def merge(self, *others: Moments) -> Moments:
        """The moments of all samples together."""
        num, total, products = self
        for other in others:
            num, total, products = num + other.num, total + other.total, products + other.products
        return Moments(num, total, products)

    def mean(self) -> Tensor:
        """(D,) float64."""
        high, low = self.total.double()
        return (high * LIMB + low) * (GRID / self.num)

    def covariance(self) -> Tensor:
        """(D, D) float64, divided by N - 1. Raises UsageError `too_few` below 2 samples."""
        if self.num < 2:
            raise UsageError("too_few", f"a covariance needs at least 2 samples, got {self.num}")
        hh, hl, ll = self.products.double()
        second = ((hh * LIMB + hl) * LIMB + ll) * GRID**2
        mean = self.mean()
        return (second - self.num * torch.outer(mean, mean)) / (self.num - 1)


def check_features(name: str, features: Tensor, least: int = 2) -> None:
    """Raises UsageError `bad_features` unless `features` is (N, D), finite and within the grid, and `too_few` for N < `least`."""
    if features.ndim != 2 or not features.is_floating_point():
        raise UsageError("bad_features", f"{name} have shape {tuple(features.shape)} and type {features.dtype}; expected floats (N, D)")
    if len(features) < least:
        raise UsageError("too_few", f"{name} are {len(features)} samples; this measurement needs at least {least}")
    largest = float(features.abs().max()) if features.numel() else 0.0
    if not largest <= LIMIT:
        raise UsageError("bad_features", f"{name} hold {largest:g}; values are finite and within +-{LIMIT:g}; scale the extractor's output")


def check_pair(real: Tensor, fake: Tensor, least: int = 2) -> None:
    """Both sets are features of one extractor."""
    check_features("real features", real, least)
    check_features("generated features", fake, least)
    if real.shape[1] != fake.shape[1]:
        raise UsageError("bad_features", f"real features are {real.shape[1]} wide and generated ones {fake.shape[1]}; use one extractor for both")


def check_paired(real: Tensor, fake: Tensor) -> None:
    """Raises UsageError `bad_pairs` unless both sets have as many rows."""
    if len(real) != len(fake):
        raise UsageError("bad_pairs", f"{len(real)} real features and {len(fake)} others are no pairs; give one for each, else say paired=False")


def interleave(shards: Sequence[Tensor]) -> Tensor:
    """Rows in the order of their index, from the rows rank::world of every process. Lengths may differ by one."""
    world, num = len(shards), sum(len(shard) for shard in shards)
    whole = shards[0].new_empty((num, *shards[0].shape[1:]))
    for rank, shard in enumerate(shards):
        if len(shard) != len(range(rank, num, world)):
            raise UsageError("bad_features", f"shard {rank} of {world} has {len(shard)} rows of {num}; expected rows {rank}::{world}")
        whole[rank::world] = shard
    return whole
