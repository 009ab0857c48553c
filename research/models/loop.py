"""A loop over stacked layers whose number is an argument of the program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Body = Callable[[Array, Array, Any], tuple[Array, Any]]


def loop_over_layers(
    body: Body,
    h: Array,
    layers: Any,
    count: Array,
) -> tuple[Array, Any]:
    """Applies ``body`` to the first ``count`` entries of stacked layers, like ``lax.scan``.

    The forward pass stores the input of each layer. The backward pass computes each layer again
    from its input, and takes its vector-Jacobian product. So the number of layers need not be known
    when the program is compiled, and results do not depend on how many entries are stacked.

    Only the last output is differentiated, in reverse mode; its gradient also in forward mode.

    Args:
        body: maps the signal h, the number of the layer and the layer to the next signal, of the
            same shape, and to further results.
        h: the input of the first layer.
        layers: a tree of arrays [N, …].
        count: how many layers there are, at most N.

    Returns:
        The last output, and the further results [N, …], zero for the entries from ``count`` on.
    """

    @jax.custom_vjp
    def run(h: Array, layers: Any) -> tuple[Array, Any]:
        def step(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            h, results = carry
            h, result = body(h, index, _read(layers, index))
            return h, _write(results, result, index)

        return lax.fori_loop(0, count, step, (h, _empty_results(body, h, layers)))

    def forward(h: Array, layers: Any) -> tuple[tuple[Array, Any], tuple[Any, Array]]:
        def step(index: Array, carry: tuple) -> tuple:
            h, results, inputs = carry
            inputs = _write(inputs, h, index)
            h, result = body(h, index, _read(layers, index))
            return h, _write(results, result, index), inputs

        inputs = jnp.zeros((_capacity(layers), *h.shape), h.dtype)
        start = (h, _empty_results(body, h, layers), inputs)
        h, results, inputs = lax.fori_loop(0, count, step, start)
        return (h, results), (layers, inputs)

    def backward(saved: tuple[Any, Array], cotangents: tuple[Array, Any]) -> tuple[Array, Any]:
        layers, inputs = saved
        cotangent, _ = cotangents

        def step(number: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            cotangent, gradients = carry
            index = count - 1 - number

            def output(h: Array, layer: Any) -> Array:
                return body(h, index, layer)[0]

            _, pullback = jax.vjp(output, _read(inputs, index), _read(layers, index))
            cotangent, gradient = pullback(cotangent)
            return cotangent, _write(gradients, gradient, index)

        gradients = jax.tree.map(jnp.zeros_like, layers)
        return lax.fori_loop(0, count, step, (cotangent, gradients))

    run.defvjp(forward, backward)
    return run(h, layers)


def _capacity(layers: Any) -> int:
    return jax.tree.leaves(layers)[0].shape[0]


def _empty_results(
    body: Body,
    h: Array,
    layers: Any,
) -> Any:
    """Zeros [N, …] in the shapes of the results of ``body``."""
    _, shapes = jax.eval_shape(body, h, jnp.int32(0), _read(layers, 0))
    capacity = _capacity(layers)
    return jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), shapes)


def _read(stacked: Any, index: Array | int) -> Any:
    read = partial(lax.dynamic_index_in_dim, index=index, keepdims=False)
    return jax.tree.map(read, stacked)


def _write(
    stacked: Any,
    values: Any,
    index: Array,
) -> Any:
    write = partial(lax.dynamic_update_index_in_dim, index=index, axis=0)
    return jax.tree.map(write, stacked, values)
