"""Recipes of training runs as YAML files; `inkwash train NAME` takes one by name."""
