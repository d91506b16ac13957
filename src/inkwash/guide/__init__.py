"""Guidance: which branches are evaluated at a level, how strongly, and how they are joined."""

from inkwash.guide.adjust import Adjustment, DynamicThreshold, Rescale, StaticThreshold
from inkwash.guide.classifier import ClassifierGuidance, ClassifierShift
from inkwash.guide.distilled import Distilled
from inkwash.guide.effective import Effect, effective
from inkwash.guide.evaluate import Denoise, evaluate
from inkwash.guide.guidance import CFG, AutoGuidance, Branch, Guidance, NoGuidance
from inkwash.guide.projected import APG
from inkwash.guide.scale import parse_scale, read_scale
from inkwash.guide.strength import AngleAxis, ConstantStrength, CosineStrength, Interval, LamAxis, RampStrength, Strength, TimeAxis

__all__ = ["APG", "CFG", "Adjustment", "AngleAxis", "AutoGuidance", "Branch", "ClassifierGuidance", "ClassifierShift", "ConstantStrength",
           "CosineStrength", "Denoise", "Distilled", "DynamicThreshold", "Effect", "Guidance", "Interval", "LamAxis", "NoGuidance", "RampStrength",
           "Rescale", "StaticThreshold", "Strength", "TimeAxis", "effective", "evaluate", "parse_scale", "read_scale"]
