"""A residual network for small images against its formula, forward and backward, in every order and transition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config.schema import Placement
from research.models import architecture
from research.models.stack import Stack
from research.training.precision import scope

from ..compiling import quick

# Every placement and both transitions are among those that are run always.
CASES = [
    pytest.param(placement.name, transition, marks=[pytest.mark.slow] if (n + m) % 2 else [])
    for (n, placement), (m, transition) in itertools.product(
        enumerate(Placement), enumerate(["pad", "projection"])
    )
]


def convolved(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=axes
    )


def normalised(h, norm):
    mean = jnp.mean(h, (0, 1, 2), keepdims=True)
    var = jnp.var(h, (0, 1, 2), keepdims=True)
    scale, bias = (norm[name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
    return (h - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def residual_network(params, images, nudges, placement):
    """Depth 14: two blocks each of widths w, 2w and 4w (He et al. 2016, Fig. 2; ``pre``: 2016b, Fig. 4e)."""
    pre = placement == "pre"
    relu = jax.nn.relu
    nudges = iter(nudges)

    def tapped(h):
        return h + next(nudges, jnp.zeros_like(h))

    h = convolved(images, params["embed"]["conv"]["kernel"])
    h = tapped(h if pre else relu(normalised(h, params["embed"]["norm"])))
    seen = [h]
    stacks = params["stages"]
    places = [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
    ]  # blocks that change the shape are stages of their own
    for n, (stage, block) in enumerate(places):
        layer = jax.tree.map(lambda leaf: leaf[block], stacks[stage])
        first, second = (layer["branch"]["weights"][i]["kernel"] for i in (0, 1))
        stride = 2 if n in (2, 4) else 1
        z = tapped(h)
        shortcut = tapped(h)
        seen += [z, shortcut]
        z = relu(normalised(z, layer["norm"])) if pre else z
        z = convolved(
            relu(normalised(convolved(z, first, stride), layer["branch"]["norms"][1])), second
        )
        z = normalised(z, layer["norm"]) if placement == "branch" else z
        shortcut = shortcut[:, ::stride, ::stride]
        if "projection" in layer.get("skip", {}):
            shortcut = normalised(
                shortcut @ layer["skip"]["projection"]["kernel"], layer["skip"]["norm"]
            )
        else:
            shortcut = jnp.pad(shortcut, [(0, 0)] * 3 + [(0, z.shape[-1] - shortcut.shape[-1])])
        h = z + shortcut
        h = normalised(h, layer["norm"]) if placement == "post" else h
        h = tapped(h if pre else relu(h))
        seen.append(h)
    h = relu(normalised(h, params["norm"])) if pre else h
    return jnp.mean(h, (1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None], seen


@pytest.mark.parametrize(("placement", "transition"), CASES)
def test_a_residual_network_and_its_gauges_are_those_of_the_formula(
    placement, transition, build, make_architecture, make_numbers
):
    how = dict(
        kind="resnet_cifar",
        depth=14,
        width=3,
        shape=(8, 8, 2),
        classes=4,
        skip="identity",
        norm="batch",
    )
    formats = dict(dtype="float64", param_dtype="float64", activation="relu")
    arch = make_architecture(**how, **formats, placement=placement, transition=transition)
    draw = np.random.default_rng(0).standard_normal
    with scope("float64"):
        hp = make_numbers(runs=None, dtype="float64")
        graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
        with jax.disable_jit():
            params, rest = build(arch, hp)
        params = jax.tree.map(lambda leaf: leaf + 0.2 * draw(leaf.shape), params)
        x = jnp.asarray(draw((3, 128)))
        cotangent = jnp.asarray(draw((3, 4)))
        slots = {
            "signal_grad": jnp.zeros(7),
            "branch_grad": jnp.zeros(6),
            "skip_grad": jnp.zeros(6),
        }

        def objective(params, slots):
            ctx = architecture.ForwardContext(hp, train=True, level=Level.norms)
            logits, statistics = nnx.merge(graph, params, rest, copy=True)(x, slots, ctx)
            return jnp.sum(logits * cotangent), (logits, statistics)

        def expected(params, nudges):
            logits, seen = residual_network(params, x.reshape(3, 8, 8, 2), nudges, placement)
            return jnp.sum(logits * cotangent), (logits, seen)

        gradient = quick(jax.grad(objective, (0, 1), has_aux=True))
        (grads, gauges), (logits, statistics) = gradient(params, slots)
        plain = nnx.to_pure_dict(params)
        shapes = jax.eval_shape(expected, plain, [])[1][1]
        nudges = [jnp.zeros(shape.shape) for shape in shapes]
        (wanted, nudged), (like, seen) = quick(jax.grad(expected, (0, 1), has_aux=True))(
            plain, nudges
        )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10)
    close(logits, like)
    norms = [np.linalg.norm(nudge) for nudge in nudged]
    close(gauges["signal_grad"], [norms[0], *norms[3::3]])
    close(gauges["branch_grad"], norms[1::3])
    close(gauges["skip_grad"], norms[2::3])
    close(
        statistics["activation_rms"],
        [np.sqrt(np.mean(np.square(np.asarray(h)))) for h in [seen[0], *seen[3::3]]],
    )
    grads = nnx.to_pure_dict(grads)
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-10 * float(max(norms))), grads, wanted)
