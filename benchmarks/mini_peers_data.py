"""The pictures that all contestants get, and those that none gets: as `inkwash train` splits and orders them, read from its caches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mini_peers_recipes import SIZE, Contestant
from quality_peers import Recipe
from quality_train import Examples
from torch import Tensor

from inkwash.data.heldout import hold_out
from inkwash.data.item import Source
from inkwash.data.source import open_source
from inkwash.data.transform import decode, fit
from inkwash.io.find import find_model
from inkwash.train.config import RunConfig, read_recipe
from inkwash.train.features import Features, read_codec, read_text
from inkwash.train.setting import Setting

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = (str(FOLDER / "emoji.parquet"), str(FOLDER / "clothing-train.parquet"), "scenes:3000")
DROP = 0.1                                                 # of captions, for contestants that are guided


class Data(NamedTuple):
    """`names` as `inkwash train --data` takes them, `count` the number held out, `cache` the folder that all runs share, `parts` the model whose
    autoencoder and text encoder are given."""

    names: tuple[str, ...]
    count: int
    cache: Path
    parts: str

    def split(self) -> tuple[Source, Source]:
        """(training, held out)."""
        training, apart = hold_out(open_source(list(self.names)), self.count)
        if apart is None:
            raise SystemExit("no picture is held out: the data are fewer than ten")
        return training, apart

    def config(self, batch: int) -> RunConfig:
        return read_recipe("mini-denoiser", [f"batch={batch}", f"data.size={SIZE}", f"data.validation={self.count}", "data.flip=false"])

    def setting(self, out: Path) -> Setting:
        return Setting(self.split()[0], None, self.cache, out, torch.device("cpu"))

    def same(self) -> str:
        """What must not change between a training and its measurement."""
        return json.dumps([self.split()[0].fingerprint, self.parts])


def captions(source: Source) -> list[str]:
    return [source.caption(i) for i in range(len(source))]


def pictures(source: Source, count: int) -> Tensor:
    """uint8 (n, 3, SIZE, SIZE): pictures of the source spread evenly, at most `count`."""
    places = torch.linspace(0, len(source) - 1, min(count, len(source))).long().tolist()
    return torch.stack([fit(decode(source[i], hint=SIZE), (SIZE, SIZE), "crop") for i in places])


def prepare(data: Data, folder: Path) -> None:
    """Decodes and draws all pictures once, which nobody's clock counts."""
    data.setting(folder).loader(data.config(1), data.split()[0], "train", flip=False).close()


def examples(data: Data, contestant: Contestant, folder: Path) -> Callable[[Recipe], Examples]:
    """What a peer trains on, none of it mirrored: pixels in -1..1, or latents, with the vectors of its tokens where it reads captions."""

    def of_pixels(recipe: Recipe) -> Examples:
        loader = data.setting(folder).loader(data.config(recipe.batch), data.split()[0], "train", flip=False)
        return lambda number: ((loader.batch(number).images.float() / 127.5 - 1).to(memory_format=torch.channels_last),)

    def of_latents(recipe: Recipe) -> Examples:
        parts = find_model(data.parts)
        features = Features(data.config(recipe.batch), data.setting(folder), read_codec(parts), read_text(parts) if contestant.told else None)
        if not contestant.told:
            return lambda number: (features.batch(number)[0].to(memory_format=torch.channels_last),)
        empty = features.told([""])["tokens"]                                           # (1, L, D)

        def drawn(number: int) -> tuple[Tensor, ...]:
            x0, cond, _ = features.batch(number)
            keep = torch.rand(len(x0)) >= DROP
            return x0.to(memory_format=torch.channels_last), torch.where(keep[:, None, None], cond["tokens"], empty)

        return drawn

    return of_pixels if contestant.group == "nothing" else of_latents
