"""Serving. `Engine` steps unlike requests together and speaks no HTTP; `Ticket` and `Finished` are what it returns.

The names are imported when they are first asked for: the web process of `serve.http` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inkwash.serve.admission import Refused
    from inkwash.serve.engine import Engine
    from inkwash.serve.policy import EarliestDeadline, FairShare, FirstCome, Policy, ShortestRemaining
    from inkwash.serve.ticket import Finished, Ticket

__all__ = ["EarliestDeadline", "Engine", "FairShare", "Finished", "FirstCome", "Policy", "Refused", "ShortestRemaining", "Ticket"]
_PLACES = {"Refused": "admission", "Engine": "engine", "Finished": "ticket", "Ticket": "ticket"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'inkwash.serve' has no attribute {name!r}")
    return getattr(import_module(f"inkwash.serve.{_PLACES.get(name, 'policy')}"), name)
