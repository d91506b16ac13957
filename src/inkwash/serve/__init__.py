"""Serving. `Engine` steps unlike requests together and speaks no HTTP; `Ticket` and `Finished` are what it returns."""

from inkwash.serve.admission import Refused
from inkwash.serve.engine import Engine
from inkwash.serve.policy import EarliestDeadline, FairShare, FirstCome, Policy, ShortestRemaining
from inkwash.serve.ticket import Finished, Ticket

__all__ = ["EarliestDeadline", "Engine", "FairShare", "Finished", "FirstCome", "Policy", "Refused", "ShortestRemaining", "Ticket"]
