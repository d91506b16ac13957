"""Values: frozen dataclasses whose text is their config.

`repr(value)` names the class and every field that differs from its default; `parse(text, Base)` is the inverse. It reads the text as a
Python expression of literals and registered class names only and never evaluates anything. A subclass registers itself when it is
defined; `aliases` gives it short names, each with field values: `DPMSolverPP.aliases = {"dpmpp_2m_sde": {"sde": True}}`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
from typing import Any, ClassVar, TypeVar

from inkwash.errors import UsageError

V = TypeVar("V", bound="Value")
_classes: dict[str, type[Value]] = {}


class Value:
    """Base of all configuration values. Subclasses are `@dataclass(frozen=True)`, and their fields literals, Values or tuples of these."""

    aliases: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        other = _classes.get(cls.__name__)
        assert other is None or other.__qualname__ == cls.__qualname__ and other.__module__ == cls.__module__, f"two Values named {cls.__name__}"
        _classes[cls.__name__] = cls

    def __repr__(self) -> str:
        parts = [f"{field.name}={_text(getattr(self, field.name))}" for field in _fields(type(self))
                 if not _same(getattr(self, field.name), _default(field))]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        """The short name where one fits, else the whole text."""
        for name, settings in type(self).__dict__.get("aliases", {}).items():
            if type(self)(**settings) == self:
                return str(name)
        return repr(self)


def _fields(cls: type[Value]) -> tuple[dataclasses.Field[Any], ...]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    return tuple(field for field in dataclasses.fields(cls) if field.init)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_text, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list | dict | set):
        raise TypeError(f"a Value holds tuples, not {type(value).__name__}")
    return repr(value)


def registry(base: type[V]) -> dict[str, type[V]]:
    """Every concrete subclass of `base` by class name."""
    return {name: cls for name, cls in sorted(_classes.items())
            if issubclass(cls, base) and cls is not base and not inspect.isabstract(cls) and not name.startswith("_")}


def alias_table(base: type[V]) -> dict[str, V]:
    """Every short name of a subclass of `base`, with the Value it stands for."""
    table: dict[str, V] = {}
    for cls in registry(base).values():
        for name, settings in cls.__dict__.get("aliases", {}).items():
            assert name not in table, f"two Values called {name}"
            table[name] = cls(**settings)
    return dict(sorted(table.items()))


def names(base: type[Value]) -> list[str]:
    """Short names first, then class names: what may stand in a text."""
    return [*alias_table(base), *registry(base)]


def parse(text: str, base: type[V]) -> V:
    """The Value that `text` describes: `ddim`, `DDIM(eta=0.5)` or `ddim(eta=0.5)`. Raises UsageError `bad_value`."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError("bad_value", f"cannot read {text[:80]!r} as a {base.__name__.lower()}; "
                                      f"write a name or Name(field=value); known: {', '.join(names(base))}") from None
    value = _build(tree, base, text)
    if not isinstance(value, base):
        raise UsageError("bad_value", f"{text[:80]!r} is not a {base.__name__.lower()}; known: {', '.join(names(base))}")
    return value


def _lookup(name: str, base: type[Value]) -> tuple[type[Value], dict[str, Any]]:
    table = alias_table(base)
    if name in table:
        cls = type(table[name])
        return cls, cls.__dict__["aliases"][name]
    classes = registry(base)
    if name in classes:
        return classes[name], {}
    near = difflib.get_close_matches(name, names(base), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names(base))}"
    raise UsageError("unknown_name", f"no {base.__name__.lower()} is called {name[:60]!r}; {hint}")


def _build(node: ast.expr, base: type[Value], text: str) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _build(operand, base, text)
            if isinstance(inner, int | float):
                return -inner
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_build(item, Value, text) for item in items)
        case ast.Name(id=name):
            cls, settings = _lookup(name, base)
            return _make(cls, dict(settings), text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            cls, settings = _lookup(name, base)
            allowed = [field.name for field in _fields(cls)]
            if len(args) > len(allowed):
                raise UsageError("bad_value", f"{cls.__name__} takes at most {len(allowed)} values, got {len(args)} in {text[:80]!r}")
            given = {allowed[i]: _build(arg, Value, text) for i, arg in enumerate(args)}
            for keyword in keywords:
                if keyword.arg not in allowed:
                    raise UsageError("bad_value", f"{cls.__name__} has no field {keyword.arg!r}; its fields are {', '.join(allowed) or 'none'}")
                given[keyword.arg] = _build(keyword.value, Value, text)
            return _make(cls, {**settings, **given}, text)
    raise UsageError("bad_value", f"cannot read {ast.unparse(node)[:60]!r} in {text[:80]!r}; only numbers, strings, tuples and names of Values are allowed")


def _make(cls: type[Value], settings: dict[str, Any], text: str) -> Value:
    for field in _fields(cls):
        if field.name in settings and field.type in ("float", float) and type(settings[field.name]) is int:
            settings[field.name] = float(settings[field.name])
    try:
        return cls(**settings)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError("bad_value", f"{text[:80]!r}: {error}") from error
