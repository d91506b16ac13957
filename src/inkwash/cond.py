"""What a network is told beside the noisy image: named tensors that share one batch dimension.

A Cond is immutable. Unlike requests are joined by `cat` and split by `take`; both keep every name, so that a batch
is only ever made of conditions of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Cond(Mapping[str, Tensor]):
    """An immutable mapping name -> tensor (B, ...). Raises ValueError when batch sizes differ."""

    __slots__ = ("_tensors", "batch")

    def __init__(self, tensors: Mapping[str, Tensor], batch: int | None = None) -> None:
        sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
        found = set(sizes.values()) | ({batch} if batch is not None else set())
        if len(found) != 1:
            raise ValueError(f"a Cond needs one batch size, got {sizes or 'no tensors and no batch'}")
        self._tensors = dict(tensors)
        self.batch: int = found.pop()

    @classmethod
    def none(cls, batch: int) -> Cond:
        """No condition, for `batch` samples."""
        return cls({}, batch)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(tensor.shape)}" for name, tensor in self._tensors.items())
        return f"Cond({shapes or f'batch={self.batch}'})"

    def take(self, index: Tensor | Sequence[int]) -> Cond:
        """The samples at `index` (N,), in that order."""
        where = torch.as_tensor(index, dtype=torch.long)
        return Cond({name: tensor[where.to(tensor.device)] for name, tensor in self._tensors.items()}, len(where))

    @staticmethod
    def cat(parts: Sequence[Cond]) -> Cond:
        """Samples of all parts, in order. Raises ValueError when the parts name different tensors."""
        names = set(parts[0])
        if any(set(part) != names for part in parts):
            raise ValueError(f"cannot join conditions of different kinds: {[sorted(part) for part in parts]}")
        return Cond({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, sum(part.batch for part in parts))

    def pad(self, size: int) -> Cond:
        """Repeats the last sample until there are `size`."""
        index = torch.arange(size).clamp(max=self.batch - 1)
        return self.take(index) if size != self.batch else self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cond:
        """Moves every tensor; casts the floating ones, but not one number per sample (B,): a scale of 7.3 must not become 7.3125."""
        return Cond({name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() and tensor.dim() > 1 else None)
                     for name, tensor in self._tensors.items()}, self.batch)
