"""Is the space of the extractor `ink` fit to compare pictures in? Four questions, each with an answer that is known.

Damage: the Frechet distance of real pictures from other real pictures must rise with every kind of damage, step by step. Sets: it must rise
when kinds of pictures go missing, and when foreign ones are mixed in. Copies: the nearest emoji of a damaged emoji must be that emoji. Words:
garments that training did not see are named by the linear head and by their neighbours, and their colours by the rule.

    python benchmarks/features.py --emoji FILE --clothing FILE [--cifar FILE] [--model mini] [--extractor ink] [--out NAME]
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import harness
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from inkwash.companion import class_of
from inkwash.data.heldout import rank
from inkwash.data.source import open_source
from inkwash.data.transform import decode, fit
from inkwash.evaluate.extractors.features import Extractor
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.evaluate.extractors.network import embedded
from inkwash.evaluate.judges.garments import COLOURS, garments, names_color, names_garment
from inkwash.evaluate.metrics.frechet import distance
from inkwash.evaluate.metrics.interval import proportion

SIZE, HALF, QUERIES = 128, 800, 300
Damage = Callable[[Tensor], Tensor]


def read(path: str, size: int = SIZE, rows: int | None = None) -> tuple[Tensor, list[str], list[str]]:
    """Pictures uint8 (N, 3, size, size), captions, keys; `rows` spreads over the file."""
    source = open_source([path])
    chosen = range(len(source)) if rows is None else range(0, len(source), max(1, len(source) // rows))
    images = torch.stack([fit(decode(source[i], hint=size), size) for i in chosen])
    return images, [source.caption(i) for i in chosen], [source.key(i) for i in chosen]


def blur(sigma: float) -> Damage:
    def damage(images: Tensor) -> Tensor:
        steps = torch.arange(-12, 13).float()
        kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, -1)
        values = F.pad(images.float(), (12, 12, 12, 12), mode="replicate")
        values = F.conv2d(F.conv2d(values, kernel[:, :, None], groups=3), kernel[..., None], groups=3)
        return values.round().clamp(0, 255).byte()

    return damage


def noise(sigma: float) -> Damage:
    return lambda images: (images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(5))).round().clamp(0, 255).byte()


def jpeg(quality: float) -> Damage:
    def one(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=int(quality))
        return fit(Image.open(file).convert("RGB"), (image.shape[1], image.shape[2]))

    return lambda images: torch.stack([one(image) for image in images])


def tint(shift: float) -> Damage:
    return lambda images: (images + shift * torch.tensor([1.0, -0.5, -0.5])[:, None, None]).round().clamp(0, 255).byte()


def small(side: float) -> Damage:
    def damage(images: Tensor) -> Tensor:
        few = F.interpolate(images.float(), (int(side), int(side)), mode="bicubic", antialias=True, align_corners=False)
        return F.interpolate(few, tuple(images.shape[-2:]), mode="bicubic", align_corners=False).round().clamp(0, 255).byte()

    return damage


def crop(part: float) -> Damage:
    def damage(images: Tensor) -> Tensor:
        size = images.shape[-1]
        side = round(part * size)
        top, left = (size - side) // 3, 2 * (size - side) // 3
        cut = images[..., top : top + side, left : left + side].float()
        return F.interpolate(cut, (size, size), mode="bicubic", align_corners=False).round().clamp(0, 255).byte()

    return damage


def shift(pixels: float) -> Damage:
    """White comes in at the sides."""
    by = int(pixels)
    return lambda images: F.pad(images, (by, 0, by, 0), value=255)[..., : images.shape[-2], : images.shape[-1]]


def round_trip(model: str) -> Damage:
    """Through the autoencoder of a model and back."""
    from inkwash.pipeline import Pipeline

    codec = Pipeline.from_pretrained(model).codec

    @torch.inference_mode()
    def damage(images: Tensor) -> Tensor:
        return torch.cat([codec.decode(codec.encode(part)) for part in images.split(16)])

    return damage


DAMAGES: dict[str, tuple[Callable[[float], Damage], tuple[float, ...]]] = {
    "blur, sigma in pixels": (blur, (0.5, 1, 2)), "noise, sigma of 255": (noise, (5, 10, 20)), "JPEG quality": (jpeg, (80, 50, 20)),
    "red shift of 255": (tint, (8, 16, 32)), "enlarged from pixels": (small, (96, 64, 48)),
    "middle part of the side": (crop, (0.9, 0.8, 0.7)),
}
COPIES: dict[str, Damage] = {
    "shift by 6 pixels": shift(6), "crop to 90 %": crop(0.9), "noise 10": noise(10), "noise 25": noise(25), "blur 1": blur(1), "blur 2": blur(2),
    "JPEG 50": jpeg(50), "red shift 16": tint(16), "enlarged from 64": small(64),
}


def curve(levels: Iterable[Any], values: list[float]) -> dict[str, Any]:
    return {"levels": list(levels), "fd": values, "rises": all(a < b for a, b in itertools.pairwise(values))}


def fd(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return round(distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()), 4)


def damage_curves(extractor: Extractor, reference: Tensor, other: Tensor, names: Iterable[str] = tuple(DAMAGES)) -> dict[str, Any]:
    clean, start = extractor(reference), extractor(other)
    base, found = fd(clean, start), {}
    for name in names:
        make, levels = DAMAGES[name]
        values = [base] + [fd(clean, extractor(make(level)(other))) for level in levels]
        found[name] = curve([None, *levels], values)
    return found


def set_curves(features: Tensor, labels: list[str], foreign: Tensor) -> dict[str, Any]:
    """`features` in random order: the first half is the reference, and sets of one size are drawn from the second."""
    half = len(features) // 2
    reference, rest, names = features[:half], features[half:], labels[half:]
    order = sorted(set(names))
    count = half // 4
    found: dict[str, Any] = {}
    kept = {0: order, 2: order[:-2], 4: order[:-4], 6: order[:-6], 8: order[:-8]}
    pools = [torch.tensor([i for i, name in enumerate(names) if name in allowed]) for allowed in kept.values()]
    count = min(count, *map(len, pools))
    values = [fd(reference, rest[pool[:count]]) for pool in pools]
    found["kinds of garments that are missing, of 10"] = curve(kept, values)
    shares = (0, 0.1, 0.25, 0.5, 1.0)
    values = [fd(reference, torch.cat([rest[: count - round(share * count)], foreign[: round(share * count)]])) for share in shares]
    found["share of foreign pictures"] = curve(shares, values)
    return found


def copies(extractor: Extractor, emoji: Tensor, gallery: Tensor, captions: list[str], unseen: list[int],
           damages: dict[str, Damage]) -> dict[str, Any]:
    """Share of emoji whose nearest picture, by Euclidean distance among all emoji, is the undamaged original, or has its name but for skin tone."""
    plain = [re.sub(r":.*", "", caption) for caption in captions]
    found = {}
    for name, damage in damages.items():
        nearest = torch.cdist(extractor(damage(emoji[unseen])).double(), gallery.double()).argmin(1).tolist()
        exact = proportion(sum(a == b for a, b in zip(nearest, unseen)), len(unseen))
        glyph = proportion(sum(plain[a] == plain[b] for a, b in zip(nearest, unseen)), len(unseen))
        found[name] = {"same_picture": exact._asdict(), "same_glyph": glyph._asdict()}
    return found


def words(images: Tensor, captions: list[str], features: Tensor, unseen: list[int]) -> dict[str, Any]:
    classes = garments()
    truth = [class_of(caption, classes) for caption in captions]
    seen = sorted(set(range(len(images))) - set(unseen))
    named = names_garment(images[unseen])
    near = torch.cdist(features[unseen].double(), features[seen].double()).topk(5, largest=False).indices
    votes = [[truth[seen[int(i)]] for i in row] for row in near]
    voted = [max(vote, key=lambda label, vote=vote: (vote.count(label), -vote.index(label))) for vote in votes]  # type: ignore[misc]
    colours = [next(word for word in sorted(COLOURS, key=len, reverse=True) if re.search(rf"photo of an? {word}\b", captions[i])) for i in unseen]
    ruled = names_color(images[unseen])
    right = {"garment, linear head": [name == classes[truth[i]] for name, i in zip(named, unseen)],  # type: ignore[index]
             "garment, 5 nearest training photos": [vote == truth[i] for vote, i in zip(voted, unseen)],
             "colour, rule against caption": [a == b for a, b in zip(ruled, colours)]}
    return {name: proportion(sum(hits), len(hits))._asdict() for name, hits in right.items()}


def report(found: dict[str, Any]) -> str:
    about = found["about"]
    lines = ["# The extractor ink", "", f"{about['date']}, {about['processor']}, {about['cores']} cores, torch {about['versions']['torch']}.", "",
             f"Weights sha256 `{found['extractor']['hash']}`, {found['extractor']['dim']} numbers a picture.", "",
             f"`{about['command']}`; everything is in the JSON file of the same name.", "",
             f"{found['speed']['images_per_second']} pictures/s in float32 on {found['speed']['threads']} thread(s).", ""]
    for title, curves in found["curves"].items():
        lines += [f"## Frechet distance: {title}", "", "| what changes | level: distance | rises at every step |", "|---|---|---|"]
        for name, row in curves.items():
            pairs = ", ".join(f"{'none' if level is None else level}: {value:.4g}" for level, value in zip(row["levels"], row["fd"]))
            lines.append(f"| {name} | {pairs} | {'yes' if row['rises'] else 'no'} |")
        lines.append("")
    lines += ["## The nearest of all emoji to a damaged one", "", "| damage | the same picture | the same glyph in any skin tone |", "|---|---|---|"]
    share = "{value:.3f} [{low:.3f}, {high:.3f}]".format_map
    lines += [f"| {name} | {share(row['same_picture'])} | {share(row['same_glyph'])} |" for name, row in found["copies"].items()]
    lines += ["", f"Of {found['queries']} emoji that training did not see, among {found['gallery']}; 95 % intervals.", "",
              "## Garments that training did not see", "", "| what | share that agrees | pictures |", "|---|---|---|"]
    lines += [f"| {name} | {share(row)} | {row['num']} |" for name, row in found["words"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("emoji", "clothing"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cifar")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--extractor", default="ink")
    parser.add_argument("--out", default="benchmarks/2026-11-21-features")
    asked = parser.parse_args()
    extractor = load_extractor(asked.extractor)
    bound = json.loads((embedded() / "features.json").read_text("utf-8"))["card"]["held_out"]
    emoji, emoji_captions, emoji_keys = read(asked.emoji)
    clothing, clothing_captions, clothing_keys = read(asked.clothing)
    start = time.perf_counter()
    gallery, photos = extractor(emoji), extractor(clothing)
    speed = (len(emoji) + len(clothing)) / (time.perf_counter() - start)
    shuffled = torch.randperm(len(emoji) + len(clothing), generator=torch.Generator().manual_seed(0))
    mixed = torch.cat([emoji, clothing])[shuffled]
    order = torch.randperm(len(clothing), generator=torch.Generator().manual_seed(1))
    kinds = [str(class_of(clothing_captions[int(i)], garments())) for i in order]
    foreign = gallery[torch.randperm(len(emoji), generator=torch.Generator().manual_seed(2))]
    curves = {"damage to emoji and photos": damage_curves(extractor, mixed[:HALF], mixed[HALF : 2 * HALF]),
              "sets of photos of garments": set_curves(photos[order], kinds, foreign)}
    if asked.cifar:
        tiny = read(asked.cifar, 32, 2 * HALF)[0]
        few = ("noise, sigma of 255", "JPEG quality", "red shift of 255")
        curves["damage to CIFAR-10 pictures of 32 pixels, which training did not see"] = damage_curves(extractor, tiny[::2], tiny[1::2], few)
    unseen = [i for i, key in enumerate(emoji_keys) if rank(key) <= bound][:QUERIES]
    damages = {**COPIES, f"autoencoder of {asked.model} and back": round_trip(asked.model)}
    found = {"about": harness.machine(), "extractor": {"name": extractor.name, "hash": extractor.hash, "dim": extractor.dim},
             "speed": {"images_per_second": round(speed, 1), "threads": torch.get_num_threads()}, "curves": curves,
             "copies": copies(extractor, emoji, gallery, emoji_captions, unseen, damages), "queries": len(unseen), "gallery": len(emoji),
             "words": words(clothing, clothing_captions, photos, [i for i, key in enumerate(clothing_keys) if rank(key) <= bound])}
    Path(f"{asked.out}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    Path(f"{asked.out}.md").write_text(report(found), "utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
