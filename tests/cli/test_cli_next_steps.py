"""A command that a message names as the next step exists, with its options."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App

from inkwash.cli.main import COMMANDS, run

SOURCE = Path(__file__).parents[2] / "src" / "inkwash"


def _texts(tree: ast.AST) -> list[str]:
    """The texts of a file; what is filled in is X."""
    parts = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for inner in node.values}
    whole = ["".join(str(inner.value) if isinstance(inner, ast.Constant) else "X" for inner in node.values)
             for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    return whole + [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts]


def named() -> list[str]:
    """Every `inkwash COMMAND ...` in a text of the program, up to the end of the sentence."""
    found = {match for path in SOURCE.rglob("*.py") for text in _texts(ast.parse(path.read_text("utf-8")))
             for match in re.findall(rf"\binkwash ((?:{'|'.join(COMMANDS)})\b[^;:`\n]*)", text)}
    return sorted(found)


@cache
def _options(command: str) -> set[str]:
    app = App(name="inkwash")
    for name, (target, _) in COMMANDS.items():
        app.command(target, name=name)
    found = app[command]
    apps = [found, *(found[name] for name in found if not name.startswith("-"))]
    return {option for each in apps if each.default_command for argument in each.assemble_argument_collection() for option in argument.names}


@pytest.mark.parametrize("text", named())
def test_a_named_command_has_the_options_that_are_named(text: str) -> None:
    command, rest = re.fullmatch(r"(\w+)(.*)", text).groups()  # type: ignore[union-attr]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) <= _options(command) | {"--help", "--debug"}


def test_an_unknown_word_names_a_model_that_can_be_inspected(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "xylophone", "--model", str(tiny_model), "--steps", "1", "-o", str(tmp_path / "x.png")]) == 0
    assert "inkwash inspect FOLDER shows what it knows" in capsys.readouterr().err
