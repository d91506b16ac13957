"""`inkwash`: the commands, and one way for all of them to fail.

Commands are registered by name and imported when they run, so that help needs neither torch nor a model. A mistake of the user ends in
one line on stderr and an exit code that says its kind; anything else that is raised is a bug, reported as such and with a traceback only
on request. Telemetry of the libraries below is switched off before any of them is imported.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from inkwash._version import __version__
from inkwash.errors import InkwashError, InkwashWarning, ResourceError, UsageError

QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
         "GRADIO_ANALYTICS_ENABLED": "False", "RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True", "WANDB_MODE": "offline",
         "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

# Threads that wait for one another spin first. By default so long that two programs with as many threads as cores each stop one another.
PATIENCE = {"GOMP_SPINCOUNT": "20000"}

# What is wrong with a path that a user gave, where nothing nearer to it has said so.
PATHS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

AGAIN_SEC = 3.0

COMMANDS = {
    "generate": ("inkwash.cli.generate:generate", "Make pictures from a sentence."),
    "reproduce": ("inkwash.cli.reproduce:reproduce", "Make the picture of a PNG again and compare the pixels."),
    "grid": ("inkwash.cli.grid:grid", "Make a labelled sheet over one or two settings."),
    "inspect": ("inkwash.cli.inspect:inspect", "Show what a model is made of and what it knows."),
    "list": ("inkwash.cli.list:list_", "List samplers, spacings, schedules, predictions, guidances, networks or models."),
    "verify": ("inkwash.cli.verify:verify", "Check samplers and schedules against exact answers, ours or another library's, or a model."),
    "train": ("inkwash.cli.train:train", "Train a model by a recipe; the same command again resumes."),
    "evaluate": ("inkwash.cli.evaluate:evaluate", "Measure how good a model is, with intervals, curves and pictures."),
    "serve": ("inkwash.cli.serve:serve", "Serve models over HTTP, as the OpenAI client expects."),
    "plan": ("inkwash.cli.plan:plan", "Predict workers, latency, memory and cost for a traffic, and prove it on a live server."),
    "data": ("inkwash.cli.data:app", "Check or make training data."),
}


def build(plain: bool) -> Any:
    """The cyclopts app with every command, none of them imported; plain help is quicker, for it needs no drawing."""
    from cyclopts import App

    text = "Text to images by diffusion. Every command takes --debug, for the traceback of an error."
    app = App(name="inkwash", help=text, version=__version__, help_format="plaintext", help_formatter="plain" if plain else "default",
              suppress_keyboard_interrupt=False, result_action="return_value")
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=line)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    debug = "--debug" in _options(arguments)
    words = [word for i, word in enumerate(arguments) if word != "--debug" or i >= len(_options(arguments))]
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _show  # type: ignore[assignment]
            code = _call(words)
        sys.stdout.flush()
        return code
    except InkwashError as error:
        return _fail(error, debug)
    except KeyboardInterrupt:
        _say("inkwash: interrupted")
        return 130
    except BrokenPipeError:
        return _closed()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich, which draws the help, ends the process by itself
            return _closed()
        raise
    except Exception as error:
        return _fail(_known(error), debug) if _known(error) else _bug(error, debug)


def _closed() -> int:
    """Whoever read stdout has left: what is unwritten goes nowhere, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


def _options(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before `--`."""
    return arguments[: list(arguments).index("--")] if "--" in arguments else arguments


def _call(words: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    app = build(plain=not words or words[0].startswith("-"))
    if not words:
        app.help_print([])
        return 0
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
        raise UsageError("usage", f"there is no command {words[0][:60]!r}; {hint} see inkwash --help")
    try:
        result = app(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = next((word for word in words[:1] if word in COMMANDS), "")
        text = " ".join(str(error).split()).rstrip(".")
        text = f"{text[:1].lower()}{text[1:]}{_hint(words, text)}"
        raise UsageError("usage", f"{text}; see inkwash {command + ' ' if command else ''}--help") from error
    return result if isinstance(result, int) else 0


def _hint(words: Sequence[str], text: str) -> str:
    """What a newcomer's prompt lacks: quotes around its words, or `--` before its dash."""
    if text.startswith("Unused Tokens"):
        return '; put a text of several words into quotes: "a b c"'
    dashed = next((word for word in words[1:] if word.startswith("-") and " " in word and "=" not in word), None)
    return "" if dashed is None else f"; a text that begins with a dash stands last, behind --, as in: inkwash {words[0]} -- {dashed[:60]!r}"


def _known(error: Exception) -> InkwashError | None:
    """What an exception of the machine means to a user."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error).lower():
        return ResourceError("out_of_memory", f"not enough memory: {str(error)[:160]}; ask for a smaller size or fewer images at once")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = "standard output" if error.filename is None else f'"{error.filename}"'
        return ResourceError("disk_full", f"no space left: {where}; free some space and run again")
    if isinstance(error, OSError) and error.errno in PATHS and error.filename is not None:
        return UsageError("bad_path", f'cannot use "{str(error.filename)[:200]}": {error.strerror}; give another path, or set this one right')
    return None


def _fail(error: InkwashError | None, debug: bool) -> int:
    assert error is not None
    if debug:
        traceback.print_exc()
    _say(error.line())
    return error.exit_code


def _bug(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    _say(f"inkwash: error[bug]: {text} ({os.path.basename(frame.filename)}:{frame.lineno}); this is a mistake in inkwash; "
         "run again with --debug for the traceback and report it")
    return 1


def print_json(value: object) -> None:
    """One line of JSON on stdout: characters as they are where stdout takes them, else escaped, so that it is JSON in every locale."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=True)


def _show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Warnings for users on one line; those of libraries are for programmers and shown with --debug only."""
    if issubclass(category, InkwashWarning):
        warn(str(message))


def warn(text: str) -> None:
    """One warning line on stderr."""
    _say(f"inkwash: warning: {' '.join(text.split())[:400]}")


def _say(line: str) -> None:
    print(line.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)


def _listen() -> None:
    """Ctrl-C and SIGTERM end the command. Python drops what is raised while a callback of the interpreter runs, as many do during imports, so a
    signal comes again until it is heard."""
    again = getattr(signal, "SIGALRM", None)
    asked = signal.SIGTERM

    def end(number: int, frame: object) -> NoReturn:
        nonlocal asked
        if number != again:
            asked = signal.Signals(number)
        if again is not None:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SEC)
        raise KeyboardInterrupt if asked == signal.SIGINT else SystemExit(128 + asked)

    for number in (signal.SIGINT, signal.SIGTERM, again):
        if number is not None:
            signal.signal(number, end)


def _standard() -> None:
    """Output that was closed goes nowhere, and a path or word that its encoding lacks is written with escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def main() -> NoReturn:
    """The entry point."""
    for name, value in {**QUIET, **PATIENCE}.items():
        os.environ.setdefault(name, value)
    _listen()
    _standard()
    try:
        code = run(sys.argv[1:])
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(code)
