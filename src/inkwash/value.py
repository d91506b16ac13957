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
import types
import typing
import warnings
from typing import Any, ClassVar, TypeVar

from inkwash.errors import UsageError

V = TypeVar("V", bound="Value")
_classes: dict[str, type[Value]] = {}
_hints: dict[type, dict[str, Any]] = {}
DEEPEST = 24  # levels of nesting that a text may have; no value comes near


class Value:
    """Base of all configuration values. Subclasses are `@dataclass(frozen=True)`, and their fields literals, Values or tuples of these."""

    aliases: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        other = _classes.get(cls.__name__)
        assert other is None or (other.__qualname__ == cls.__qualname__ and other.__module__ == cls.__module__), f"two Values named {cls.__name__}"
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
    """Every concrete subclass of `base`, and `base` itself if it is concrete, by class name."""
    return {name: cls for name, cls in sorted(_classes.items()) if issubclass(cls, base) and _concrete(cls)}


def _concrete(cls: type[Value]) -> bool:
    return "__dataclass_fields__" in cls.__dict__ and not inspect.isabstract(cls) and not cls.__name__.startswith("_")


def alias_table(base: type[V]) -> dict[str, V]:
    """Every short name of a subclass of `base`, with the Value it stands for. Across kinds (`base` = Value) only names of one meaning."""
    table: dict[str, V] = {}
    shared: set[str] = set()
    for cls in registry(base).values():
        for name, settings in cls.__dict__.get("aliases", {}).items():
            assert name not in table or base is Value, f"two Values called {name}"
            shared |= {name} & set(table)
            table[name] = cls(**settings)
    return {name: value for name, value in sorted(table.items()) if name not in shared}


def names(base: type[Value]) -> list[str]:
    """Short names first, then class names: what may stand in a text."""
    return [*alias_table(base), *registry(base)]


def parse(text: str, base: type[V]) -> V:
    """The Value that `text` describes: `ddim`, `DDIM(eta=0.5)` or `ddim(eta=0.5)`. Raises UsageError `bad_value` or `unknown_name`."""
    if not isinstance(text, str):
        raise UsageError("bad_value", f"a {base.__name__.lower()} is read from text, got {type(text).__name__}; write a name or Name(field=value)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError("bad_value", f"cannot read {text[:80]!r} as a {base.__name__.lower()}; "
                                      f"write a name or Name(field=value); known: {', '.join(names(base))}") from None
    if _deeper(tree, DEEPEST):
        raise UsageError("bad_value", f"{text[:80]!r} nests deeper than {DEEPEST} levels; write a name or Name(field=value)")
    value = _build(tree, base, text)
    if not isinstance(value, base):
        raise UsageError("bad_value", f"{text[:80]!r} is not a {base.__name__.lower()}; known: {', '.join(names(base))}")
    return value


def _deeper(tree: ast.AST, limit: int) -> bool:
    """True if the tree has more than `limit` levels. Does not recurse, whatever the text."""
    layer: list[ast.AST] = [tree]
    for _ in range(2 * limit):  # a keyword argument is a level of its own
        layer = [child for node in layer for child in ast.iter_child_nodes(node)]
    return bool(layer)


def _lookup(name: str, base: type[Value]) -> tuple[type[Value], dict[str, Any]]:
    classes = registry(base)
    if name in classes:
        return classes[name], {}
    table = alias_table(base)
    if name in table:
        cls = type(table[name])
        return cls, cls.__dict__["aliases"][name]
    near = difflib.get_close_matches(name, names(base), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names(base))}"
    raise UsageError("unknown_name", f"no {base.__name__.lower()} is called {name[:60]!r}; {hint}")


def hints(cls: type[Value]) -> dict[str, Any]:
    """The type of every field. Names that only a function knows are Any."""
    if cls not in _hints:
        try:
            found = typing.get_type_hints(cls)
        except NameError:
            found = {}
        _hints[cls] = {field.name: found.get(field.name, Any) for field in _fields(cls)}
    return _hints[cls]


def _kind(hint: Any) -> type[Value] | None:
    """The kind of Value that a field holds, alone or in a tuple; None where it holds none."""
    if inspect.isclass(hint) and issubclass(hint, Value):
        return hint
    return Value if hint is Any else next((kind for part in typing.get_args(hint) if (kind := _kind(part))), None)


def _build(node: ast.expr, base: type[Value] | None, text: str) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _build(operand, None, text)
            if isinstance(inner, int | float):
                return -inner
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_build(item, base, text) for item in items)
        case ast.Name(id=name) if base is not None:
            cls, settings = _lookup(name, base)
            return _make(cls, dict(settings), text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if base is not None:
            cls, settings = _lookup(name, base)
            return _make(cls, {**settings, **_arguments(cls, args, keywords, text)}, text)
    raise UsageError("bad_value", f"cannot read {ast.unparse(node)[:60]!r} in {text[:80]!r}; "
                                  "only numbers, strings, tuples and names of Values are allowed")


def _arguments(cls: type[Value], args: list[ast.expr], keywords: list[ast.keyword], text: str) -> dict[str, Any]:
    allowed = list(hints(cls))
    if len(args) > len(allowed):
        raise UsageError("bad_value", f"{cls.__name__} takes at most {len(allowed)} values, got {len(args)} in {text[:80]!r}")
    given: dict[str, Any] = {}
    for name, node in [*zip(allowed, args), *((keyword.arg, keyword.value) for keyword in keywords)]:
        if name not in allowed:
            raise UsageError("bad_value", f"{cls.__name__} has no field {str(name)[:60]!r}; its fields are {', '.join(allowed) or 'none'}")
        if name in given:
            raise UsageError("bad_value", f"{cls.__name__} got {name!r} twice in {text[:80]!r}; give it once")
        given[name] = _build(node, _kind(hints(cls)[name]), text)
    return given


def _fit(value: Any, hint: Any) -> Any:
    """The value as the type says, an integer made float where a float is meant. Raises TypeError."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (value is None and hint is type(None)):
        return value
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            try:
                return _fit(value, part)
            except TypeError:
                continue
    elif origin is tuple and isinstance(value, tuple):
        wanted = (parts[0],) * len(value) if parts[1:] == (...,) else parts
        if len(wanted) == len(value):
            return tuple(map(_fit, value, wanted))
    elif origin is typing.Literal and value in parts:
        return value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif inspect.isclass(hint) and isinstance(value, hint) and (type(value) is not bool or hint is bool):
        return value
    raise TypeError(f"{_text(value)[:60]} is not {getattr(hint, '__name__', hint)}")


def _make(cls: type[Value], settings: dict[str, Any], text: str) -> Value:
    try:
        for name, value in settings.items():
            try:
                settings[name] = _fit(value, hints(cls)[name])
            except TypeError as error:
                raise TypeError(f"{cls.__name__}.{name}: {error}") from None
        return cls(**settings)
    except UsageError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError("bad_value", f"{text[:80]!r}: {error}") from error
