"""Captioned scenes drawn from nothing: endless, a pure function of (seed, number), with labels that are exact by construction."""
