"""Recurrent cells: one layer is one time step, and all of them share the same weights."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import CellKind, Recurrent
from research.gauges.slots import Statistics
from research.models.activation import (
    ACTIVATIONS,
    Nonlinearity,
    mean_statistics,
    unit_statistics,
)
from research.models.architecture import Architecture, ForwardContext
from research.models.hparams import HParams
from research.models.init import make_bias_initializer, make_weight_initializer
from research.models.units import read

Nonlinearities = list[tuple[str, Array]]  # names and inputs
NUM_GATES = {
    CellKind.elman: 1,
    CellKind.gru: 3,
    CellKind.lstm: 4,
}
FORGET_GATE = 1  # of an LSTM's i, f, o, g


class Cell(nnx.Module):
    """The next state from the state h and the part x of the example that belongs to this step.

    - ``elman``: W φ(h) + U x + b, the state before its nonlinearity (Elman 1990); so shortcuts and
      normalisations mean the same as in a deep network.
    - ``gru``: r = σ(U_r x + W_r h), z = σ(U_z x + W_z h), n = tanh(U_n x + r ∘ (W_n h + c)), next
      state (1−z) ∘ n + z ∘ h (Cho et al. 2014, with r after W_n).
    - ``lstm``: the state holds [c, h]; i, f, o = σ(…), g = tanh(…), c' = f ∘ c + i ∘ g, h' = o ∘
      tanh(c') (Hochreiter & Schmidhuber 1997; Gers et al. 2000), with the forget gate's bias
      initially 1 (Jozefowicz et al. 2015).

    ``saturated`` counts the gates too.
    """

    def __init__(
        self,
        arch: Architecture,
        inputs: int,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        assert isinstance(arch.model, Recurrent)
        self.kind = arch.model.cell
        self.activation = arch.activation.kind.name
        self.dtype = jnp.dtype(arch.dtype)
        gates = NUM_GATES[self.kind]
        width = arch.model.width
        param_dtype = jnp.dtype(arch.param_dtype)
        initialize_weights = make_weight_initializer(hp.init)
        initialize_bias = make_bias_initializer(hp.init)

        def draw_weights(rows: int) -> nnx.Param:
            keys = jax.random.split(rngs.params(), gates)
            draw = jax.vmap(lambda key: initialize_weights(key, (rows, width), param_dtype))
            return nnx.Param(draw(keys))

        self.recurrent = draw_weights(width)
        self.input = draw_weights(inputs)
        bias = initialize_bias(rngs.params(), (gates, width), param_dtype)
        if self.kind is CellKind.lstm:
            bias = bias.at[FORGET_GATE].add(1)
        self.bias = nnx.Param(bias) if arch.model.bias else None
        has_inner_bias = arch.model.bias and self.kind is CellKind.gru
        self.inner = nnx.Param(jnp.zeros(width, param_dtype)) if has_inner_bias else None

    def __call__(
        self,
        z: Float[Array, "B S"],
        x: Float[Array, "B P"],
        ctx: ForwardContext,
    ) -> tuple[Array, Statistics]:
        """The branch's output and the mean statistics of its nonlinearities.

        Args:
            z: the state.
            x: the part of the example.
            ctx: ``ctx.level`` selects the gauges.
        """
        from_input = jnp.einsum("bp,gpd->gbd", x, read(self.input, self.dtype))
        if self.bias is not None:
            from_input = from_input + read(self.bias, self.dtype)[:, None]
        match self.kind:
            case CellKind.elman:
                out, nonlinearities = self._elman(z, from_input)
            case CellKind.gru:
                out, nonlinearities = self._gru(z, from_input)
            case CellKind.lstm:
                out, nonlinearities = self._lstm(z, from_input)
        statistics = []
        for activation, argument in nonlinearities:
            statistics.append(unit_statistics(Nonlinearity(activation), argument, ctx.level))
        return out, mean_statistics(statistics)

    def _from_state(self, h: Array) -> Float[Array, "G B D"]:
        return jnp.einsum("bd,gde->gbe", h, read(self.recurrent, self.dtype))

    def _elman(self, z: Array, from_input: Array) -> tuple[Array, Nonlinearities]:
        activated = ACTIVATIONS[self.activation](z)
        (out,) = self._from_state(activated) + from_input
        return out, [(self.activation, z)]

    def _gru(self, h: Array, from_input: Array) -> tuple[Array, Nonlinearities]:
        from_state = self._from_state(h)
        reset = from_input[0] + from_state[0]
        update = from_input[1] + from_state[1]
        inner = from_state[2]
        if self.inner is not None:
            inner = inner + read(self.inner, self.dtype)[None]
        candidate = from_input[2] + jax.nn.sigmoid(reset) * inner
        kept = jax.nn.sigmoid(update)
        out = (1 - kept) * jnp.tanh(candidate) + kept * h
        return out, [
            ("sigmoid", reset),
            ("sigmoid", update),
            ("tanh", candidate),
        ]

    def _lstm(self, state: Array, from_input: Array) -> tuple[Array, Nonlinearities]:
        c, h = jnp.split(state, 2, axis=-1)
        i, f, o, g = from_input + self._from_state(h)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        out = jnp.concatenate([c, h], axis=-1)
        return out, [
            ("sigmoid", i),
            ("sigmoid", f),
            ("sigmoid", o),
            ("tanh", g),
        ]
