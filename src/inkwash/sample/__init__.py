"""Samplers as tables, and the kernel that runs them. Every module of this package is imported, so that its samplers register."""

from importlib import import_module
from pkgutil import iter_modules

from inkwash.sample.known import Known
from inkwash.sample.plan import HISTORY, KEEP, Mix, Plan, Sampler, Stage
from inkwash.sample.run import Denoise, Program, Progress, Result, begin, finish, prior, run, start, tick

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["HISTORY", "KEEP", "Denoise", "Known", "Mix", "Plan", "Program", "Progress", "Result", "Sampler", "Stage",
           "begin", "finish", "prior", "run", "start", "tick"]
