"""Where models are, and what their folders say: embedded by name, others by path, ours and those of diffusers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from inkwash.errors import CheckpointError
from inkwash.io.foreign_info import foreign_info, is_foreign
from inkwash.io.info import FORMAT, INFO, ModelInfo, build_info
from inkwash.io.path import as_path

MODELS = Path(__file__).resolve().parent.parent / "models"


def known_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{INFO}"))


def find_model(name: str | Path) -> Path:
    """The folder of an embedded model's name or of a path.

    Raises CheckpointError `model_not_found`, which lists the known names; UsageError `bad_path` for what is neither.
    """
    path = as_path(name, "the model")
    text = str(path)
    embedded = MODELS / text
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text) and (embedded / INFO).is_file():
        return embedded
    known = ", ".join(known_models()) or "none"
    try:
        if (path / INFO).is_file() or is_foreign(path):
            return path
    except OSError as error:
        raise CheckpointError("model_not_found", f'cannot look into "{path}": {error.strerror}; give a model folder or one of: {known}') from None
    if path.is_dir():
        raise CheckpointError("model_not_found", f'"{path}" is a folder without {INFO}; give a model folder or a known model: {known}')
    raise CheckpointError("model_not_found", f'no model "{text[:120]}"; known: {known}; or give the path of a model folder')


def read_info(folder: Path) -> ModelInfo:
    """Reads `inkwash.json`, or the configs of a diffusers folder without one.

    Raises CheckpointError `model_damaged`, `unsupported_model` for a foreign one that is not known, or `model_too_new` for a newer format.
    """
    path = folder / INFO
    if is_foreign(folder):
        try:
            return foreign_info(folder)
        except CheckpointError:
            raise
        except (TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise CheckpointError("model_damaged", f'cannot read the configs of "{folder}": {type(error).__name__} {error}; restore them') from None
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError("model_not_found", f'"{folder}" has no {INFO}; give a model folder') from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{path}": {error}; restore the file') from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise CheckpointError("model_damaged", f'"{path}" is not a model description: it has no number called "format"; restore the file')
    if raw["format"] > FORMAT:
        raise CheckpointError("model_too_new", f'"{path}" has format {raw["format"]}, this version reads up to {FORMAT}; '
                                               f"update inkwash (the folder was written by {raw.get('inkwash', 'a newer version')})")
    try:
        return build_info(raw)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError("model_damaged", f'"{path}": {error}; restore the file') from None
