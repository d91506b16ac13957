"""Gaussian diffusion mathematics: levels, schedules, predictions, spacings, noise. Imports torch only."""
