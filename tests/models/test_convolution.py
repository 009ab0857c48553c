"""The convolution by its definition, forward and backward, on both sides of the platform's choice."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from research.models import convolution
from research.models.convolution import convolve
from research.training import precision

FORMS = list(itertools.product((1, 3, 7), (1, 2), (False, True)))  # size, stride, circular
CASES = [("float64", (7, 8), *form) for form in FORMS]
CASES += [
    ("float64", (2, 5), 7, 1, circular) for circular in (False, True)
]  # reaches beyond the opposite side
CASES += [("float32", (7, 8), 3, stride, False) for stride in (1, 2)]
TOLERANCES = {"float32": 2e-6, "float64": 1e-13}


def draw(shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def arguments(size, stride, sides=(7, 8), *, channels=3, features=4, dtype="float32"):
    """An image, a kernel and the gradient of a loss with respect to the output."""
    out = [-(-side // stride) for side in sides]
    shapes = (2, *sides, channels), (size, size, channels, features), (2, *out, features)
    return [draw(shape, seed, dtype) for seed, shape in enumerate(shapes)]


def output_and_gradients(convolution, x, kernel, grad, **form):
    def run(x, kernel, grad):
        y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, **form), x, kernel)
        return y, *pull(grad)

    return jax.jit(run)(x, kernel, grad)


def by_definition(x, kernel, grad, *, stride, circular):
    """The same in NumPy and float64, tap by tap: row h of the output sees row s·h + i - p of the image."""
    x, kernel, grad = (np.asarray(array, np.float64) for array in (x, kernel, grad))
    y = np.zeros_like(grad)
    dx = np.zeros_like(x)
    dkernel = np.zeros_like(kernel)
    seen = [
        stride * np.arange(side)[:, None] + np.arange(len(kernel)) - len(kernel) // 2
        for side in grad.shape[1:3]
    ]
    for h, w, i, j in itertools.product(*map(range, (*grad.shape[1:3], *kernel.shape[:2]))):
        row = seen[0][h, i]
        column = seen[1][w, j]
        if circular:
            row = row % x.shape[1]
            column = column % x.shape[2]
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            y[:, h, w] += x[:, row, column] @ kernel[i, j]
            dx[:, row, column] += grad[:, h, w] @ kernel[i, j].T
            dkernel[i, j] += x[:, row, column].T @ grad[:, h, w]
    return y, dx, dkernel


def assert_near(measured, expected, tolerance):
    """Every number, to within ``tolerance`` times the largest of its array."""
    for ours, theirs in zip(measured, expected, strict=True):
        theirs = np.asarray(theirs, np.float64)
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), theirs, rtol=0, atol=tolerance * abs(theirs).max()
        )


@pytest.mark.parametrize("kind, sides, size, stride, circular", CASES)
def test_output_and_gradients_follow_the_definition_on_both_platforms(
    kind, sides, size, stride, circular
):
    """By products and by XLA's own convolution, which is what accelerators run."""
    form = {"stride": stride, "circular": circular}
    with precision.scope(kind):
        case = arguments(size, stride, sides, dtype=kind)
        expected = by_definition(*case, **form)
        assert_near(output_and_gradients(convolve, *case, **form), expected, TOLERANCES[kind])
        assert_near(
            output_and_gradients(convolution._as_convolution, *case, **form),
            expected,
            TOLERANCES[kind],
        )


@pytest.mark.parametrize("stride", [1, 2])
def test_samples_lie_where_pytorch_puts_them(stride):
    """At 0, 2, 4, …: the kernel's middle lies on the first pixel whatever the side, unlike in TensorFlow's "SAME"."""
    x = arguments(3, stride)[0]
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[1, 1] = np.eye(3)
    np.testing.assert_array_equal(
        convolve(x, jnp.asarray(identity), stride=stride), x[:, ::stride, ::stride]
    )


def test_a_circular_convolution_commutes_with_circular_shifts():
    x, kernel, _ = arguments(3, 1)
    moved = convolve(jnp.roll(x, (2, 3), (1, 2)), kernel, circular=True)
    assert_near([moved], [jnp.roll(convolve(x, kernel, circular=True), (2, 3), (1, 2))], 1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_the_limits_of_differences(stride):
    with precision.scope("float64"):
        x, kernel, grad = arguments(3, stride, (4, 5), dtype="float64")
        along = draw(x.shape, 3, "float64"), draw(kernel.shape, 4, "float64")

        def smooth(t):
            return jnp.sum(
                grad * jnp.tanh(convolve(x + t * along[0], kernel + t * along[1], stride=stride))
            )

        step = 1e-5
        difference = (smooth(step) - smooth(-step)) / (2 * step)
        assert float(jax.grad(smooth)(0.0)) == pytest.approx(float(difference), rel=1e-7)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("stride", [1, 2])
def test_16_bit_formats_are_summed_in_float32_and_rounded_once(kind, stride):
    """Of 576 products each; a sum in 16 bits, or a second rounding, is off by more than half a last place."""
    case = arguments(3, stride, (12, 12), channels=64, features=64, dtype=kind)
    half_a_place = float(jnp.finfo(kind).eps) / 2
    measured = output_and_gradients(convolve, *case, stride=stride)
    for ours, exact in zip(
        measured, by_definition(*case, stride=stride, circular=False), strict=True
    ):
        assert ours.dtype == kind
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), exact, rtol=1.001 * half_a_place, atol=1e-4
        )


def in_fori_loop(function, *stacked):
    outs = jax.tree.map(jnp.zeros_like, jax.eval_shape(jax.vmap(function), *stacked))

    def step(n, outs):
        new = function(*(array[n] for array in stacked))
        return jax.tree.map(lambda out, value: out.at[n].set(value), outs, new)

    return lax.fori_loop(0, len(stacked[0]), step, outs)


TRANSFORMS = {
    "vmap": lambda function, *stacked: jax.vmap(function)(*stacked),
    "map": lambda function, *stacked: lax.map(lambda each: function(*each), stacked),
    "scan": lambda function, *stacked: lax.scan(
        lambda _, each: (None, function(*each)), None, stacked
    )[1],
    "fori_loop": in_fori_loop,
}


def loss_and_gradients(convolution, *, stride):
    def loss(x, kernel):
        return jnp.mean(jnp.tanh(convolution(x, kernel, stride=stride)))

    return jax.value_and_grad(loss, (0, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_transformed_equals_one_by_one(stride, distance):
    stacked = draw((3, 2, 7, 8, 3)), draw((3, 3, 3, 3, 4), 1)
    function = jax.jit(loss_and_gradients(convolve, stride=stride))
    alone = [function(*each) for each in zip(*stacked, strict=True)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    for name, transform in TRANSFORMS.items():
        together = jax.jit(partial(transform, function))(*stacked)
        assert distance(together, expected) < 1e-6, name


def test_a_checkpoint_changes_nothing(distance):
    x, kernel, _ = arguments(3, 1)
    kept = jax.checkpoint(convolve)
    plain = jax.jit(loss_and_gradients(lambda x, k, stride: convolve(x, k), stride=1))(x, kernel)
    again = jax.jit(loss_and_gradients(lambda x, k, stride: kept(x, k), stride=1))(x, kernel)
    assert distance(again, plain) < 1e-7


def test_the_backward_pass_keeps_the_image_and_the_kernel_alone():
    x, kernel, _ = arguments(3, 1)
    _, pull = jax.vjp(convolve, x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) == x.size + kernel.size


def training(convolution, *, stride):
    """Steps of descent on the kernel in a loop, over layers in a loop: the shape of every program of this package."""
    step = loss_and_gradients(convolution, stride=stride)

    def layer(x, kernel):
        _, (dx, dkernel) = step(x, kernel)
        return x - dx, kernel - dkernel

    return jax.jit(
        lambda x, kernels: lax.fori_loop(
            0, 3, lambda _, state: lax.scan(layer, *state), (x, kernels)
        )
    )


@pytest.mark.parametrize("stride, count", [(1, 3), (2, 0)])
def test_a_program_for_the_cpu_convolves_in_the_forward_form_alone(stride, count):
    """Of another form are the gradients that XLA makes by itself: the kernel turned, or summed over something else."""
    case = draw((2, 6, 6, 3)), draw((4, 3, 3, 3, 3), 1)
    assert forms(convolve, *case, stride=stride) == ["b01f_01io->b01f"] * count
    unasked = forms(partial(convolution._as_convolution, circular=False), *case, stride=1)
    assert set(unasked) - {"b01f_01io->b01f"}


def forms(convolution, x, kernels, *, stride):
    """The form of every convolution in the compiled program; ``turned`` or ``dilated`` is said too."""
    text = training(convolution, stride=stride).lower(x, kernels).compile().as_text()
    found = [line for line in str(text).splitlines() if " convolution(" in line]
    marks = {"rhs_reversal": " turned", "lhs_dilate": " dilated", "rhs_dilate": " dilated"}
    said = ["".join(word for mark, word in marks.items() if mark in line) for line in found]
    labels = [re.findall(r"dim_labels=([^,]+)", line)[0] for line in found]
    return [label + word for label, word in zip(labels, said, strict=True)]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_convolve_by_themselves(platform):
    text = (
        jax.jit(convolve)
        .trace(*arguments(3, 1)[:2])
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    assert "stablehlo.convolution(" in text and "dot_general" not in text


@pytest.mark.parametrize("size", [2, 4])
def test_a_kernel_without_a_middle_is_refused(size):
    with pytest.raises(ValueError, match=f"odd sides, got {size}×{size}"):
        convolve(draw((2, 7, 8, 3)), draw((size, size, 3, 4)))


def test_two_formats_are_refused():
    with pytest.raises(ValueError, match="got float32 and float16"):
        convolve(draw((2, 7, 8, 3)), draw((3, 3, 3, 4), dtype="float16"))
