"""The batch curve: how long one worker's tick takes, by the number of its network rows.

    tick(n rows, k tickets) = seconds[n] + k ticket_sec              a size that was not measured is cut into those that were, as calls are
    an image                = its ticks + image_sec, and encode_sec for a prompt that is not in the cache of embeddings

A curve is a fact of (model, size, machine). It is measured by `measure` and kept as JSON; only `seconds` must be there, so that a curve can also
be written down by hand, from anybody's figures.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from inkwash.calls import cut
from inkwash.errors import DataError
from inkwash.io.path import as_path


class Curve(BaseModel):
    """What one worker can do; times in seconds, memory in MiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: dict[int, FiniteFloat] = Field(min_length=1, description="of a tick, by its network rows")
    ticket_sec: FiniteFloat = Field(0.0, ge=0, description="what a further image adds to a tick")
    image_sec: FiniteFloat = Field(0.0, ge=0, description="of an image: preparing, decoding, writing the file")
    encode_sec: FiniteFloat = Field(0.0, ge=0, description="of a prompt that was not asked before")
    guided_rows: int = Field(2, ge=1, description="network rows of a step with guidance")
    weights_mib: FiniteFloat = Field(0.0, ge=0, description="of all networks")
    peak_mib: FiniteFloat = Field(0.0, ge=0, description="that a worker held at full batch; 0: not measured")
    model: str = ""
    hash: str = ""
    size: str = Field("", description="WIDTHxHEIGHT; empty: any")
    machine: str = ""
    date: str = ""

    def model_post_init(self, context: object) -> None:
        """Times and sizes are above 0."""
        if any(size < 1 or taken <= 0 for size, taken in self.seconds.items()):
            raise ValueError("seconds must map network rows from 1 to seconds above 0")

    @property
    def rows(self) -> int:
        """The most rows of a tick."""
        return max(self.seconds)

    @property
    def full(self) -> int:
        """The size of the tick that does most rows a second."""
        return min(self.seconds, key=lambda size: self.seconds[size] / size)

    def tick(self, rows: int, tickets: int) -> float:
        """Seconds of a tick."""
        if rows in self.seconds:
            return self.seconds[rows] + tickets * self.ticket_sec
        return sum(self.seconds[size] for size in cut(rows, self.seconds)) + tickets * self.ticket_sec

    def row_sec(self) -> float:
        """Seconds of a row in such a tick, images left aside."""
        return self.seconds[self.full] / self.full


def read_curve(file: Path) -> Curve:
    """A curve from its JSON. Raises DataError `file_not_found`, `bad_curve`."""
    as_path(file, "--curve")
    try:
        return Curve.model_validate_json(file.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError("file_not_found", f'there is no file "{file}"; leave --curve out to measure one, and --save-curve FILE to keep it') from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError("bad_curve", f'"{file}": {".".join(map(str, first["loc"])) or "curve"}: {first["msg"]}; '
                                     'the least is {"seconds": {"1": 0.02, "8": 0.05}}') from None
    except (OSError, ValueError) as error:
        raise DataError("bad_curve", f'cannot read "{file}": {" ".join(str(error).split())[:160]}') from None


def write_curve(curve: Curve, file: Path) -> None:
    """Keeps a curve for `read_curve`."""
    file.write_text(curve.model_dump_json(indent=1) + "\n", encoding="utf-8")
