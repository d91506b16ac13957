"""What is said of pictures as sets: the autoencoder alone, distances to held-out pictures, and copies of training pictures.

All compare with pictures that training held out, by the bound in the model's card. Copies are looked for kind by kind, among samples of captions
that training had, since an emoji's name has one picture and a garment's caption has many.
"""

from __future__ import annotations

import mini_emoji
import mini_garments
import torch
from mini_bench import Bench
from mini_result import Row

from inkwash.data.item import Source
from inkwash.evaluate.collect import Samples
from inkwash.evaluate.measure import METRICS, Views, distances, measure, require_enough
from inkwash.evaluate.memory import Memory, memory
from inkwash.evaluate.metrics.interval import mean_interval, proportion
from inkwash.evaluate.parts import Reconstructed, reconstructed
from inkwash.evaluate.split import Split

PSNR_GOAL = 27.0
SHOWN = ("fd", "fd_at_n", "kid", "precision", "recall", "density", "coverage")
SHARES = ("precision", "recall", "coverage")


def sources(bench: Bench) -> dict[str, list[Source]]:
    """The data of each kind."""
    return {"emoji": [bench.emoji], "garments": [bench.clothing], **({"scenes": list(bench.scenes)} if bench.scenes else {})}


def everything(bench: Bench) -> Split:
    return bench.split([source for parts in sources(bench).values() for source in parts])


def rebuilt(bench: Bench, source: Source) -> Reconstructed:
    return reconstructed(bench.pipeline, bench.real(source), bench.extractor, bench.worker)


def autoencoder(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    """PSNR of all held-out pictures, whatever `num`: they are few."""
    apart = {name: bench.split(parts).held_out for name, parts in sources(bench).items()}
    found = {name: rebuilt(bench, source).psnr for name, source in apart.items() if source is not None and len(source) > 1}
    goals = {"all kinds": PSNR_GOAL}
    rows = [Row(f"PSNR, mean of {name}", mean_interval(psnr, note=f"{float(psnr.min()):.1f} dB at worst"), goals.get(name), "dB")
            for name, psnr in {"all kinds": torch.cat(list(found.values())), **found}.items()]
    return rows, [f"pictures that training held out, {everything(bench).rule}; no denoiser takes part"]


def frechet(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    """Samples of the captions of held-out pictures against these pictures, and whose error the distance is."""
    reference = everything(bench).reference("held-out")
    require_enough(num, len(reference))
    real = Views(bench.features(bench.real(reference), "features of held-out pictures"))
    made = bench.samples([reference.caption(i) for i in range(len(reference))], num, "samples of held-out captions")
    fake = Views(bench.features(made.pictures, "features of samples"))
    found, back = measure(real, fake), rebuilt(bench, reference).features
    rows = [Row(METRICS[name].title, found[name], unit="%" if name in SHARES else "", smaller=METRICS[name].smaller_is_better) for name in SHOWN]
    for what, pair in (("held-out pictures to themselves after the autoencoder", (real.features, back)),
                       ("these to samples, so the denoiser's alone", (back, fake.features))):
        rows.append(Row(f"Fréchet distance at this N, {what}", distances(*pair)["fd_at_n"], unit="", smaller=True))
    return rows, [f"{num} samples against {len(reference)} held-out pictures, which are few for {bench.extractor.dim} features"]


def of_kinds(bench: Bench, num: int) -> dict[str, Samples]:
    """Samples of captions that training had. Not of drawn scenes: among thousands that are alike the search finds no planted copy."""
    return {"emoji": mini_emoji.judged(bench, num).samples, "garments": mini_garments.judged(bench, num).samples}


def memories(bench: Bench, num: int) -> dict[str, tuple[Samples, Memory]]:
    """Each kind's samples and what was found; kinds with too few training pictures are not there."""
    found = {}
    for name, made in of_kinds(bench, num).items():
        sampled = bench.features(made.pictures, f"features of {name}")
        one = memory(bench.pipeline, bench.split(sources(bench)[name]), made.pictures, sampled, bench.extractor, bench.worker, bench.size)
        if one is not None:
            found[name] = made, one
    return found


def copies(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    rows, notes = [], []
    for name, (_, one) in memories(bench, num).items():
        rows += [Row(f"{name}: near-copies", one.found.share), Row(f"{name}: near-copies above chance", one.found.excess),
                 Row(f"{name}: of planted copies found", one.canaries)]
        notes.append(f"{name}: a near-copy has a ratio of distances below {one.found.threshold:.3f}, as at most {100 * one.rate:.1f} % of fresh "
                     "pictures have")
    redrawn = mini_emoji.exact(mini_emoji.judged(bench, num))
    rows.append(Row("emoji: the nearest real one is that of the very name, so redrawn from memory", proportion(sum(redrawn), len(redrawn))))
    return rows, [*notes, "an emoji's name has one picture, so a right emoji is that picture drawn again. Few count as near-copies, since a fresh "
                          "emoji is as near to its fellows in other skin tones; the last row says it plainly"]
