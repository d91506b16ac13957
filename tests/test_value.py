"""Values: `parse(repr(v)) == v` for the whole registry, and texts that are hostile, misspelt or of the wrong kind."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import types
import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inkwash
from inkwash.core.prediction import EDM, Eps, Prediction
from inkwash.core.schedule import Linear, Schedule, Shifted, Tabulated
from inkwash.errors import UsageError
from inkwash.guide import CFG, DynamicThreshold, Guidance, Interval, Rescale
from inkwash.value import Value, alias_table, parse, registry

WITHOUT_VALUES = ("inkwash.cli", "inkwash.__main__")
for module in pkgutil.walk_packages(inkwash.__path__, "inkwash."):
    if not module.name.startswith(WITHOUT_VALUES):
        importlib.import_module(module.name)
CLASSES = list(registry(Value).values())


def alternatives(kind: Any) -> st.SearchStrategy[Any]:
    """Field values of a type: what a person could write, and what a dataclass would have to refuse."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([alternatives(arg) for arg in args])
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return st.lists(alternatives(args[0]), max_size=4).map(tuple)
        return st.tuples(*(alternatives(arg) for arg in args))
    if origin is typing.Literal:
        return st.sampled_from(args)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        float: st.one_of(st.floats(allow_nan=False), st.floats(0.01, 1), st.floats(1, 64)),
        int: st.one_of(st.integers(), st.integers(1, 64)),
        bool: st.booleans(), str: st.text(max_size=12), type(None): st.none(),
    }
    if kind in simple:
        return simple[kind]
    if inspect.isclass(kind) and issubclass(kind, Value):
        return st.one_of([values(cls) for cls in registry(kind).values() if not nests(cls)]).filter(lambda value: value is not None)
    return st.nothing()


def nests(cls: type[Value]) -> bool:
    """True if a field holds another Value, so that building one might never end."""
    parts = [part for hint in hints(cls).values() for part in (hint, *typing.get_args(hint))]
    return any(inspect.isclass(part) and issubclass(part, Value) for part in parts)


def hints(cls: type[Value]) -> dict[str, Any]:
    found = typing.get_type_hints(cls)
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]


@st.composite
def values(draw: st.DrawFn, cls: type[Value]) -> Value | None:
    """A value of the class, or None where its own checks refuse the fields that were drawn."""
    chosen = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        strategy = alternatives(hints(cls)[field.name])
        if not strategy.is_empty and (required or draw(st.booleans())):
            chosen[field.name] = draw(strategy)
    try:
        return cls(**chosen)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        return None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_text_is_the_inverse_of_repr(cls: type[Value], data: st.DataObject) -> None:
    value = data.draw(values(cls))
    if value is not None:
        assert parse(repr(value), Value) == value
        assert parse(repr(value), cls) == value
        assert parse(str(value), cls) == value
        assert hash(parse(repr(value), cls)) == hash(value)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_value_is_frozen_documented_and_has_the_shared_repr(cls: type[Value]) -> None:
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert cls.__repr__ is Value.__repr__, "write @dataclass(frozen=True, repr=False)"
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "a docstring, not the one dataclass makes"


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if all(
    field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING for field in dataclasses.fields(cls))],
    ids=lambda cls: cls.__name__)
def test_defaults_are_valid(cls: type[Value]) -> None:
    assert parse(cls.__name__, cls) == cls() == parse(f"{cls.__name__}()", cls)


def bases() -> list[type[Value]]:
    """Kinds of value: the direct subclasses of Value that have subclasses of their own or short names."""
    return [cls for cls in Value.__subclasses__() if cls.__module__.startswith("inkwash.")]


@pytest.mark.parametrize("base", bases(), ids=lambda cls: cls.__name__)
def test_short_names_are_unique_and_read_back(base: type[Value]) -> None:
    for name, value in alias_table(base).items():
        assert parse(name, base) == value
        assert parse(str(value), base) == value


def test_short_names_may_carry_fields() -> None:
    assert parse("cosine_floor", Schedule) == parse("DiscreteCosine(floor=0.0001)", Schedule)
    assert parse("cosine_floor(num_steps=50)", Schedule) == parse("DiscreteCosine(floor=0.0001, num_steps=50)", Schedule)


def test_values_nest() -> None:
    text = "CFG(5, Interval(0.2, 5), then=(Rescale(0.7), DynamicThreshold(0.9)))"
    expected = CFG(5.0, Interval(0.2, 5.0), then=(Rescale(0.7), DynamicThreshold(0.9)))
    assert parse(text, Guidance) == expected
    assert parse("Shifted(linear, 2)", Schedule) == Shifted(Linear(), 2.0)
    assert parse("edm(2)", Prediction) == EDM(2.0)


def test_numbers_keep_every_bit() -> None:
    odd = math.nextafter(0.1, 1)
    assert parse(repr(Tabulated((odd, 5e-324))), Schedule) == Tabulated((odd, 5e-324))


def test_repr_names_only_what_differs() -> None:
    assert repr(Linear()) == "Linear()"
    assert repr(Linear(beta_end=0.03)) == "Linear(beta_end=0.03)"
    assert str(Linear()) == "linear"


HOSTILE = [
    "", " ", "(", ")", "()", "[]", "{}", "0", "None", "'linear'", "linear;linear", "linear\nlinear", "linear linear", "\0", "linear\0",
    "__import__('os').system('true')", "().__class__.__bases__[0]", "Linear.__init__()", "Linear.betas", "lambda: 0", "[x for x in ()]",
    "Linear(beta_end=__import__('os'))", "Linear(beta_end=1 if 1 else 2)", "Linear(beta_end=2**9)", "Linear(num_steps=10**10**10)",
    "Linear(**{'beta_end': 1})", "Linear(*(1, 2))", "Linear(1, beta_start=2)", "Linear(beta_end=1, beta_end=2)", "Linear(1, 2, 3, 4)",
    "Linear(beta_ned=0.02)", "Linear(beta_end=f'{1}')", "Linear(beta_end=b'1')", "Linear(beta_end=1j)", "Linear(beta_end=...)",
    "Linear(beta_end={1})", "Linear(beta_end=x)", "Linear()()", "(Linear)()()", "linear=1", "x:=1", "eval('1')", "Value()", "Schedule()",
    "Linear(beta_end=" + "1" * 400 + ")", "Linear(beta_end=" + "1" * 5000 + ")", "Eps", "eps", "CFG()", "Linear(" * 60, "é" * 50,
    "Shifted(" * 150 + "linear" + ")" * 150, "(" * 5000 + ")" * 5000, "Linear(beta_end=" + "-" * 5000 + "1)", "Linear(beta_end=" + "~" * 3000 + "1)",
    "not " * 3000 + "linear", "-" * 100_000 + "1", "linear" + ".x" * 3000, "linear" + "()" * 3000, "'" * 9999,
    "Linear(beta_end='" + "a" * 10**6 + "')",
    "Tabulated((" + "(" * 150 + ")" * 150 + "))", "Tabulated((" + "(" * 40 + "0.1," + ",)" * 40 + "))", "\ud800", "1" + "+1" * 3000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_hostile_text_is_one_line_of_refusal(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, Schedule)
    assert caught.value.code in ("bad_value", "unknown_name", "bad_schedule")
    assert len(caught.value.line()) <= 400
    assert "\n" not in caught.value.line()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="linearDDIMCFG()=,.'\"-_0123456789[]{}:*+ \t\n", max_size=40))
def test_any_text_is_a_value_or_a_refusal(text: str) -> None:
    try:
        value = parse(text, Schedule)
    except UsageError:
        return
    assert isinstance(value, Schedule)


def test_a_misspelt_name_is_told_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*scaled_linear"):
        parse("scaled_liner", Schedule)


def test_a_misspelt_field_is_told_the_fields() -> None:
    with pytest.raises(UsageError, match=r"no field 'scael'.*scale"):
        parse("CFG(scael=5)", Guidance)


def test_a_value_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError):
        parse("DDIM()", Schedule)
    assert parse("eps", Prediction) == Eps()


def test_mutable_fields_have_no_text() -> None:
    with pytest.raises(TypeError, match="tuples"):
        repr(Tabulated([0.1]))  # type: ignore[arg-type]
