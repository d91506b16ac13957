"""`inkwash list`: what there is to choose from, straight out of the registry."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from inkwash.cli.main import print_json
from inkwash.errors import UsageError

KINDS = ("samplers", "spacings", "schedules", "predictions", "guidances", "networks", "models")


def list_(kind: str | None = None, /, *, json: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> int:
    """List samplers, spacings, schedules, predictions, guidances, networks or models.

    Parameters
    ----------
    kind
        One of them; all when left out.
    json
        Print one JSON object.
    """
    if kind is not None and kind not in KINDS:
        from difflib import get_close_matches

        near = get_close_matches(kind, KINDS, n=1)
        raise UsageError("unknown_kind", f"cannot list {kind[:40]!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(KINDS)}")
    found = {name: entries(name) for name in ([kind] if kind else KINDS)}
    if json:
        print_json(found)
        return 0
    for name, items in found.items():
        print(f"{name}:")
        width = max((len(item["name"]) for item in items), default=0)
        for item in items:
            print(f"  {item['name']:<{width}}  {item['text']}")
    return 0


def entries(kind: str) -> list[dict[str, str]]:
    """Name, Value and first sentence of everything of a kind; a short name where there is one."""
    if kind == "models":
        from inkwash.io.find import MODELS, known_models, read_info

        return [{"name": name, "value": name, "text": str(read_info(MODELS / name).card.get("summary", ""))} for name in known_models()]
    from inkwash.value import alias_table, registry

    base = _base(kind)
    aliases = alias_table(base)
    short = {type(value) for value in aliases.values()}
    found = [{"name": name, "value": repr(value), "text": f"{value!r}: {_first(type(value))}"} for name, value in aliases.items()]
    return found + [{"name": name, "value": name, "text": _first(cls)} for name, cls in registry(base).items() if cls not in short]


def _base(kind: str) -> type[Any]:
    import inkwash.sample
    from inkwash.core.prediction import Prediction
    from inkwash.core.schedule import Schedule
    from inkwash.core.spacing import Spacing
    from inkwash.guide import Guidance
    from inkwash.io.folder import register_networks
    from inkwash.nn.config import NetworkConfig

    register_networks()
    return {"samplers": inkwash.sample.Sampler, "spacings": Spacing, "schedules": Schedule, "predictions": Prediction, "guidances": Guidance,
            "networks": NetworkConfig}[kind]


def _first(cls: type[Any]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())
