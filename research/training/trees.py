"""Where in the tree of parameters each layer lies."""

from typing import Any

import jax

from research.models.architecture import Architecture


def stages_of(arch: Architecture, params: Any) -> list[list[Any]]:
    """The parameters as ``gauges.layers`` takes them; shared ones as those of a single layer."""
    if arch.shared:
        return [[jax.tree.map(lambda leaf: leaf[None], params["cell"])]]
    stacks = iter(params["stages"].values())
    return [[next(stacks) for _ in stage.parts] for stage in arch.plan]
