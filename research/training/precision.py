"""Number formats by policy name, and the scope that float64 needs."""

import contextlib
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Policy:
    """``params``: the weights' format. ``compute``: that of activations and gradients.

    Optimizer state, losses and gauges are kept in float32 (float64 under ``float64``), whatever the policy.
    """

    params: str
    compute: str


POLICIES = {
    "float32": Policy("float32", "float32"),
    "float64": Policy("float64", "float64"),
    "bfloat16": Policy("bfloat16", "bfloat16"),
    "mixed_bfloat16": Policy("float32", "bfloat16"),
    "float16": Policy("float16", "float16"),
}


def scope(kind: str) -> contextlib.AbstractContextManager:
    """The context in which everything of a run of this precision happens; it changes no global setting."""
    return jax.enable_x64(kind == "float64")
