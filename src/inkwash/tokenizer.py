"""Text to token ids: a byte-level BPE with a fixed length.

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) joins the most frequent neighbours again and again; on bytes it knows
every text. A prompt becomes [start] tokens [end] and is filled up to `length`, so that every prompt has one shape. Text beyond the
length is cut, and the cut is returned, never hidden.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from inkwash.errors import CheckpointError

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
CLIP_START, CLIP_END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


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
        backend.add_special_tokens(list(names))            # a mark in a text is the mark, as for CLIP; the tokens are in the vocabulary already
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

    @classmethod
    def train_clip(cls, texts: Iterable[str], size: int, length: int) -> Tokenizer:
        """Learns `size` tokens (at least 514: all bytes, all bytes that end a word, two marks) in the form of CLIP's tokenizer.

        Words end in "</w>", the marks have the two highest ids, and the end mark pads (Radford et al. 2021, arXiv:2103.00020).
        """
        learner = clip_backend({}, [])
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        single = [*alphabet, *(letter + WORD_END for letter in alphabet)]
        room = size - len(single) - 2
        if room < 0:
            raise ValueError(f"a tokenizer of CLIP's form has at least {len(single) + 2} tokens, got {size}")
        learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix=WORD_END,
                                                               show_progress=False))
        found = [tuple(merge if isinstance(merge, list) else merge.split(" ")) for merge in json.loads(learner.to_str())["model"]["merges"]]
        joined = list(dict.fromkeys(left + right for left, right in found))[:room]
        names = [*single, *joined, CLIP_START, CLIP_END]
        merges = [(left, right) for left, right in found if left + right in joined]
        backend = clip_backend({name: number for number, name in enumerate(names)}, merges)
        return cls(backend, length, (CLIP_END, CLIP_START, CLIP_END))

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


def clip_backend(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """CLIP's BPE with these tokens and merges: lower case, words and single digits apart, "</w>" at the end of a word."""
    model = models.BPE(vocab=dict(vocab), merges=list(merges), unk_token=CLIP_END, continuing_subword_prefix="",
                       end_of_word_suffix=WORD_END) if vocab else models.BPE(unk_token=CLIP_END, end_of_word_suffix=WORD_END)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    return backend
