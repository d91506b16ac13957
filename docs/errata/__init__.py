"""The 39 mistakes, in order."""

from errata.entry import ARTICLES, Check, Erratum
from errata.guidance import ERRATA as _GUIDANCE
from errata.networks import ERRATA as _NETWORKS
from errata.operations import ERRATA as _OPERATIONS
from errata.process import ERRATA as _PROCESS
from errata.systems import ERRATA as _SYSTEMS

ERRATA: tuple[Erratum, ...] = tuple(sorted((*_PROCESS, *_GUIDANCE, *_NETWORKS, *_OPERATIONS, *_SYSTEMS), key=lambda entry: entry.number))

__all__ = ["ARTICLES", "ERRATA", "Check", "Erratum"]
