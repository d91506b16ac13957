"""Configurations of networks: Values that build a module.

A network is described by a frozen dataclass of numbers and flags. Its text, `repr(config)`, is stored beside the weights, and
`parse(text, NetworkConfig).build()` makes the same module again, with fresh weights from torch's generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from inkwash.errors import UsageError
from inkwash.value import Value


class NetworkConfig(Value, ABC):
    """Base of all network configurations. Impossible fields raise UsageError `bad_network` when the config is made."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A module with freshly initialised weights, whose `.config` is this value."""


def require(condition: bool, message: str) -> None:
    """Raises UsageError `bad_network` with `message` unless `condition` holds."""
    if not condition:
        raise UsageError("bad_network", message)
