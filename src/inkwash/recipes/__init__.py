"""Recipes of training runs as YAML files; `inkwash train NAME` takes one by name.

Importing this package makes the tasks known that stand above `train`.
"""

import inkwash.distill.run  # noqa: F401 - registers its task
