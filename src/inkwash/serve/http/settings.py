"""What an operator decides, from a YAML file and the flags of `inkwash serve`; a flag wins over the file.

Safe by default: only loopback is listened on. Any other address needs keys, for whoever reaches the port could spend the machine.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from inkwash.errors import UsageError
from inkwash.io.path import as_path

KeyFile = Annotated[Path, BeforeValidator(lambda path: as_path(path, "the file of keys"))]


class Settings(BaseModel):
    """The configuration of a server; times in seconds, sizes in KiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = Field(("mini",), min_length=1, description="embedded models or folders; the first one is the default")
    device: str = Field("auto", description="cpu, cuda, mps, auto, or several with commas: one worker process for each model and device; "
                                             "those on one device share its cores, cpu,cpu has two on half of them each")
    ray: bool = Field(False, description="replicas of Ray Serve, on this machine or many, instead of worker processes of this machine")
    host: str = Field("127.0.0.1", description="address to listen on; any but loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    keys: KeyFile | None = Field(None, description="file of hashed API keys; see --new-key")
    allow_hosts: tuple[str, ...] = Field((), description="further names that the Host header may have, such as images.example.org")
    allow_origins: tuple[str, ...] = Field((), description="web pages that may call, such as https://studio.example.org")
    policy: str = Field("fair", description="whose rows go first: first_come, shortest, deadline or fair (by key)")
    queue: int = Field(64, ge=1, description="images in work or waiting on one worker; more are refused with 503")
    queue_per_key: int = Field(32, ge=1, description="of these, images of one key, where there are keys; more are refused with 429")
    deadline_sec: float = Field(120.0, gt=0, le=3600, description="the longest that a client waits, when it does not say")
    stall_sec: float = Field(600.0, ge=1, description="how long a worker may say nothing, within one step, before it is taken for hung and replaced")
    drain_sec: float = Field(25.0, ge=0, le=3600, description="after SIGTERM, how long accepted work may take")
    body_kib: int = Field(256, ge=1, le=1 << 16, description="largest JSON body")
    upload_kib: int = Field(16384, ge=1, le=1 << 18, description="largest body of a route that takes pictures")
    body_sec: float = Field(10.0, gt=0, le=600, description="how long a client may take to send a body")
    connections: int = Field(512, ge=1, description="requests in progress, whatever they wait for; more are refused with 503")
    connections_per_key: int = Field(128, ge=1, description="of these, requests of one key, where there are keys; more are refused with 429")
    watchers_per_key: int = Field(32, ge=1, description="streams of events of jobs that one key may have open; more are refused with 429")
    db: str = Field("sqlite:///inkwash-serve/jobs.db", description="sqlite:///FILE or postgresql://USER@HOST/NAME, where jobs are kept")
    files: str | None = Field(None, description="folder or s3://BUCKET/PREFIX for the pictures of jobs; beside SQLite's file when not given")
    jobs: int = Field(10_000, ge=1, description="jobs that wait or run; more are refused with 503")
    jobs_per_key: int = Field(1000, ge=1, description="of these, jobs of one key, where there are keys; more are refused with 429")
    jobs_in_work: int = Field(8, ge=1, description="images of jobs that a worker makes at once, in what other requests leave of its time")
    jobs_save_sec: float = Field(30.0, gt=0, description="how often the states of images of jobs are kept, to go on from after a crash")
    keep_hours: float = Field(24.0, gt=0, le=24 * 366, description="how long a job that has ended, and an answer with an Idempotency-Key, are kept")
    answers_mib_per_key: float = Field(1024.0, gt=0, description="answers with an Idempotency-Key that are kept of one API key; the oldest go first")
    log_prompts: bool = Field(False, description="write prompts into the log")

    @field_validator("device")
    @classmethod
    def _some_device(cls, device: str) -> str:
        if not device.replace(",", "").strip():
            raise ValueError("names no device")
        return device

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one worker of each model on each."""
        return tuple(part.strip() for part in self.device.split(",") if part.strip())

    def of_key(self, limit: int) -> float:
        """A limit of one key: there is none without keys, when all callers are one and may have what all may have together."""
        return math.inf if self.keys is None else limit

    def require_safe(self) -> None:
        """Raises UsageError `open_bind` for an address beyond this machine without keys."""
        if not is_loopback(self.host) and self.keys is None:
            raise UsageError("open_bind", f"refusing to listen on {self.host} without API keys; use --keys FILE or --host 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings of a YAML file, overridden by `flags` that are not None. Raises UsageError `bad_config`, `bad_path`, `file_not_found`."""
    found: dict[str, Any] = {}
    if file is not None:
        as_path(file, "the file of settings")
        try:
            read = yaml.safe_load(file.read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError("file_not_found", f'there is no file "{file}"; give a YAML file of settings, or none') from None
        except IsADirectoryError:
            raise UsageError("bad_config", f'"{file}" is a folder; give a YAML file of settings in it, or none') from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise UsageError("bad_config", f'cannot read "{file}" as YAML: {" ".join(str(error).split())[:160]}') from None
        if not isinstance(read, dict | None):
            raise UsageError("bad_config", f'"{file}" must hold keys and values, such as port: 8000')
        found = dict(read or {})
    where = f'"{file}"' if file is not None else "settings"
    found.update({name: value for name, value in flags.items() if value is not None})
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if isinstance(inner := first.get("ctx", {}).get("error"), UsageError):
            raise UsageError(inner.code, f"{where}: {name}: {inner.message}") from None
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            raise UsageError("bad_config", f"{where}: there is no setting {name!r}; "
                                           f"{f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(Settings.model_fields)}") from None
        raise UsageError("bad_config", f"{where}: {name}: {first['msg']}, got {str(first['input'])[:40]}") from None
