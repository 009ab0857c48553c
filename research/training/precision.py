"""How an architecture rounds through a number format, and the context that float64 needs."""

import contextlib
from typing import Any

import jax

from research.config.number_formats import POLICIES
from research.config.options import Float4, Float8, Precision


def rounding_fields(precision: Precision) -> dict[str, Any]:
    """The fields of an ``Architecture`` that say how values are rounded through a format."""
    fields: dict[str, Any] = {"rounding": POLICIES[precision.kind.name].rounding}
    match precision:
        case Float8():
            fields["tensor_scale"] = precision.tensor_scale
        case Float4():
            fields["block_scale"] = precision.block_scale
            fields["rounds_weights"] = precision.round_weights
            fields["rounds_stochastically"] = precision.stochastic_gradients
    return fields


def precision_context(kind: str) -> contextlib.AbstractContextManager:
    """The context in which all work on a run of this precision happens: float64 needs 64-bit types.

    Global settings stay as they are.
    """
    return jax.enable_x64(kind == "float64")
