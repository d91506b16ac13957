"""Text to token ids: a byte-level BPE with a fixed length.

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) joins the most frequent neighbours again and again; on bytes it knows
every text. A prompt becomes [start] tokens [end] and is filled up to `length`, so that every prompt has one shape. Text beyond the
length is cut, and the cut is returned, never hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from inkwash.errors import CheckpointError

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"


class Tokens(NamedTuple):
    """Token ids of B texts. `cut` holds the text that did not fit, "" where all did."""

    ids: Tensor  # (B, L) long
    mask: Tensor  # (B, L) bool, True = a real token
    cut: list[str]


class Tokenizer:
    """A BPE with start and end tokens; `length` counts both. `names` are the tokens for padding, start and end."""

    def __init__(self, backend: tokenizers.Tokenizer, length: int, names: tuple[str, str, str] = (PAD, START, END)) -> None:
        found = [backend.token_to_id(name) for name in names]
        if None in found or length < 3:
            raise ValueError(f"a tokenizer needs the tokens {', '.join(names)} and a length of at least 3, got ids {found}, length {length}")
        backend.no_truncation()                            # cutting and padding happen here, where the cut is reported
        backend.no_padding()
        self.backend = backend
        self.names = names
        self.length = length
        self.pad, self.start, self.end = (int(item) for item in found if item is not None)

    @property
    def size(self) -> int:
        """Number of different tokens."""
        return int(self.backend.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Ids and mask, (B, L) each."""
        rows, cut = [], []
        for text in texts:
            found = self.backend.encode(text, add_special_tokens=False)
            room = self.length - 2
            cut.append(self.backend.decode(found.ids[room:]).strip() or "(symbols)" if len(found.ids) > room else "")
            rows.append([self.start, *found.ids[:room], self.end])
        ids = torch.tensor([row + [self.pad] * (self.length - len(row)) for row in rows], dtype=torch.long)  # (B, L)
        used = torch.tensor([len(row) for row in rows])
        return Tokens(ids, torch.arange(self.length)[None] < used[:, None], cut)

    @classmethod
    def train(cls, texts: Iterable[str], size: int, length: int) -> Tokenizer:
        """Learns `size` tokens (at least 259: all bytes and the three special ones) from texts, in lower case."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(texts, trainer)
        return cls(backend, length)

    def text(self) -> str:
        """The content of `tokenizer.json`, the format of the tokenizers library."""
        return str(self.backend.to_str(pretty=False))

    @classmethod
    def load(cls, path: Path, length: int, names: tuple[str, str, str] = (PAD, START, END)) -> Tokenizer:
        """Reads `tokenizer.json`. Raises CheckpointError `model_damaged`."""
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text("utf-8")), length, names)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError("model_damaged", f'cannot read the tokenizer "{path}": {error}; restore the file') from None
