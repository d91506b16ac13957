"""`inkwash verify`: claims against data whose answer is known, for our own registry, another library or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from inkwash.cli.main import print_json
from inkwash.errors import UsageError

if TYPE_CHECKING:
    from inkwash.verify import Report


def verify(model: str | None = None, /, *, against: str | None = None, data: str | None = None, only: str | None = None,
           explain: Annotated[bool, Parameter(negative="", show_default=False)] = False,
           json: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> int:
    """Check samplers, schedules, spacings, predictions, gauges and guidances, another library's schedulers, or a model.

    Parameters
    ----------
    model
        An embedded model or the folder of one, to check that; our own registry when left out.
    against
        Another library, to put its schedulers to the same tests: diffusers.
    data
        For a model: pictures of the kind it was trained on, read like the data of train. Drawn scenes when left out.
    only
        Check parts or claims with this name only, such as ddim or order.
    explain
        Say what every claim means.
    json
        Print one JSON object.
    """
    report = _report(model, against, data, only)
    if json:
        print_json(report.json())
    else:
        print(report.text(explain=explain))
    report.require()
    return 0


def _report(model: str | None, against: str | None, data: str | None, only: str | None) -> Report:
    if model is not None and against is not None:
        raise UsageError("usage", "verify takes a model or --against, not both; run it twice")
    if data is not None and model is None:
        raise UsageError("usage", "--data goes with a model; name the model, as in: inkwash verify mini --data PATH")
    if model is not None:
        from inkwash.verify.model import report

        return report(model, only, data)
    if against is not None:
        from inkwash.verify.against import compare

        return compare(against, only)
    from inkwash.verify.registry import conform

    return conform(only)
