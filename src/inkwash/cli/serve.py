"""`inkwash serve`: an HTTP service of one or more models."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inkwash.errors import UsageError, install

Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def serve(*models: str, host: str | None = None, port: int | None = None, device: str | None = None, ray: bool | None = None,
          keys: Path | None = None, new_key: str | None = None, allow_host: Names = (), allow_origin: Names = (), policy: str | None = None,
          queue: int | None = None, db: str | None = None, files: str | None = None, deadline_sec: float | None = None,
          log_prompts: bool | None = None, config: Path | None = None) -> int:
    """Serve models over HTTP: the Images API of OpenAI.

    Prints the address. Only this machine can connect unless --keys and --host say otherwise. SIGTERM finishes what was accepted.

    Parameters
    ----------
    models
        Embedded models or folders; the first one is the default. mini when none is given.
    host
        Address to listen on, 127.0.0.1 by default; any but loopback needs --keys.
    port
        8000 by default; 0 takes a free one.
    device
        cpu, cuda, mps, auto, or several with commas: one worker process for each.
    ray
        Replicas of Ray Serve, on this machine or many, instead of worker processes of this machine.
    keys
        File of hashed API keys.
    new_key
        Adds a key of this name to the file of --keys, prints it once, and ends.
    allow_host
        A further name that the Host header may have.
    allow_origin
        A web page that may call, such as https://studio.example.org.
    policy
        Whose rows go first: first_come, shortest, deadline or fair.
    queue
        Images in work or waiting; more are refused.
    db
        Where jobs are kept: sqlite:///FILE, or postgresql://USER@HOST/NAME.
    files
        Where their pictures are kept: a folder, or s3://BUCKET/PREFIX.
    deadline_sec
        The longest that a client waits, when it does not say.
    log_prompts
        Write prompts into the log.
    config
        YAML file of settings; a flag wins over it.
    """
    _require(("fastapi", "uvicorn", "httptools", "prometheus_client", "python_multipart", "sqlalchemy", "alembic", "obstore"), "serve")
    from inkwash.serve.http.keys import new_key as make_key
    from inkwash.serve.http.server import serve as run
    from inkwash.serve.http.settings import load_settings

    flags = {"models": models or None, "host": host, "port": port, "device": device, "ray": ray, "keys": keys, "allow_hosts": allow_host or None,
             "allow_origins": allow_origin or None, "policy": policy, "queue": queue, "db": db, "files": files, "deadline_sec": deadline_sec,
             "log_prompts": log_prompts}
    settings = load_settings(config, flags)
    if new_key is not None:
        if settings.keys is None:
            raise UsageError("bad_keys", "--new-key needs --keys FILE, the file to add it to")
        print(make_key(settings.keys, new_key))
        return 0
    if settings.ray:
        _require(("ray",), "serve,ray")
    return run(settings, lambda address: print(f"inkwash: serving {', '.join(settings.models)} on {address}", flush=True))


def _require(packages: Sequence[str], extras: str) -> None:
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError("not_installed", f"inkwash serve needs the package {name}; {install(extras)}")
