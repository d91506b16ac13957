"""`inkwash train RECIPE --data PATH --out DIR`."""

from __future__ import annotations

import shlex
import sys
import threading
from typing import Annotated

from cyclopts import Parameter

from inkwash.errors import UsageError


def train(
    recipe: str,
    /,
    *,
    data: Annotated[list[str], Parameter(negative=())],
    out: str,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    resume: str | None = None,
    replay: str | None = None,
    cache: str | None = None,
    accept_changes: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Train a part: an autoencoder, a text encoder, a denoiser, a classifier.

    Running the same command again goes on where it stopped.

    Parameters
    ----------
    recipe
        The name of a shipped recipe, or the path of a YAML file.
    data
        A Parquet file, a folder of images with captions, or tar shards; repeat it for more, PATH*3 counts one three times.
    out
        The folder of the run: checkpoints, log, samples, and at the end the finished part in DIR/model.
    set
        key=value, or key.sub=value, on top of the recipe; repeat it for more.
    resume
        A checkpoint folder to go on from, instead of the newest good one in --out.
    replay
        A diverged-* folder: computes the losses of that one step, sample by sample, and stops.
    cache
        A folder for decoded pixels, latents and tokens, to be shared by several runs; DIR/cache unless given.
    accept_changes
        Go on although settings or data differ from those that the run was started with.
    quiet
        Say nothing but errors.
    """
    from inkwash.io.path import as_path
    from inkwash.recipes.preview import check_sample, preview
    from inkwash.train.config import read_recipe
    from inkwash.train.run import replay as replay_run
    from inkwash.train.run import train as run

    if not recipe:
        raise UsageError("unknown_recipe", "name a recipe")
    config = read_recipe(recipe, set or ())
    check_sample(config.sample)
    folder, shared = as_path(out, "--out"), None if cache is None else as_path(cache, "--cache")
    if replay is not None:
        if resume is not None:
            raise UsageError("usage", "--replay looks at one step and --resume goes on; give one of both")
        for key, loss in replay_run(config, data, folder, as_path(replay, "--replay"), cache=shared,
                                     accept_changes=accept_changes):
            print(f"{loss:12.6g}  {key}")
        return 0
    threading.excepthook = _quiet
    command = ["inkwash", "train", recipe, *[word for path in data for word in ("--data", path)], "--out", out]
    command += [word for setting in set or () for word in ("--set", setting)] + (["--cache", cache] if cache is not None else [])
    result = run(config, data, folder, resume=None if resume is None else as_path(resume, "--resume"), accept_changes=accept_changes,
                 command=command, quiet=quiet, cache=shared, preview=preview)
    if result.stopped and not quiet:
        print(f"stopped at step {result.step} of {config.steps} and saved; go on with: {shlex.join(command)}", file=sys.stderr)
    return 128 + result.stopped if result.stopped else 0


def _quiet(details: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own: what stops it, such as a full disk, is raised again where the run writes next."""
    if not isinstance(details.exc_value, OSError):
        threading.__excepthook__(details)
