"""The number formats of each ``precision`` option, and the context that float64 needs."""

import contextlib
from dataclasses import dataclass
from typing import Any

import jax

from research.config.options import Float4, Float8, Precision


@dataclass(frozen=True)
class Policy:
    """Number formats by their names in NumPy and ml_dtypes.

    Attributes:
        params: format of the parameters.
        compute: format of activations and gradients.
        rounding: a narrower format that the inputs of layers, and their gradients, are rounded
            through; none where it is empty.
    """

    params: str
    compute: str
    rounding: str = ""

    @property
    def accumulation(self) -> str:
        """The format of losses, gauges, and the optimizer's state and arithmetic."""
        return "float64" if self.compute == "float64" else "float32"

    @property
    def narrowest(self) -> str:
        """The format with the smallest range that gradients pass through."""
        return self.rounding or self.compute


POLICIES = {
    "float32": Policy("float32", "float32"),
    "float64": Policy("float64", "float64"),
    "bfloat16": Policy("bfloat16", "bfloat16"),
    "mixed_bfloat16": Policy("float32", "bfloat16"),
    "float16": Policy("float16", "float16"),
    "mixed_float16": Policy("float32", "float16"),
    "float8_e4m3": Policy("float32", "float32", "float8_e4m3fn"),
    "float8_e5m2": Policy("float32", "float32", "float8_e5m2"),
    "float4_e2m1": Policy("float32", "float32", "float4_e2m1fn"),
}


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
