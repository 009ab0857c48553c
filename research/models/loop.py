"""A loop over stacked layers whose number is an argument of the program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Carry = tuple[Array, Any]  # a signal, or its gradient, and what belongs to the stacked layers
Saved = tuple[Any, Array]  # the stacked layers, and the input of each of them
Body = Callable[[Array, Array, Any], Carry]


def loop_over_layers(
    body: Body,
    h: Array,
    layers: Any,
    count: Array,
) -> Carry:
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
    def run(h: Array, layers: Any) -> Carry:
        def step(index: Array, carry: Carry) -> Carry:
            h, results = carry
            h, result = body(h, index, _read(layers, index))
            return h, _write(results, result, index)

        start = (h, _empty_results(body, h, layers))
        return lax.fori_loop(0, count, step, start)

    def forward(h: Array, layers: Any) -> tuple[Carry, Saved]:
        def step(index: Array, carry: tuple) -> tuple:
            h, results, inputs = carry
            inputs = _write(inputs, h, index)
            h, result = body(h, index, _read(layers, index))
            return h, _write(results, result, index), inputs

        capacity = _capacity(layers)
        inputs = jnp.zeros((capacity, *h.shape), h.dtype)
        start = (h, _empty_results(body, h, layers), inputs)
        h, results, inputs = lax.fori_loop(0, count, step, start)
        return (h, results), (layers, inputs)

    def backward(saved: Saved, cotangents: Carry) -> Carry:
        layers, inputs = saved
        cotangent, _ = cotangents

        def step(number: Array, carry: Carry) -> Carry:
            cotangent, gradients = carry
            index = count - 1 - number

            def output(h: Array, layer: Any) -> Array:
                return body(h, index, layer)[0]

            h = _read(inputs, index)
            layer = _read(layers, index)
            _, pullback = jax.vjp(output, h, layer)
            cotangent, gradient = pullback(cotangent)
            return cotangent, _write(gradients, gradient, index)

        gradients = jax.tree.map(jnp.zeros_like, layers)
        return lax.fori_loop(0, count, step, (cotangent, gradients))

    run.defvjp(forward, backward)
    return run(h, layers)


def _capacity(layers: Any) -> int:
    first_leaf = jax.tree.leaves(layers)[0]
    return len(first_leaf)


def _empty_results(
    body: Body,
    h: Array,
    layers: Any,
) -> Any:
    """Zeros [N, …] in the shapes of the results of ``body``."""
    first_layer = _read(layers, 0)
    _, results = jax.eval_shape(body, h, jnp.int32(0), first_layer)
    capacity = _capacity(layers)

    def zeros(result: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros((capacity, *result.shape), result.dtype)

    return jax.tree.map(zeros, results)


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
