"""What a denoiser run begins with: finished parts, or a whole finished model that is trained on.

A run that starts from a model keeps its latent space and its words: the autoencoder with its statistics, the tokenizer, the text encoder and
the null condition are the model's. Its network must be the recipe's, and so must what the network was trained to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from inkwash.codec import Codec, Latent, Pixels
from inkwash.core.coordinate import Coordinate
from inkwash.errors import UsageError
from inkwash.io.find import find_model
from inkwash.io.folder import load_info, load_part, load_tokenizer, part_config
from inkwash.train.config import DenoiserRun
from inkwash.train.features import TextPart, read_codec, read_text
from inkwash.value import parse


class Start(NamedTuple):
    """The codec and the text of a run, and the weights of its network and of its null condition; no weights means new ones."""

    codec: Codec
    text: TextPart | None
    network: Mapping[str, Tensor] | None = None
    null: Mapping[str, Tensor] | None = None


def read_start(config: DenoiserRun) -> Start:
    """Raises CheckpointError as `load_part` and `find_model` do, UsageError `bad_start` when the recipe and the model disagree, or when a
    text encoder is to be trained along and none is named.
    """
    if config.start is None:
        if config.train_text and config.text is None:
            raise UsageError("bad_start", "train_text trains a finished text encoder along; name one with --set text=DIR, or leave out train_text")
        return Start(read_codec(config.autoencoder), read_text(config.text))
    folder = find_model(config.start)
    info = load_info(folder)
    told = parse(info.coordinate, Coordinate) if info.coordinate else None  # type: ignore[type-abstract]
    for name, mine, its in (("network", config.network, part_config(folder, info.network)), ("process", repr(config.process), info.process),
                            ("prediction", repr(config.prediction), info.prediction), ("sigma_data", config.sigma_data, info.sigma_data),
                            ("coordinate", config.coordinate, told)):
        if mine != its:
            raise UsageError("bad_start", f"{name} of the recipe is {mine}, of {config.start} {its}; write the model's, or train without start")
    codec: Codec = Pixels()
    if info.codec == "latent":
        codec = Latent(load_part(folder, "vae"), info.mean, info.std, info.factor)  # type: ignore[arg-type]
    text = null = None
    if info.conditioning == "text":
        text = TextPart(load_tokenizer(folder, info.length), load_part(folder, "text_encoder").requires_grad_(False))
        null = load_part(folder, "conditioner").state_dict() if (folder / "conditioner").is_dir() else None
    return Start(codec, text, load_part(folder, info.network).state_dict(), null)
