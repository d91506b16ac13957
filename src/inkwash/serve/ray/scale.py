"""How many replicas: as many as bring the predicted wait down to what was asked.

Replica i owes B_i network rows and does r_i a second, so it needs w_i = B_i / r_i seconds for what it has accepted. Spread evenly over n
replicas, all of it takes sum(w_i) / n seconds; the fewest n that keeps this within `target_sec` is ceil(sum(w_i) / target_sec). Ray Serve
averages w_i over its look-back period, and keeps n within the bounds and delays of the deployment.
"""

import math
from typing import Any, Protocol

WAIT = "wait_sec"                                          # what each replica reports


class Context(Protocol):
    """What Ray tells a policy, as far as this one reads it."""

    aggregated_metrics: Any
    target_num_replicas: int


class ByWait:
    """The policy of a deployment: `policy: {policy_function: "inkwash.serve.ray.scale:ByWait", policy_kwargs: {target_sec: 5}}`."""

    def __init__(self, target_sec: float = 5.0) -> None:
        if not target_sec > 0:
            raise ValueError(f"target_sec must be above 0, got {target_sec}")
        self.target_sec = target_sec

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be, and no memory."""
        waits = (context.aggregated_metrics or {}).get(WAIT)
        if not waits:                                      # none has reported yet
            return context.target_num_replicas, {}
        return max(1, math.ceil(sum(waits.values()) / self.target_sec)), {}
