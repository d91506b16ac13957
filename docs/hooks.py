"""Tables of the documentation that are made from the code when the pages are built, so that they cannot go stale.

A line `{{ registry KIND }}` becomes a table of everything registered of that kind: name, value, order where there is one, source.
`{{ errors }}` becomes the table of exit codes, `{{ recipes }}` the shipped recipes, `{{ settings CLASS }}` the keys of a part of a recipe,
`{{ tasks }}` those of every task, `{{ model NAME }}` the facts of an embedded model, `{{ errata }}` the mistakes of the articles.
The source of a part is what its docstring cites; where it cites nothing, the papers whose row in the bibliography names it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

_SOURCE = re.compile(r"\s*\(((?:[^()]|\([^()]*\))*[A-Z](?:[^()]|\([^()]*\))*\b(?:19|20)\d\d[a-z]?\b(?:[^()]|\([^()]*\))*)\)")
_CITED = re.compile(r"[A-Z][a-z-]+(?:(?:,| &| and) [A-Z][a-z-]+| et al\.),? (?:19|20)\d\d[a-z]?")
_ARXIV = re.compile(r"(?:arXiv:? ?)?\b(\d{4}\.\d{4,5})\b")
_MARK = re.compile(r"^\{\{ (\w+)(?: (\w+))? \}\}$", re.M)


def on_page_markdown(markdown: str, page: Any, **rest: Any) -> str:
    """Fills in the marks of one page and links arXiv numbers of the bibliography; called by mkdocs."""
    if page.file.src_uri.endswith("bibliography.md"):
        markdown = re.sub(r"\| (\d{4}\.\d{4,5}) \|", r"| [\1](https://arxiv.org/abs/\1) |", markdown)
    return _MARK.sub(lambda found: MARKS[found[1]](*filter(None, [found[2]])), markdown)


def kinds() -> dict[str, type[Any]]:
    """The kinds of parts that the reference lists."""
    import inkwash.sample
    from inkwash.core.coordinate import Coordinate
    from inkwash.core.prediction import Prediction
    from inkwash.core.schedule import Schedule
    from inkwash.core.spacing import Spacing
    from inkwash.guide.adjust import Adjustment
    from inkwash.guide.guidance import Guidance
    from inkwash.guide.strength import Strength
    from inkwash.io.folder import register_networks
    from inkwash.nn.config import NetworkConfig
    from inkwash.serve.policy import Policy
    from inkwash.train.levels import Levels
    from inkwash.train.weighting import Weighting

    register_networks()
    return {"samplers": inkwash.sample.Sampler, "spacings": Spacing, "schedules": Schedule, "predictions": Prediction, "guidances": Guidance,
            "adjustments": Adjustment, "strengths": Strength, "coordinates": Coordinate, "levels": Levels, "weightings": Weighting,
            "networks": NetworkConfig, "policies": Policy}


def registry_table(kind: str) -> str:
    """A Markdown table of every part of a kind; samplers with the order that they claim."""
    from inkwash.value import alias_table, registry

    base = kinds()[kind]
    short: dict[str, list[tuple[str, Any]]] = {}
    for name, value in alias_table(base).items():
        short.setdefault(type(value).__name__, []).append((name, value))
    ordered = kind == "samplers"
    lines = [_row(["name", "value", *(["order"] if ordered else []), "what it is", "source"]), _row(["---"] * (5 if ordered else 4))]
    for name, cls in registry(base).items():
        about = [first_sentence(cls), source_of(cls)]
        for alias, value in sorted(short.get(name, [("", None)]), key=lambda item: (len(repr(item[1])), item[0])):
            order = [str(value.order or "-") if value is not None else "-"] if ordered else []
            lines.append(_row([f"`{alias}`" if alias else "", f"`{value!r}`" if value is not None else f"`{name}(...)`", *order, *about]))
            about = ["", ""]
    return "\n".join(lines)


def first_sentence(cls: type[Any]) -> str:
    """The first sentence of a docstring, without brackets of sources."""
    text = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    return _cell(re.split(r"(?<=[a-z0-9)`])\. (?=[A-Z`])", _SOURCE.sub("", text))[0].strip().rstrip("."))


def source_of(cls: type[Any]) -> str:
    """Authors, year and arXiv number, linked: from the docstring of the class, else from the bibliography; "" where neither names any."""
    text = inspect.getdoc(cls) or ""
    found = _SOURCE.search(text) or _CITED.search(text)
    if found:
        cited = " ".join(found[found.lastindex or 0].split())
        if not _ARXIV.search(cited):
            cited += "".join(f", {paper.arxiv}" for paper in bibliography() if cls.__name__ in paper.parts and paper.year in cited)
    else:
        cited = "; ".join(f"{paper.authors}, {paper.arxiv}" for paper in bibliography() if cls.__name__ in paper.parts)
    return _cell(_ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", cited))


class Paper(NamedTuple):
    """A row of the bibliography; `parts` are the classes that it names."""

    authors: str
    arxiv: str
    parts: frozenset[str]

    @property
    def year(self) -> str:
        """The four digits."""
        return re.findall(r"\d{4}", self.authors)[-1]


@cache
def bibliography() -> tuple[Paper, ...]:
    """The papers of reference/bibliography.md."""
    lines = (Path(__file__).parent / "reference" / "bibliography.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if re.match(r"\| .* \| \d{4}\.\d+ \| ", line)]
    return tuple(Paper(authors, arxiv, frozenset(re.findall(r"`([A-Z]\w+)`", what))) for authors, arxiv, _, what in rows)


def error_table() -> str:
    """Exit codes, from the classes of errors."""
    import inkwash.errors as errors

    found = sorted((cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.InkwashError)
                    and cls is not errors.InkwashError), key=lambda cls: cls.exit_code)
    rows = [("0", "", "Success."), ("1", "", "A mistake in inkwash itself; run again with `--debug` and report it."),
            *((str(cls.exit_code), f"`{cls.__name__}`", inspect.getdoc(cls) or "") for cls in found),
            ("130", "", "Interrupted by Ctrl-C."), ("143", "", "Ended by SIGTERM.")]
    return "\n".join([_row(["exit code", "exception", "meaning"]), _row(["---"] * 3), *map(_row, rows)])


def register_tasks() -> None:
    """Imports the tasks that stand above `train` and add themselves to it."""
    import inkwash.distill

    for item in pkgutil.iter_modules(inkwash.distill.__path__):
        importlib.import_module(f"inkwash.distill.{item.name}")


def recipe_table() -> str:
    """The recipes that ship with the package."""
    register_tasks()
    from inkwash.train.config import read_recipe, recipe_folder, recipe_names

    lines = [_row(["recipe", "task", "steps", "batch", "what it trains"]), _row(["---"] * 5)]
    for name in recipe_names():
        config = read_recipe(name)
        comment = (recipe_folder() / f"{name}.yaml").read_text("utf-8").partition("\n")[0]
        lines.append(_row([f"`{name}`", config.task, str(config.steps), str(config.batch), _cell(comment.lstrip("# "))]))
    return "\n".join(lines)


def settings_table(name: str) -> str:
    """The keys of one part of a recipe, with type, limits and default; those that every run has are left out of the tasks."""
    import inkwash.train.config as config

    cls = getattr(config, name, None) or next(kind for kind in config.RunConfig.__subclasses__() if kind.__name__ == name)
    common = config.RunConfig.model_fields if issubclass(cls, config.RunConfig) and cls is not config.RunConfig else {}
    lines = [_row(["key", "kind", "default"]), _row(["---"] * 3)]
    for key, field in cls.model_fields.items():
        if key in common or (inspect.isclass(field.annotation) and issubclass(field.annotation, config.Strict)):
            continue
        kind = _kind(field.annotation, field.metadata)
        lines.append(_row([f"`{key}`", _cell(kind), "required" if field.is_required() else f"`{field.default!r}`"]))
    return "\n".join(lines)


def tasks_text() -> str:
    """A section for each task: what its docstring says, and the keys that only it has."""
    import inkwash.train.config as config

    register_tasks()
    found = {typing.get_args(cls.model_fields["task"].annotation)[0]: cls for cls in config.RunConfig.__subclasses__()}
    return "\n\n".join(f"### task: {task}\n\n{inspect.getdoc(cls)}\n\n{settings_table(cls.__name__)}" for task, cls in sorted(found.items()))


def _kind(hint: Any, about: Any = ()) -> str:
    """A type and its limits as a person would say them; a list of so many things in brackets, as it is written."""
    from inkwash.train.config import _pattern

    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if any("Serializer" in type(item).__name__ for item in about):
        return "text of a value"
    if origin is Annotated:
        return _kind(parts[0], [inner for item in parts[1:] for inner in getattr(item, "metadata", [item])])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        kinds = [_kind(part) for part in parts if part is not ...]
        return f"[{', '.join(kinds)}]" if parts[1:] != (...,) else f"list of {kinds[0]}" + "s" * (not kinds[0].startswith("["))
    if origin in (Union, types.UnionType):
        return ", or ".join(map(_kind, parts))
    if origin is dict:
        return f"mapping of {_kind(parts[0])} to {_kind(parts[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "folder", type(None): "nothing"}
    name = "regular expression" if any(getattr(item, "func", None) is _pattern for item in about) else names.get(hint, str(hint))
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{sign} {getattr(item, word)}" for item in about for word, sign in signs.items() if hasattr(item, word)]
    return " ".join([name, " and ".join(limits)]).strip()


def model_table(name: str) -> str:
    """Facts of an embedded model, read from its folder, below its picture where images/NAME.png exists. For pages one folder down."""
    from inkwash.io.find import MODELS, known_models, read_info

    if name not in known_models():
        return f"This build of the package does not hold the model `{name}`."
    from inkwash.cli.inspect import parts_of
    from inkwash.io.folder import model_hash

    info, parts = read_info(MODELS / name), parts_of(MODELS / name)
    facts = {"parameters": f"{sum(part['parameters'] for part in parts):,}",
             "size of all weights": f"{sum(part['bytes'] for part in parts) / 2**20:.1f} MiB",
             "process": f"`{info.process}`", "prediction": f"`{info.prediction}`", "latent channels": str(info.channels),
             "latent side": f"1/{info.factor} of the image's", "image sizes": str(info.sizes),
             "default settings": ", ".join(f"{key} {value}" for key, value in vars(info.defaults).items()),
             "words in its captions": f"{len(info.vocabulary):,}", "hash": f"`{model_hash(MODELS / name)[:16]}`"}
    rows = [*facts.items(), *((f"part `{part['part']}`", f"{part['parameters']:,} parameters, {part['dtype']}; `{part['config']}`")
                              for part in parts)]
    picture = [f"![Pictures by {name}](../images/{name}.png)", ""] if (Path(__file__).parent / "images" / f"{name}.png").is_file() else []
    return "\n".join([*picture, _row(["fact", "value"]), _row(["---"] * 2), *map(_row, rows)])


def errata_text() -> str:
    """A section for each mistake of the articles; tests run the checks of the same list."""
    import sys

    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from errata import ARTICLES, ERRATA

    kinds = {"code": "computed", "fact": "compared with a cited fact, looked up in November 2026",
             "unread": "compared with a cited fact that we could look up at second hand only"}
    lines = [_row(["article", "what it is", "mistakes"]), _row(["---"] * 3)]
    lines += [_row([key, what, str(sum(entry.article == key for entry in ERRATA))]) for key, what in ARTICLES.items()]
    for entry in ERRATA:
        lines += ["", f"## {entry.number}. {entry.topic[0].upper()}{entry.topic[1:]}", "",
                  _row([f"article {entry.article}", _cell(entry.says)]), _row(["---"] * 2), _row(["wrong, because", _cell(entry.why)]),
                  _row(["right", _cell(entry.instead)]),
                  _row(["source", _cell(_ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", entry.source))]),
                  _row(["checked", kinds[entry.kind]])]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that stays in its cell and keeps its formulas."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([*_])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


MARKS: dict[str, Callable[..., str]] = {
    "registry": registry_table, "errors": error_table, "recipes": recipe_table, "settings": settings_table, "tasks": tasks_text, "model": model_table,
    "errata": errata_text}
