"""Conditions of prompts that were asked before, kept; each is encoded once, whoever asks for it meanwhile.

The cache is bounded and drops what was not asked for longest. A key is (hash of the encoder, tenant, text): another encoder never answers,
and no tenant can tell from the time of an answer what another one has asked. An encoder's answer has the same bits every time (the
self-test of the model says so), hence so has the image, cached or not.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import nn

from inkwash.cond import Cond
from inkwash.errors import UsageError

Encode = Callable[[str | None], Cond]


class Embeddings:
    """Up to `size` conditions; may be shared by engines and threads. `hits` and `misses` count the answers."""

    def __init__(self, size: int = 1024) -> None:
        if size < 1:
            raise UsageError("bad_value", f"a cache of embeddings needs at least one place, got {size}")
        self.size = size
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str | None], Future[Cond]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, encoder: str, tenant: str, text: str | None, encode: Encode) -> Cond:
        """The condition of `text` (None: of no prompt). Of callers at once, one encodes and the others wait for it.

        What `encode` raises is raised to all of them, and nothing is kept.
        """
        key = (encoder, tenant, text)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self.hits += 1
                self._kept.move_to_end(key)
            else:
                self.misses += 1
                mine: Future[Cond] = Future()
                self._kept[key] = mine
                if len(self._kept) > self.size:
                    self._kept.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(encode(text))
        except BaseException as error:
            with self._lock:
                if self._kept.get(key) is mine:
                    del self._kept[key]
            mine.set_exception(error)
        return mine.result()


def encoder_hash(conditioner: nn.Module) -> str:
    """SHA-256 of all that decides a conditioner's answers and where they are: its class, its tensors, their device and its tokenizer."""
    total = hashlib.sha256(type(conditioner).__qualname__.encode())
    for name, tensor in sorted(conditioner.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    tokenizer = getattr(conditioner, "tokenizer", None)
    total.update(b"" if tokenizer is None else f"{tokenizer.length} {tokenizer.names} {tokenizer.text()}".encode())
    return total.hexdigest()
