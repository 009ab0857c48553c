"""The convolution against its definition, forward and backward, for CPUs and for accelerators."""

import itertools
import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal

from research.models.convolution import Window, convolve, xla_convolve
from research.training.precision import precision_context

from .networks import normal, relative_distance

TOLERANCES = {"float32": 2e-6, "float64": 1e-13}
both_strides = pytest.mark.parametrize("stride", [1, 2])


@dataclass(frozen=True)
class Case:
    """A convolution to test."""

    dtype: str
    sides: tuple[int, int]
    size: int
    stride: int
    circular: bool

    def __str__(self):
        height, width = self.sides
        boundary = "circular" if self.circular else "zero"
        return f"{self.dtype}-{height}x{width}-{self.size}-{self.stride}-{boundary}"


def list_cases():
    cases = []
    boundaries = (False, True)
    strides = (1, 2)
    for size, stride, circular in itertools.product((1, 3, 7), strides, boundaries):
        cases.append(Case("float64", (7, 8), size, stride, circular))
    for circular in boundaries:  # the kernel reaches beyond the opposite side
        cases.append(Case("float64", (2, 5), 7, 1, circular))
    for stride in strides:
        cases.append(Case("float32", (7, 8), 3, stride, circular=False))
    return cases


def draw(shape, seed=0, dtype="float32"):
    return jnp.asarray(normal(shape, seed), dtype)


def make_arguments(
    size,
    stride,
    sides=(7, 8),
    *,
    channels=3,
    features=4,
    dtype="float32",
):
    """Images, a kernel, and the gradient of a loss with respect to the output."""
    out_height = -(-sides[0] // stride)
    out_width = -(-sides[1] // stride)
    x = draw((2, *sides, channels), 0, dtype)
    kernel = draw((size, size, channels, features), 1, dtype)
    grad = draw((2, out_height, out_width, features), 2, dtype)
    return x, kernel, grad


def output_and_gradients(function, x, kernel, grad):
    @jax.jit
    def run(x, kernel, grad):
        y, pull_back = jax.vjp(function, x, kernel)
        x_grad, kernel_grad = pull_back(grad)
        return y, x_grad, kernel_grad

    return run(x, kernel, grad)


def by_definition(
    x,
    kernel,
    grad,
    *,
    stride,
    circular,
):
    """The same in NumPy and float64, one product of the sum after the other."""
    x = np.asarray(x, np.float64)
    kernel = np.asarray(kernel, np.float64)
    grad = np.asarray(grad, np.float64)
    y = np.zeros_like(grad)
    x_grad = np.zeros_like(x)
    kernel_grad = np.zeros_like(kernel)
    _, height, width, _ = x.shape
    pad = len(kernel) // 2
    _, out_height, out_width, _ = grad.shape
    size = len(kernel)
    every_product = np.ndindex(out_height, out_width, size, size)
    for h, w, i, j in every_product:
        row = stride * h + i - pad
        column = stride * w + j - pad
        if circular:
            row %= height
            column %= width
        if 0 <= row < height and 0 <= column < width:
            pixel = x[:, row, column]
            y[:, h, w] += pixel @ kernel[i, j]
            x_grad[:, row, column] += grad[:, h, w] @ kernel[i, j].T
            kernel_grad[i, j] += pixel.T @ grad[:, h, w]
    return y, x_grad, kernel_grad


def assert_close(measured, expected, tolerance):
    """Compares every number, within ``tolerance`` times the largest of its array."""
    for ours, theirs in zip(measured, expected, strict=True):
        ours = np.asarray(ours, np.float64)
        theirs = np.asarray(theirs, np.float64)
        atol = tolerance * abs(theirs).max()
        assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("case", list_cases(), ids=str)
def test_output_and_gradients_follow_the_definition_on_every_platform(case):
    """By the code for CPUs, and by XLA's convolution, which accelerators run."""
    on_cpu = partial(convolve, stride=case.stride, circular=case.circular)
    on_accelerators = partial(xla_convolve, window=Window(case.stride, case.circular))
    tolerance = TOLERANCES[case.dtype]
    with precision_context(case.dtype):
        arguments = make_arguments(case.size, case.stride, case.sides, dtype=case.dtype)
        expected = by_definition(*arguments, stride=case.stride, circular=case.circular)
        assert_close(output_and_gradients(on_cpu, *arguments), expected, tolerance)
        assert_close(output_and_gradients(on_accelerators, *arguments), expected, tolerance)


@both_strides
def test_samples_lie_where_pytorch_puts_them(stride):
    """At 0, 2, 4, …: the kernel's centre is on the first pixel, unlike "SAME" in TensorFlow."""
    x, _, _ = make_arguments(3, stride)
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[1, 1] = np.eye(3)
    out = convolve(x, jnp.asarray(identity), stride=stride)
    assert_array_equal(out, x[:, ::stride, ::stride])


def test_a_circular_convolution_commutes_with_circular_shifts():
    x, kernel, _ = make_arguments(3, 1)

    def shift(images):
        return jnp.roll(images, (2, 3), (1, 2))

    shifted_before = convolve(shift(x), kernel, circular=True)
    shifted_after = shift(convolve(x, kernel, circular=True))
    assert_close([shifted_before], [shifted_after], 1e-6)


@both_strides
@pytest.mark.usefixtures("float64")
def test_gradients_are_the_limits_of_differences(stride):
    x, kernel, grad = make_arguments(3, stride, (4, 5), dtype="float64")
    x_direction = draw(x.shape, 3, "float64")
    kernel_direction = draw(kernel.shape, 4, "float64")

    def loss(t):
        y = convolve(x + t * x_direction, kernel + t * kernel_direction, stride=stride)
        return jnp.sum(grad * jnp.tanh(y))

    step = 1e-5
    difference = (loss(step) - loss(-step)) / (2 * step)
    derivative = jax.grad(loss)(0.0)
    assert_allclose(derivative, difference, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@both_strides
def test_16_bit_formats_are_summed_in_float32_and_rounded_once(dtype, stride):
    """A sum of 576 products in 16 bits, or a second rounding, is off by more than half a place."""
    arguments = make_arguments(
        3,
        stride,
        (12, 12),
        channels=64,
        features=64,
        dtype=dtype,
    )
    half_a_place = float(jnp.finfo(dtype).eps) / 2
    measured = output_and_gradients(partial(convolve, stride=stride), *arguments)
    expected = by_definition(*arguments, stride=stride, circular=False)
    for ours, exact in zip(measured, expected, strict=True):
        assert ours.dtype == dtype
        ours = np.asarray(ours, np.float64)
        assert_allclose(ours, exact, rtol=1.001 * half_a_place, atol=1e-4)


def by_vmap(function, *stacked):
    return jax.vmap(function)(*stacked)


def by_map(function, *stacked):
    return lax.map(lambda arguments: function(*arguments), stacked)


def by_scan(function, *stacked):
    def body(carry, arguments):
        return carry, function(*arguments)

    _, outs = lax.scan(body, None, stacked)
    return outs


def by_fori_loop(function, *stacked):
    shapes = jax.eval_shape(jax.vmap(function), *stacked)
    zeros = jax.tree.map(jnp.zeros_like, shapes)

    def step(number, outs):
        arguments = [array[number] for array in stacked]
        values = function(*arguments)
        return jax.tree.map(lambda out, value: out.at[number].set(value), outs, values)

    return lax.fori_loop(0, len(stacked[0]), step, zeros)


def loss_and_gradients(function):
    def loss(x, kernel):
        return jnp.mean(jnp.tanh(function(x, kernel)))

    return jax.value_and_grad(loss, (0, 1))


@pytest.mark.parametrize("transform", [by_vmap, by_map, by_scan, by_fori_loop])
@both_strides
def test_transformed_equals_one_by_one(transform, stride):
    images = draw((3, 2, 7, 8, 3))
    kernels = draw((3, 3, 3, 3, 4), 1)
    function = jax.jit(loss_and_gradients(partial(convolve, stride=stride)))
    separate = []
    for x, kernel in zip(images, kernels, strict=True):
        separate.append(function(x, kernel))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *separate)
    transformed = jax.jit(partial(transform, function))(images, kernels)
    assert relative_distance(transformed, expected) < 1e-6


def test_a_checkpoint_changes_nothing():
    x, kernel, _ = make_arguments(3, 1)
    usual = jax.jit(loss_and_gradients(convolve))(x, kernel)
    recomputed = jax.jit(loss_and_gradients(jax.checkpoint(convolve)))(x, kernel)
    assert relative_distance(recomputed, usual) < 1e-7


def test_the_backward_pass_stores_only_the_image_and_the_kernel():
    x, kernel, _ = make_arguments(3, 1)
    _, pull_back = jax.vjp(convolve, x, kernel)
    stored = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert stored == x.size + kernel.size


def train(function, x, kernels):
    """Steps of gradient descent in a loop, over layers in a loop, as in programs of the package."""
    gradient = loss_and_gradients(function)

    def layer(x, kernel):
        _, (x_grad, kernel_grad) = gradient(x, kernel)
        return x - x_grad, kernel - kernel_grad

    def step(_, state):
        return lax.scan(layer, *state)

    return lax.fori_loop(0, 3, step, (x, kernels))


FORWARD_FORM = "b01f_01io->b01f"
OTHER_FORMS = {
    "rhs_reversal": " reversed",
    "lhs_dilate": " dilated",
    "rhs_dilate": " dilated",
}


def list_compiled_forms(function):
    """The form of every convolution in the compiled training loop."""
    x = draw((2, 6, 6, 3))
    kernels = draw((4, 3, 3, 3, 3), 1)
    program = jax.jit(partial(train, function)).lower(x, kernels).compile()
    forms = []
    for line in str(program.as_text()).splitlines():
        if " convolution(" in line:
            (form,) = re.findall(r"dim_labels=([^,]+)", line)
            for attribute, word in OTHER_FORMS.items():
                if attribute in line:
                    form += word
            forms.append(form)
    return forms


@pytest.mark.parametrize("stride, count", [(1, 3), (2, 0)])
def test_programs_for_the_cpu_contain_only_the_forward_form(stride, count):
    function = partial(convolve, stride=stride)
    assert list_compiled_forms(function) == [FORWARD_FORM] * count


def test_the_gradients_that_jax_derives_have_other_forms():
    function = partial(xla_convolve, window=Window(1, circular=False))
    assert set(list_compiled_forms(function)) - {FORWARD_FORM}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_use_their_own_convolution(platform):
    x, kernel, _ = make_arguments(3, 1)
    traced = jax.jit(convolve).trace(x, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution(" in text
    assert "dot_general" not in text


@pytest.mark.parametrize("size", [2, 4])
def test_a_kernel_without_a_centre_is_refused(size):
    x = draw((2, 7, 8, 3))
    kernel = draw((size, size, 3, 4))
    with pytest.raises(ValueError, match=f"odd sides, got {size}×{size}"):
        convolve(x, kernel)


def test_different_formats_are_refused():
    x = draw((2, 7, 8, 3))
    kernel = draw((3, 3, 3, 4), dtype="float16")
    with pytest.raises(ValueError, match="got float32 and float16"):
        convolve(x, kernel)


@both_strides
def test_a_gradient_has_the_derivative_of_the_convolution_by_xla(stride):
    def derivative(function):
        def loss(kernel):
            return jnp.sum(jnp.sin(function(x, kernel)))

        return jax.jvp(jax.grad(loss), (kernel,), (direction,))[1]

    def by_xla(x, kernel):
        return xla_convolve(x, kernel, Window(stride, circular=False))

    with precision_context("float64"):
        x = draw((2, 7, 8, 3), 0, "float64")
        kernel = draw((3, 3, 3, 4), 1, "float64")
        direction = draw((3, 3, 3, 4), 2, "float64")

        ours = derivative(partial(convolve, stride=stride))
        expected = derivative(by_xla)

        assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)
