"""Measuring models: how likely they make data, and whether a network does what is declared of it."""
