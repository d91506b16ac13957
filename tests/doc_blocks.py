"""What the tests of README and docs share: code blocks, commands and links of a Markdown page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)


def commands(page: Path) -> list[str]:
    """Lines of shell blocks that call inkwash, those under torchrun too, without the word inkwash."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    found = [re.match(r"(?:torchrun .*?--no-python )?inkwash (.*)", line) for line in lines]
    return [match[1] for match in found if match]


def links(text: str) -> list[str]:
    """Relative targets of links and pictures, without anchors; code is left out."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.S | re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target.partition("#")[0] for target in targets if not re.match(r"https?:|#", target)]


def check_command(command: str) -> None:
    """Parses a command line as the program would, without running it. Raises when a command, option or recipe is unknown."""
    from cyclopts import App

    from inkwash.cli.main import COMMANDS
    from inkwash.train.config import recipe_names

    words = shlex.split(command, comments=True)
    if words not in (["--help"], ["--version"]):
        app = App(name="inkwash")
        for name, (target, _) in COMMANDS.items():
            app.command(target, name=name)
        app.parse_args(words, exit_on_error=False, print_error=False)
        assert words[0] != "train" or words[1] in recipe_names(), f"no recipe {words[1]}"
