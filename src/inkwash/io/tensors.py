"""Named tensors on disk: safetensors with a manifest, nothing that can run code.

safetensors itself refuses truncation and overlap but loads flipped bits, NaN weights and duplicate names in silence. So each folder has a
`manifest.json` with the size of every file and name, shape, dtype and SHA-256 of every tensor, and a file listed there is compared with it.
A file that is not listed anywhere, such as one from another program, still gets the checks that need no manifest: format, caps, finite values.

    manifest.json = {"format": 1, "files": {"unet/model.safetensors": {"bytes": n, "tensors": {name: {"shape", "dtype", "sha256"}}}}}
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load
from safetensors.torch import save as _save
from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.io.durable import write_bytes, write_text

MANIFEST = "manifest.json"
FORMAT = 1
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
_UNSAFE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}

Entry = dict[str, Any]


def sha256(tensor: Tensor) -> str:
    """SHA-256 of the tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Shape, dtype and SHA-256 of every tensor: what the manifest says of a file."""
    return {name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "sha256": sha256(tensor)}
            for name, tensor in sorted(tensors.items())}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One SHA-256 for a set of tensors: of their names, shapes, dtypes and bytes."""
    return hashlib.sha256(json.dumps(describe(tensors), sort_keys=True).encode()).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, intact: str = "") -> Entry:
    """Writes `path` (.safetensors) durably and returns its manifest entry; hand the entries of a folder to `write_manifest`.

    Raises CheckpointError `not_finite` for NaN or infinite values, ResourceError `disk_full`.
    """
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _require_finite(path, owned)
    data = _save(owned, dict(metadata or {}) or None)
    write_bytes(path, data, intact)
    return {"bytes": len(data), "tensors": describe(owned)}


def write_manifest(folder: Path, files: Mapping[str, Entry]) -> None:
    """Writes `folder/manifest.json` for files named relative to `folder`, with `/` between."""
    write_text(folder / MANIFEST, json.dumps({"format": FORMAT, "files": dict(sorted(files.items()))}, indent=1) + "\n")


def text_entry(text: str) -> Entry:
    """What the manifest says of a file of text."""
    data = text.encode("utf-8")
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def add_text(folder: Path, name: str, text: str) -> None:
    """Writes `folder/name` and enters it in the manifest of `folder`, which exists."""
    write_text(folder / name, text)
    write_manifest(folder, {**read_manifest(folder), name: text_entry(text)})


def read_text(folder: Path, name: str) -> str:
    """The text of `folder/name`, compared with the manifest where that lists it. Raises CheckpointError `ckpt_missing`, `ckpt_corrupt`."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError("ckpt_missing", f'cannot read "{folder / name}": {error.strerror}; the part is incomplete, make it again') from None
    listed = read_manifest(folder).get(name)
    if listed is not None and listed.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError("ckpt_corrupt", f'"{folder / name}": sha256 mismatch; restore the file')
    return data.decode("utf-8", "replace")


def read_manifest(folder: Path) -> dict[str, Entry]:
    """File -> entry. Raises CheckpointError `ckpt_corrupt` when it cannot be read, `ckpt_too_new` for a newer format."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
        version, files = raw["format"], raw["files"]
        entries = files.values() if isinstance(files, dict) else [None]
        tensors = [entry.get("tensors", {}) if isinstance(entry, dict) else None for entry in entries]
        if not isinstance(version, int) or not all(isinstance(one, dict) and all(isinstance(said, dict) for said in one.values()) for one in tensors):
            raise TypeError("format or files has the wrong type")
    except FileNotFoundError:
        raise CheckpointError("ckpt_corrupt", f'"{folder}" has no {MANIFEST}; it is incomplete, use another checkpoint') from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError("ckpt_corrupt", f'cannot read "{path}": {error}; use another checkpoint or restore the file') from None
    if version > FORMAT:
        raise CheckpointError("ckpt_too_new", f'"{path}" has format {version}, this version reads up to {FORMAT}; update inkwash')
    return files


def find_entry(path: Path) -> Entry | None:
    """The entry for `path` in the manifest of its folder or of the folder above, None where neither lists it."""
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file():
            entry = read_manifest(folder).get(path.relative_to(folder).as_posix())
            if entry is not None:
                return entry
    return None


def load_tensors(path: Path, entry: Entry | None = None) -> dict[str, Tensor]:
    """Reads and checks a safetensors file against `entry`, by default the one that a manifest beside or above it has for it.

    Raises CheckpointError: `ckpt_missing`, `unsafe_format` (pickle or anything else under this name; nothing is executed),
    `ckpt_corrupt` naming the tensor, `not_finite`.
    """
    data = read_file(path)
    if entry is None:
        entry = find_entry(path)
    if entry is not None and entry.get("bytes") != len(data):
        raise CheckpointError("ckpt_corrupt", f'"{path}" has {len(data)} bytes, its manifest says {entry.get("bytes")}; '
                                              "it is truncated or was changed, use another checkpoint")
    _check_header(path, data)
    try:
        tensors = _load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError("ckpt_corrupt", f'"{path}": {error}; use another checkpoint') from None
    if entry is not None:
        _compare(path, tensors, entry.get("tensors", {}))
    _require_finite(path, tensors)
    return dict(sorted(tensors.items()))


def read_file(path: Path) -> bytes:
    """The bytes of a safetensors file. Raises CheckpointError: `ckpt_missing`, `unsafe_format`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError("ckpt_missing", f'there is no file "{path}"; give an existing checkpoint') from None
    except OSError as error:
        raise CheckpointError("ckpt_missing", f'cannot read "{path}": {error.strerror}; check the path and its permissions') from None
    looks_pickled = data[:2] == b"PK" or data[:1] == b"\x80"
    is_header = len(data) > 9 and data[8:9] == b"{" and struct.unpack("<Q", data[:8])[0] <= len(data) - 8
    if path.suffix in _UNSAFE_SUFFIXES or (looks_pickled and not is_header):
        raise CheckpointError("unsafe_format", f'"{path}" is a pickle or archive, which can run code when it is read; nothing was executed; '
                                               "convert it to safetensors with the program that wrote it")
    return data


def _check_header(path: Path, data: bytes) -> None:
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else None
    if size is None or size > len(data) - 8:
        raise CheckpointError("ckpt_corrupt", f'"{path}" is truncated or not a safetensors file ({len(data)} bytes); use another checkpoint')
    if size > MAX_HEADER_BYTES:
        raise CheckpointError("ckpt_corrupt", f'"{path}" has a header of {size} bytes, at most {MAX_HEADER_BYTES} are read; '
                                              "it is not a model of ours")
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            twice.extend(name for name in seen if [key for key, _ in pairs].count(name) > 1)
        return seen

    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise CheckpointError("ckpt_corrupt", f'"{path}" has an unreadable header; it is not a safetensors file or is damaged') from None
    if twice:
        raise CheckpointError("ckpt_corrupt", f'"{path}" names "{twice[0][:80]}" twice; restore the file')
    if not isinstance(header, dict):
        raise CheckpointError("ckpt_corrupt", f'"{path}" has a header that is not a JSON object; it is not a safetensors file or is damaged')
    if len(header) > MAX_TENSORS:
        raise CheckpointError("ckpt_corrupt", f'"{path}" lists {len(header)} tensors, at most {MAX_TENSORS} are read; it is not a model of ours')


def _compare(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Entry]) -> None:
    found = describe(tensors)
    if problems := differences(found, expected):
        raise CheckpointError("ckpt_corrupt", f'"{path}": {problems[0]}; use another checkpoint or restore the file')


def differences(found: Mapping[str, Entry], expected: Mapping[str, Entry]) -> list[str]:
    """What differs between two descriptions of tensors, one sentence each, in order of names."""
    problems = []
    for name in sorted({*found, *expected}):
        if name not in found:
            problems.append(f"tensor {name}: missing")
        elif name not in expected:
            problems.append(f"tensor {name}: not expected")
        else:
            for key in ("shape", "dtype", "sha256"):
                if key in expected[name] and found[name].get(key) != expected[name][key]:
                    problems.append(f"tensor {name}: sha256 mismatch" if key == "sha256"
                                    else f"tensor {name}: {key} is {found[name].get(key)}, expected {expected[name][key]}")
                    break
    return problems


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and not _finite(tensor)]
    if bad:
        raise CheckpointError("not_finite", f'"{path}": tensor {bad[0]} has NaN or infinite values ({len(bad)} such tensors); use another checkpoint')


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())            # torch has no answer for some of 8 bits
