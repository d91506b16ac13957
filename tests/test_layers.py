"""The house: which part may import which, how long a file may be, and what no file may contain."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "inkwash"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = sorted(path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py"))
TEXTS = EVERYTHING + sorted(path for folder in ("docs", "benchmarks") for path in (ROOT / folder).rglob("*.md")) + sorted(ROOT.glob("*.md"))

ANYWHERE = {"errors", "value", "_version"}
MATHS = {"core", "cond"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(), "value": {"errors"}, "cond": set(), "_version": set(),
    "core": {"core"},
    "sample": {"sample", *MATHS},
    "guide": {"guide", *MATHS},
    "nn": {"nn"},
    "data": {"data", "io"},
    "denoiser": MATHS | {"nn"},
}
HIGH = {"pipeline", "train", "distill", "evaluate", "verify", "serve", "recipes", "cli", "interop"}
NEVER: dict[str, set[str]] = {
    "codec": HIGH, "condition": HIGH, "io": HIGH, "interop": HIGH - {"interop"},
    "pipeline": {"train", "distill", "verify", "serve", "recipes", "cli", "interop"},
    "train": {"sample", "pipeline", "distill", "verify", "serve", "recipes", "cli", "interop"},
    "distill": {"verify", "serve", "recipes", "cli", "interop"},
    "evaluate": {"train", "verify", "serve", "recipes", "cli", "interop"},
    "verify": {"train", "distill", "serve", "recipes", "cli", "interop"},
    "serve": {"train", "distill", "recipes", "cli", "interop"},
}
STEPS = {"collect", "curves", "measure", "memory", "parts", "bits", "store", "split"}
INSIDE: dict[str, set[str]] = {  # which parts of evaluate a part of evaluate may import
    "metrics": {"metrics"}, "extractors": {"extractors"}, "denoisers": {"denoisers"}, "judges": {"judges", "extractors"},
    **dict.fromkeys(STEPS, STEPS | {"metrics", "extractors", "denoisers"}),
    "run": STEPS | {"metrics", "extractors"}, "report": STEPS | {"report", "run", "metrics"},
}
ALONE: dict[str, set[str]] = {  # third-party packages that the lowest parts may use
    "errors": set(), "value": set(),
    "cond": {"torch"}, "core": {"torch"}, "sample": {"torch"}, "guide": {"torch"}, "nn": {"torch"}, "denoiser": {"torch"},
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part(path: Path) -> str:
    """The first folder or file below the package: `core`, `denoiser`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" if node.module == "inkwash" else str(node.module) for alias in node.names}
    return found


def inner(path: Path) -> set[str]:
    """Parts of the package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("inkwash.")}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_down(path: Path) -> None:
    own, used = part(path), inner(path)
    if own in ALLOWED:
        assert used <= ALLOWED[own] | ANYWHERE, f"{own} may import {sorted(ALLOWED[own] | ANYWHERE)}"
    assert not used & NEVER.get(own, set())
    if own != "cli" and own != "__main__":
        assert "cli" not in used, "the library imports the command line"


@pytest.mark.parametrize("path", sorted((PACKAGE / "evaluate").rglob("*.py")), ids=name)
def test_evaluation_flows_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE / "evaluate").parts[0].removesuffix(".py")
    used = {module.split(".")[2] for module in imports(path) if module.startswith("inkwash.evaluate.")}
    assert used <= (INSIDE[own] if own != "__init__" else set())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_low_parts_use_torch_alone(path: Path) -> None:
    if part(path) in ALONE:
        third = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {"inkwash", "__future__"}
        assert third <= ALONE[part(path)]


def test_the_rules_speak_of_parts_that_exist() -> None:
    parts = {part(path) for path in SOURCES}
    assert {"errors", "value", "cond", "core", "sample", "guide", "nn", "denoiser"} <= parts
    assert (set(ALLOWED) | set(ALONE)) <= parts


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_say_what_they_are(path: Path) -> None:
    if tree(path).body and path.name != "_version.py":
        assert ast.get_docstring(tree(path)), "a module starts with its theory"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_unpickled(path: Path) -> None:
    modules = imports(path)
    assert not {module.split(".")[0] for module in modules} & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert "torch.serialization" not in modules
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in ("load", "save", "package"), f"line {node.lineno}: torch.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert not {alias.name for alias in node.names} & {"load", "save", "package", "serialization"}, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}: allow_pickle"
            assert node.value.value is False, f"line {node.lineno}: allow_pickle"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"line {node.lineno}: {node.func.id}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_argument_is_tunnelled(path: Path) -> None:
    """A function that takes `**anything` swallows misspelt arguments; only `__init_subclass__` has to."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg is not None:
            assert getattr(node, "name", "lambda") == "__init_subclass__", f"line {node.lineno}: **{node.args.kwarg.arg}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            empty = all(isinstance(line, ast.Pass) for line in node.body)
            assert not (broad and empty), f"line {node.lineno}: every error is ignored"


MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|data|scratch|private)/\w|(?<![\w.])/tmp/\w|[A-Z]:\\\\Users")


@pytest.mark.parametrize("path", [path for path in TEXTS if path != Path(__file__)], ids=name)
def test_no_path_of_one_machine(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = MACHINE.search(line)
        assert found is None, f"line {number}: {found[0]}" if found else ""
