"""How near the contestants' pictures are to pictures that none of them has seen, in the shipped features: distances, precision and recall.

Each contestant is sampled with its averaged and with its last weights where both are kept, and with several guidances where it reads captions; the
kernel distance of the first CHOICE pictures says which of these is measured. Distances of few pictures are too large for all alike, so every one
has as many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mini_peers_ours
from mini_bench import by_hash
from mini_peers_data import Data, captions, pictures
from mini_peers_recipes import CONTESTANTS, GROUPS, LATENTS, SIZE, Contestant, same_pixels
from quality_measure import features, sheet
from quality_sample import Model, Way, of_diffusers, of_lucidrains, ours
from quality_sample import pictures as sampled
from quality_train import about
from torch import Tensor

from inkwash.codec import Pixels
from inkwash.condition import NoConditioner, TextConditioner
from inkwash.evaluate.measure import METRICS, Views, measure, require_enough
from inkwash.evaluate.metrics.interval import Estimate
from inkwash.evaluate.metrics.kernel import kernel_statistic
from inkwash.io.find import find_model
from inkwash.train.features import read_codec, read_text

CHOICE = 100
GUIDANCES = (1.0, 2.0, 3.0)
SHOWN = ("fd_at_n", "fd", "kid", "precision", "recall")


class Entry(NamedTuple):
    """What a contestant has trained: its weights under a word each, and the cost of that."""

    name: str
    weights: dict[str, Path]
    minutes: float
    steps: int
    images: int
    note: str = ""

    @property
    def contestant(self) -> Contestant:
        return CONTESTANTS[self.name]


def entries(folder: Path, minutes: float) -> list[Entry]:
    """Those that are done with this budget."""
    found = []
    for name, contestant in CONTESTANTS.items():
        if contestant.recipe is None:
            stages = mini_peers_ours.FROM_NOTHING if contestant.group == "nothing" else mini_peers_ours.GIVEN_PARTS
            home = folder / f"{name}-{minutes:g}"
            spent = mini_peers_ours.spent(home, stages)
            if spent:
                note = ", ".join(f"{stage} {one['seconds'] / 60:.1f} min" for stage, one in spent.items())
                last = spent["denoiser"]
                found.append(Entry(name, {"average": home / "denoiser" / "model"}, sum(one["seconds"] for one in spent.values()) / 60,
                                   int(last["steps"]), int(last["images"]), note if len(spent) > 1 else ""))
            continue
        weights = {"average": folder / f"{name}-{minutes:g}.safetensors", "last": folder / f"{name}.last-{minutes:g}.safetensors"}
        if all(path.exists() for path in weights.values()):
            facts = about(weights["last"])
            found.append(Entry(name, weights, float(facts["seconds"]) / 60, int(facts["step"]), int(facts["images"])))
    return found


def model(entry: Entry, weights: Path, data: Data) -> Model:
    """The contestant with these weights."""
    contestant = entry.contestant
    if contestant.recipe is None:
        return ours(weights)
    parts = find_model(data.parts)
    codec = Pixels() if contestant.group == "nothing" else read_codec(parts)
    if contestant.library == "lucidrains":
        return of_lucidrains(weights, contestant.recipe().network, codec, SIZE)
    text = read_text(parts) if contestant.told else None
    conditioner = TextConditioner(text.tokenizer, text.encoder, None) if text is not None else NoConditioner()
    return of_diffusers(weights, LATENTS if contestant.told else same_pixels(), codec, conditioner, SIZE)


class Bench(NamedTuple):
    """What every contestant is measured with; `prompts` are the captions of the pictures that `whose` names."""

    folder: Path
    data: Data
    way: Way
    whose: str
    prompts: list[str]
    real: Tensor

    def made(self, entry: Entry, word: str, way: Way, count: int) -> tuple[Tensor, Tensor]:
        """(pictures, features) of `count` samples."""
        weights = entry.weights[word]
        key = f"{entry.name}-{entry.minutes:.2f}-{word}-{way.sampler}-{way.steps}-{way.guidance:g}-{self.whose}"
        images = sampled(functools.partial(model, entry, weights, self.data), way, self.prompts, count, self.folder / "samples" / key)
        return images, features(images, self.folder / "samples" / f"{key}-{count}.features.safetensors")[0]

    def ways(self, entry: Entry) -> list[tuple[str, Way]]:
        guidances = GUIDANCES if entry.contestant.told else (1.0,)
        return [(word, self.way._replace(guidance=guidance)) for word in entry.weights for guidance in guidances]

    def chosen(self, entry: Entry, count: int) -> tuple[str, Way, str]:
        """The way of least kernel distance among the first pictures, and what was compared."""
        ways = self.ways(entry)
        if len(ways) == 1:
            return *ways[0], ""
        few = min(CHOICE, count)
        kid = {one: kernel_statistic(self.real, self.made(entry, *one, few)[1]).value for one in ways}
        best = min(kid, key=lambda one: kid[one])
        return *best, ", ".join(f"{word} weights, guidance {way.guidance:g}: {value:.4f}" for (word, way), value in kid.items())

    def row(self, entry: Entry, count: int, word: str, way: Way, compared: str = "") -> dict[str, Any]:
        """A line of the result; writes a sheet of its first pictures."""
        images, found = self.made(entry, word, way, count)
        sheet(images, 10, 4, 1).save(self.folder / f"{entry.name}-{self.whose}.png")
        return {"name": entry.name, "group": entry.contestant.group, "captions": self.whose if entry.contestant.told else "none",
                "minutes": round(entry.minutes, 2), "steps": entry.steps, "images_seen": entry.images, "weights": word,
                "guidance": way.guidance, "note": entry.note, "compared": compared, **shown(measure(Views(self.real), Views(found)))}


def shown(found: dict[str, Estimate]) -> dict[str, Any]:
    return {name: {key: round(getattr(found[name], key), 5) for key in ("value", "low", "high", "num")} for name in SHOWN}


def results(data: Data, folder: Path, count: int, way: Way, minutes: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Rows of all that are done, as many training pictures for scale, and the ratios."""
    training, apart = data.split()
    require_enough(count, len(apart), ("fd", "precision"))
    real, extractor = features(pictures(apart, len(apart)), folder / f"held-out-{len(apart)}.features.safetensors")
    bench = Bench(folder, data, way, "held-out", by_hash(captions(apart)), real)
    other = bench._replace(whose="training", prompts=by_hash(captions(training)))
    rows = []
    for entry in entries(folder, minutes):
        word, best, compared = bench.chosen(entry, count)
        for one in (bench, other) if entry.contestant.told else (bench,):
            rows.append(one.row(entry, count, word, best, compared if one is bench else ""))
            tell(f"{entry.name}, captions {rows[-1]['captions']}: Frechet distance {rows[-1]['fd_at_n']['value']:.1f}")
    floor = features(pictures(training, count), folder / f"training-{count}.features.safetensors")[0]
    return {"extractor": extractor, "num": count, "held_out": len(apart), "training": len(training), "way": f"{way.sampler}, {way.steps} steps",
            "rows": rows, "real": shown(measure(Views(real), Views(floor))),
            "ratios": {group: found for group in GROUPS if (found := ratio([row for row in rows if row["group"] == group]))}}


def ratio(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Our distance as a part of the better peer's, at this N and carried to infinity; nothing without one of ours and one of theirs.

    `worst` is that of the ends of both intervals, at this N.
    """
    mine = [row for row in rows if CONTESTANTS[row["name"]].library == "inkwash" and row["captions"] == "held-out"]
    theirs = [row for row in rows if CONTESTANTS[row["name"]].library != "inkwash" and row["captions"] != "training"]
    if not mine or not theirs:
        return {}
    peer = min(theirs, key=lambda row: row["fd_at_n"]["value"])
    parts = {name: round(mine[0][name]["value"] / max(peer[name]["value"], 1e-9), 3) for name in SHOWN[:2]}
    worst = round(mine[0]["fd_at_n"]["high"] / max(peer["fd_at_n"]["low"], 1e-9), 3)
    return {"peer": peer["name"], "peers": len(theirs), **parts, "worst": worst}


def page(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    on = found["machine"]
    lines = ["# The embedded model's task, beside two peers", ""]
    for group, at in found["ratios"].items():
        lines += [f"**{GROUPS[group][0].upper()}{GROUPS[group][1:]}: inkwash has {at['fd_at_n']:.2f} of the Fréchet distance of "
                  f"{'the better peer' if at['peers'] > 1 else 'the only peer'}, {at['peer']}** (at worst {at['worst']:.2f} by both intervals; "
                  f"{at['fd']:.2f} carried to infinitely many pictures; the goal is 0.5 at most).", ""]
    titles = [METRICS[name].title for name in SHOWN]
    lines += [f"| contestant | minutes | steps | pictures seen | captions | weights | guidance | {' | '.join(titles)} |",
              "|---" * (7 + len(SHOWN)) + "|"]
    for group, title in GROUPS.items():
        rows = [row for row in found["rows"] if row["group"] == group]
        lines += [f"| *{title}* |" + " |" * (6 + len(SHOWN))] if rows else []
        for row in rows:
            lines.append(f"| {row['name']} | {row['minutes']:.1f} | {row['steps']:,} | {row['images_seen']:,} | {row['captions']} | "
                         f"{row['weights']} | {row['guidance']:g} | {numbers(row)} |")
    lines += [f"| training pictures, as a floor | | | | | | | {numbers(found['real'])} |", "",
              f"- {found['num']} pictures of each against {found['held_out']} held-out ones; "
              f"{found['training']} to train on; {found['way']}, trailing",
              f"- features: {found['extractor']}; intervals: 95 %"]
    for row in found["rows"]:
        lines += [f"- {row['name']}: {row['note']}"] if row["note"] and row["captions"] != "training" else []
        lines += [f"- {row['name']}, kernel distances of the first {min(CHOICE, found['num'])}: {row['compared']}"] if row["compared"] else []
    lines += [*[f"- {note}" for note in found["notes"]],
              f"- {on['date']}, {on['processor']}, {on['cores']} core(s), {on['threads']} thread(s), load {on['load']}; `{on['command']}`",
              f"- {', '.join(f'{name} {version}' for name, version in on['versions'].items())}"]
    return "\n".join(lines) + "\n"


def numbers(row: dict[str, Any]) -> str:
    """The cells of a row."""
    return " | ".join(f"{row[name]['value']:.4g} [{row[name]['low']:.4g}, {row[name]['high']:.4g}]" for name in SHOWN)


