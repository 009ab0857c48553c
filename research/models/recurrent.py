"""Recurrent cells: one layer is one step in time, all of them with the same weights."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.gauges.slots import Statistics
from research.models.activation import ACTIVATIONS, unit_statistics
from research.models.architecture import Architecture, ForwardContext
from research.models.init import bias_initializer, weight_initializer

GATES = {"elman": 1, "gru": 3, "lstm": 4}


class Cell(nnx.Module):
    """The next state from the state h and the piece x of the example that belongs to this step.

    ``elman``: W φ(h) + U x + b, the state before its nonlinearity (Elman 1990); with it shortcuts and normalisations
    mean the same as in a deep network. ``gru``: r = σ(U_r x + W_r h), z = σ(U_z x + W_z h),
    n = tanh(U_n x + r ∘ (W_n h + c)), next (1−z) ∘ n + z ∘ h (Cho et al. 2014, with r behind W_n). ``lstm``: the state
    holds [c, h]; i, f, o = σ(…), g = tanh(…), c' = f ∘ c + i ∘ g, h' = o ∘ tanh(c') (Hochreiter & Schmidhuber 1997;
    Gers et al. 2000), the forget gate's bias begun at 1 (Jozefowicz et al. 2015). ``saturated`` counts the gates too.
    """

    def __init__(self, arch: Architecture, pieces: int, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.kind = arch.cell
        self.activation = arch.activation
        self.dtype = jnp.dtype(arch.dtype)
        gates = GATES[arch.cell]
        width = arch.width
        format_ = jnp.dtype(arch.param_dtype)
        weights = weight_initializer(arch.init, hp)
        biases = bias_initializer(hp)

        def draw(rows: int) -> nnx.Param:
            keys = jax.random.split(rngs.params(), gates)
            return nnx.Param(jax.vmap(lambda key: weights(key, (rows, width), format_))(keys))

        self.recurrent = draw(width)
        self.input = draw(pieces)
        bias = biases(rngs.params(), (gates, width), format_)
        if arch.cell == "lstm":
            bias = bias.at[1].add(1)
        self.bias = nnx.Param(bias) if arch.bias else None
        self.inner = (
            nnx.Param(jnp.zeros(width, format_)) if arch.bias and arch.cell == "gru" else None
        )

    def __call__(
        self, z: Float[Array, "B S"], x: Float[Array, "B P"], ctx: ForwardContext
    ) -> tuple[Array, Statistics]:
        """The branch's output, and where they are asked for the statistics of its nonlinearities."""
        step = {"elman": self._elman, "gru": self._gru, "lstm": self._lstm}[self.kind]
        given = jnp.einsum("bp,gpd->gbd", x, self.input[...].astype(self.dtype))
        given = given if self.bias is None else given + self.bias[...].astype(self.dtype)[:, None]
        out, nonlinear = step(z, given)
        each = (
            [unit_statistics(kind, into) for kind, into in nonlinear]
            if ctx.collect_unit_stats
            else []
        )
        return out, jax.tree.map(lambda *values: sum(values) / len(values), *each) if each else {}

    def _from_state(self, h: Array) -> Float[Array, "G B D"]:
        return jnp.einsum("bd,gde->gbe", h, self.recurrent[...].astype(self.dtype))

    def _elman(self, z: Array, given: Array) -> tuple[Array, list]:
        (out,) = self._from_state(ACTIVATIONS[self.activation](z)) + given
        return out, [(self.activation, z)]

    def _gru(self, h: Array, given: Array) -> tuple[Array, list]:
        own = self._from_state(h)
        r = given[0] + own[0]
        update = given[1] + own[1]
        inner = own[2] if self.inner is None else own[2] + self.inner[...].astype(self.dtype)[None]
        new = given[2] + jax.nn.sigmoid(r) * inner
        kept = jax.nn.sigmoid(update)
        out = (1 - kept) * jnp.tanh(new) + kept * h
        return out, [("sigmoid", r), ("sigmoid", update), ("tanh", new)]

    def _lstm(self, state: Array, given: Array) -> tuple[Array, list]:
        c, h = jnp.split(state, 2, axis=-1)
        i, f, o, g = given + self._from_state(h)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        gates = [("sigmoid", gate) for gate in (i, f, o)]
        return jnp.concatenate([c, jax.nn.sigmoid(o) * jnp.tanh(c)], axis=-1), [*gates, ("tanh", g)]
