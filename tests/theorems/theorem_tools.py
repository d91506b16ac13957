"""The lists that the theorem tests run over, and one claim of `inkwash verify` on one sampler. The machinery is inkwash.verify.oracle."""

from __future__ import annotations

from functools import cache

from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Spacing
from inkwash.sample import Sampler
from inkwash.verify import parts
from inkwash.verify.claim import Finding
from inkwash.verify.samplers import SAMPLERS as CHECKS

SAMPLERS: list[Sampler] = list(parts.samplers().values())
SPACINGS: list[Spacing] = list(parts.spacings())
PROCESSES: list[Schedule] = list(parts.PROCESSES)
ODES = [s for s in SAMPLERS if not s.stochastic and s.order > 0]
SDES = [s for s in SAMPLERS if s.stochastic]


@cache
def _findings(claim: str, samplers: tuple[Sampler, ...]) -> dict[str, Finding]:
    check = next(check for check in CHECKS if check.claim.name == claim)
    return {finding.subject: finding for finding in check.find("sampler", {repr(sampler): sampler for sampler in samplers})}


def finding(claim: str, sampler: Sampler, among: list[Sampler] = SAMPLERS) -> Finding:
    """What `inkwash verify` says of the sampler; all of `among` are measured at once, for that is quicker."""
    return _findings(claim, tuple(among))[repr(sampler)]
