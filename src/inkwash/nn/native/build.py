"""From C sources to one library in this process: compiled once with the machine's own compiler, kept, checked, loaded.

The compiled library is code that runs as the user, so nobody else may have written it. It is kept in a folder that belongs to the user with
mode 0700, under the SHA-256 of sources, flags, compiler and processor, behind the SHA-256 of itself; the file must belong to the user and be
writable by nobody else. It is written beside its place and renamed, so two processes may compile at once. What was read and checked is what
is loaded, from memory. Where the folder cannot be used, the library is compiled for the process alone, and `Built.text` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
NEEDED = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"})
TYPES = {"P": ctypes.c_void_p, "L": ctypes.c_long, "F": ctypes.c_float}


class Unavailable(Exception):
    """No library here: `expected` where nothing is wrong (another processor, no compiler, switched off), not so where something broke."""

    def __init__(self, reason: str, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


class Built(NamedTuple):
    """A loaded library and one line on where it came from."""

    library: ctypes.CDLL
    text: str


@functools.cache
def load() -> Built:
    """The library, compiled when there is none. Raises Unavailable with the reason why there is no library."""
    compiler = require()
    version = _output(compiler, "--version").splitlines()[0]
    sources = sorted([*HERE.glob("*.c"), *HERE.glob("*.h")])
    key = hashlib.sha256(repr((FLAGS, os.path.realpath(compiler), version, *_processor())).encode())
    for path in sources:
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    name, place = f"{key.hexdigest()[:32]}.so", cache_folder()
    try:
        binary, text = _kept(place, name, compiler), f"compiled by {version}, kept in {place}"
    except OSError as error:
        binary, text = _compiled(compiler), f"compiled by {version} for this process alone, since {place} cannot keep it: {error}"
    library = _loaded(binary)
    if library.inkwash_amx() != 0:
        raise Unavailable("the operating system does not grant the use of AMX", expected=True)
    return Built(library, text)


def require() -> str:
    """The path of the C compiler. Raises Unavailable where the kernels are switched off or cannot run."""
    if os.environ.get("INKWASH_NATIVE", "1") == "0":
        raise Unavailable("INKWASH_NATIVE=0", expected=True)
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"they are written for Linux on x86-64, this is {platform.system()} on {platform.machine()}", expected=True)
    missing = sorted(NEEDED - set(_processor()[1].split()))
    if missing:
        raise Unavailable(f"the processor lacks {', '.join(missing)}", expected=True)
    compiler = next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise Unavailable("there is no C compiler (gcc, cc or clang) on PATH", expected=True)
    return compiler


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inkwash" / "native"


class Function:
    """A function of the library, found on its first call; `types` has one letter for each argument but the last, the number of threads."""

    def __init__(self, name: str, types: str) -> None:
        self.name, self.types = name, types
        self._bound: Callable[..., int] | None = None

    def __call__(self, *arguments: Tensor | int | float | None) -> None:
        """Calls it with the memory of tensors, None being NULL. Raises MemoryError."""
        if self._bound is None:
            function = getattr(load().library, f"inkwash_{self.name}")
            function.argtypes, function.restype = [TYPES[letter] for letter in self.types + "L"], ctypes.c_int
            self._bound = function
        if self._bound(*(item.data_ptr() if isinstance(item, Tensor) else item for item in arguments), torch.get_num_threads()):
            raise MemoryError(f"no memory for the native kernel {self.name!r}")


def _processor() -> tuple[str, str]:
    """Model and flags of the processor."""
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line)
    found = {name.strip(): value.strip() for name, value in lines.items()}
    return found.get("model name", ""), found.get("flags", "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(command[:2])} failed: {(error.stderr.strip() or 'no message').splitlines()[0]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{command[0]} cannot be run: {error}") from error


def _compiled(compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="inkwash-") as folder:
        path = Path(folder) / "native.so"
        _output(compiler, *FLAGS, "-o", str(path), *(str(source) for source in sorted(HERE.glob("*.c"))))
        return path.read_bytes()


def _kept(place: Path, name: str, compiler: str) -> bytes:
    """The binary from the folder, or compiled and put there. Raises OSError where the folder is not the user's alone, or cannot be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink() and not place.exists():
        place.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _require_own(os.fstat(folder), 0o077)
        found = _read(folder, name)
        if found is None:
            found = _compiled(compiler)
            _write(folder, name, found)
        return found
    finally:
        os.close(folder)


def _read(folder: int, name: str) -> bytes | None:
    """The binary, None where there is none or it is damaged."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None
    with open(file, "rb") as stream:
        _require_own(os.fstat(file), 0o022)
        digest, binary = stream.read(32), stream.read()
    return binary if hashlib.sha256(binary).digest() == digest else None


def _write(folder: int, name: str, binary: bytes) -> None:
    scratch = f"{name}.{secrets.token_hex(8)}"
    file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(hashlib.sha256(binary).digest() + binary)
            stream.flush()
            os.fsync(file)
        os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(scratch, dir_fd=folder)
        raise


def _require_own(found: os.stat_result, others: int) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if stat.S_IMODE(found.st_mode) & others:
        raise PermissionError(f"its mode is {stat.S_IMODE(found.st_mode):04o}, which lets others in")


def _loaded(binary: bytes) -> ctypes.CDLL:
    file = os.memfd_create("inkwash-native", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(binary)
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    except OSError as error:
        raise Unavailable(f"the compiled library cannot be loaded: {error}") from error
    finally:
        os.close(file)
