"""The two parts of a folder that become objects of diffusers and transformers themselves when it is opened: the scheduler and the tokenizer.

The classes stand in the folder's index only to name this conversion: what they return is of their classes, and saves and opens as such.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
from diffusers import SchedulerMixin
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from inkwash.errors import CheckpointError
from inkwash.io.folder import load_info, load_tokenizer
from inkwash.io.foreign_scheduler import levels_config


class Scheduler(SchedulerMixin):
    """The noise process and the default sampler of a folder."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> SchedulerMixin:
        """Their scheduler with the mathematics of the folder around `path`. Raises CheckpointError `unsupported_model` where they have none."""
        folder = Path(path).parent
        info = load_info(folder)
        config = levels_config(info)
        if not config:
            raise CheckpointError("unsupported_model", f'"{folder}": no scheduler of diffusers has {info.process} with {info.prediction}')
        return getattr(diffusers, config.pop("_class_name")).from_config(config)


class Tokenizer(PreTrainedTokenizerFast):
    """The tokenizer of a folder."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> PreTrainedTokenizerFast:
        """Their tokenizer with the same ids: start, text, end, padding up to the length of the folder around `path`."""
        folder = Path(path).parent
        ours = load_tokenizer(folder, load_info(folder).length)
        pad, start, end = ours.names
        ours.backend.post_processor = TemplateProcessing(single=f"{start} $A {end}", special_tokens=[(start, ours.start), (end, ours.end)])
        return PreTrainedTokenizerFast(tokenizer_object=ours.backend, pad_token=pad, bos_token=start, eos_token=end, model_max_length=ours.length)
