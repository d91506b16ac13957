"""A job as bytes: what is left of a picture in the making when its process ends.

The bytes are one safetensors file: the state (x, base, slopes, row) and the pictures of the request as tensors, the rest of the request as
JSON beside them. The table, the noise and the embeddings are not stored, since they are functions of the request and the model; so the model
must be the same, which its hash proves, and the version of this package; then another process goes on with the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from inkwash._version import __version__
from inkwash.errors import CheckpointError
from inkwash.job import Job, prepare
from inkwash.picture import Picture
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.sample import HISTORY
from inkwash.sample.kernel import State

FORMAT = 1


def pack(pipe: Pipeline, job: Job) -> bytes:
    """The job as bytes. Raises UsageError `not_saved` for a model that has no folder, and so no hash."""
    state = job.state
    tensors = {"x": state.x, "base": state.base, "row": state.row, **{f"h{i}": h for i, h in enumerate(state.h)}}
    if job.x0 is not None:
        tensors["x0"] = job.x0
    fields: dict[str, Any] = {}
    for name, value in job.request.__dict__.items():
        if isinstance(value, Picture):
            tensors[f"request.{name}"] = value.pixels()
        else:
            fields[name] = value
    # no two may share memory, as x and base do before the first row
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    facts = {"format": FORMAT, "version": __version__, "model": pipe.hash, "request": fields, "nfe": job.nfe, "seconds": job.seconds}
    text = json.dumps(facts, sort_keys=True)
    return safetensors.torch.save(tensors, {"facts": text, "sha256": _digest(text, tensors)})


def unpack(pipe: Pipeline, data: bytes) -> Job:
    """The job again, on the pipeline's device.

    Raises CheckpointError: `suspended_damaged` for bytes that are not what `pack` wrote, `other_model` and `other_version` where going on
    could give other bits.
    """
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        facts = json.loads(header["facts"])
        whole = header["sha256"] == _digest(header["facts"], tensors) and facts["format"] == FORMAT
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError("suspended_damaged", f"these bytes are no suspended request: {error}; submit the request again") from None
    if not whole:
        raise CheckpointError("suspended_damaged", "the bytes of this suspended request were changed; submit the request again")
    if facts["model"] != pipe.hash:
        raise CheckpointError("other_model", f"this request was suspended on the model {facts['model'][:10]}, and this one is {pipe.hash[:10]}; "
                                             "resume it on its own model, or submit the request again")
    if facts["version"] != __version__:
        raise CheckpointError("other_version", f"this request was suspended by version {facts['version']}, and this is {__version__}, whose bits may "
                                               "differ; resume it with its own version, or submit the request again")
    fields = dict(facts["request"])
    fields |= {name.removeprefix("request."): _picture(tensor) for name, tensor in tensors.items() if name.startswith("request.")}
    job = prepare(pipe, Request(**fields))
    there = {name: tensor.to(pipe.device) for name, tensor in tensors.items()}
    job.state = State(there["x"], there["base"], tuple(there[f"h{i}"] for i in range(HISTORY)), tensors["row"])
    job.x0, job.nfe, job.seconds = there.get("x0"), facts["nfe"], facts["seconds"]
    return job


def _picture(pixels: Tensor) -> Picture:
    """From (3, H, W) uint8."""
    return Picture(pixels.shape[2], pixels.shape[1], pixels.permute(1, 2, 0).contiguous().numpy().tobytes())


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
