"""Update rules, schedules and clipping against their formulas in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.training.optimizers import clip, learning_rate, make_optimizer
from research.training.precision import scope
from research.training.program import make_program

OPTIMIZERS, SCHEDULES, CLIPS = (
    [option.name for option in options] for options in (config.OptimizerKind, config.Schedule, config.Clip)
)
STEPS = 3
NUMBERS = {
    "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.03, "optimizer.momentum": 0.8, "optimizer.beta1": 0.7,
    "optimizer.beta2": 0.95, "optimizer.epsilon": 1e-3, "optimizer.warmup_steps": 2, "optimizer.decay_factor": 0.3,
    "optimizer.clip_threshold": 0.02, "loss.label_smoothing": 0.1, "train.steps": STEPS,
}  # fmt: skip


def direction(kind, g, p, memory, t, *, decay, mu, b1, b2, eps):
    """What the learning rate multiplies at update t = 1, 2, …, of one array; ``memory`` is changed in place."""
    if kind in ("gd", "sgd"):
        return g + decay * p
    if kind == "momentum":
        memory["m"] = mu * memory.get("m", 0) + g + decay * p
        return memory["m"]
    g = g + decay * p if kind == "adam" else g
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    adam = memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + eps)
    return {"adam": adam, "adamw": adam + decay * p}[kind]


def rate(schedule, step, numbers):
    """The learning rate of update ``step`` = 0, 1, …"""
    names = ("optimizer.learning_rate", "train.steps", "optimizer.warmup_steps", "optimizer.decay_factor")
    peak, total, warmup, factor = map(numbers.get, names)
    cosine = np.cos(np.pi * min(1, (step - warmup) / max(total - warmup, 1)))
    return (
        peak
        * {
            "constant": 1,
            "warmup_cosine": (step + 1) / warmup if step < warmup else (1 + cosine) / 2,
            "step": factor ** (int(step >= total / 2) + int(step >= 3 * total / 4)),
            "linear": 1 - step / total,
        }[schedule]
    )


def clipped(kind, grads, params, bound):
    """``grads`` and ``params`` by path, stacked layers taken apart: each array is one layer's."""
    if kind == "global_norm":
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        return {path: g * min(1, bound / norm) for path, g in grads.items()}
    if kind == "value":
        return {path: np.clip(g, -bound, bound) for path, g in grads.items()}
    if kind == "adaptive":
        return {path: clipped_by_unit(g, params[path], bound) for path, g in grads.items()}
    return {"none": grads}[kind]


def clipped_by_unit(g, p, bound):
    """Brock et al. 2021, eq. 3: ‖G_i‖ ≤ λ max(‖W_i‖, 10⁻³), a unit being a column of a matrix, or a whole vector."""
    units = 0 if g.ndim == 2 else None
    norm, weight = (np.sqrt(np.sum(x**2, axis=units, keepdims=True)) for x in (g, p))
    return g * np.minimum(1, bound * np.maximum(weight, 1e-3) / np.maximum(norm, 1e-6))


def apart(tree):
    """Every array by its path, each layer of a stage under a path of its own."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        found |= {(name, n): leaf[n] for n in range(len(leaf))} if "stages" in name else {(name, None): leaf}
    return found


# Each optimizer with some schedule, clipping and loss, so that every option of these is met in a whole program.
PROGRAMS = list(
    zip(OPTIMIZERS, itertools.cycle(SCHEDULES), itertools.cycle(CLIPS), itertools.cycle(["mse", "cross_entropy"]))
)


@pytest.mark.parametrize("kind, schedule, clipping, loss", PROGRAMS)
def test_program_follows_the_formulas(
    kind, schedule, clipping, loss, make_spec, make_numbers, make_data, train, weights, loss_of
):
    """Three updates of a whole network, every parameter in float64; the batch is all examples, in whatever order."""
    with scope("float64"):
        how = {"optimizer": kind, "schedule": schedule, "clip": clipping, "loss": loss}
        level = "full" if clipping == "adaptive" else "off"
        spec = make_spec(**how, precision="float64", skip="rezero", depth=2, level=level)
        numbers, data = make_numbers(NUMBERS, dtype="float64"), make_data(8)
        losses = loss_of(spec, numbers, data)
        gradient = jax.grad(lambda params: jnp.mean(losses(params)))
        params = weights(make_program(spec).init(numbers).params)
        state, rows = train(spec, numbers, data, (1,) * STEPS)
        memories = {path: {} for path in apart(params)}
        for step in range(STEPS):
            bounded = clipped(clipping, apart(gradient(params)), apart(params), NUMBERS["optimizer.clip_threshold"])
            change = {
                path: -rate(schedule, step, NUMBERS) * direction(
                    kind, np.asarray(g), apart(params)[path], memories[path], step + 1, decay=0.03, mu=0.8, b1=0.7,
                    b2=0.95, eps=1e-3,
                )
                for path, g in bounded.items()
            }  # fmt: skip
            before, params = params, moved(params, change)
            np.testing.assert_allclose(rows["learning_rate"][0, step], rate(schedule, step, NUMBERS), rtol=1e-12)
            if level == "full":
                check_update_gauges({name: values[0, step] for name, values in rows["profile"].items()}, before, params)
        for path, expected in apart(params).items():
            np.testing.assert_allclose(apart(weights(state.params))[path], expected, rtol=1e-9, atol=1e-12)


def moved(params, change):
    def move(path, leaf):
        name = jax.tree_util.keystr(path)
        if "stages" in name:
            return leaf + np.stack([change[name, n] for n in range(len(leaf))])
        return leaf + change[name, None]

    return jax.tree.map_with_path(move, params)


def check_update_gauges(profile, before, after):
    def by_layer(tree):
        return np.linalg.norm(np.concatenate([leaf.reshape(2, -1) for leaf in jax.tree.leaves(tree)], axis=1), axis=1)

    weight, update = by_layer(before["stages"]), by_layer(jax.tree.map(np.subtract, after["stages"], before["stages"]))
    np.testing.assert_allclose(profile["weight_norm"], weight, rtol=1e-9)
    np.testing.assert_allclose(profile["update_norm"], update, rtol=1e-9)
    np.testing.assert_allclose(profile["update_ratio"], update / weight, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps, warmup", [(12, 3), (7, 0), (1, 0), (4, 9)])
def test_schedule(schedule, steps, warmup, make_numbers):
    numbers = NUMBERS | {"train.steps": steps, "optimizer.warmup_steps": warmup}
    hp = make_numbers(numbers, runs=None)
    rates = [float(learning_rate(schedule, jnp.int32(step), hp)) for step in range(steps)]
    np.testing.assert_allclose(rates, [rate(schedule, step, numbers) for step in range(steps)], rtol=1e-5, atol=1e-8)


def test_schedules_begin_and_end_where_they_say(make_numbers):
    hp = make_numbers({"train.steps": 100, "optimizer.warmup_steps": 10, "optimizer.learning_rate": 2.0}, runs=None)
    at = lambda schedule, step: float(learning_rate(schedule, jnp.int32(step), hp))  # noqa: E731
    assert [at("constant", step) for step in (0, 99)] == [2.0, 2.0]
    np.testing.assert_allclose([at("linear", step) for step in (0, 50, 99)], [2.0, 1.0, 0.02], rtol=1e-5)
    np.testing.assert_allclose([at("warmup_cosine", step) for step in (0, 9, 10, 55)], [0.2, 2.0, 2.0, 1.0], rtol=1e-5)
    assert at("warmup_cosine", 99) < 0.001
    np.testing.assert_allclose(
        [at("step", step) for step in (0, 49, 50, 74, 75, 99)], [2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-5
    )


def gradient_and_weights(size):
    """Two stacked layers and a head, as a program holds them."""
    generator = np.random.default_rng(0)

    def draw(scale):
        shapes = {"stages": {"0": {"kernel": (2, 4, 4), "bias": (2, 4), "alpha": (2,)}}, "head": {"kernel": (4, 3)}}
        is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
        return jax.tree.map(
            lambda s: jnp.asarray(scale * generator.standard_normal(s), jnp.float32), shapes, is_leaf=is_shape
        )

    return draw(size), draw(1.0)


compiled_clip = jax.jit(clip, static_argnums=0)


def assert_clipped(kind, grads, params, bound=0.1):
    measured = compiled_clip(kind, grads, params, jnp.float32(bound))
    wide_grads, wide_params = (
        {path: np.asarray(x, np.float64) for path, x in apart(tree).items()} for tree in (grads, params)
    )
    expected = clipped(kind, wide_grads, wide_params, bound)
    for path, values in apart(measured).items():
        np.testing.assert_allclose(values, expected[path], rtol=1e-5, atol=1e-30, err_msg=str(path))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("kind", CLIPS)
def test_clip(kind, size):
    assert_clipped(kind, *gradient_and_weights(size))


@pytest.mark.parametrize("size", [1e20, 1e30])
@pytest.mark.parametrize("kind", CLIPS)
def test_clip_bounds_a_gradient_whose_squares_overflow(kind, size):
    """An exploded gradient keeps its direction: it comes out as long as the threshold allows, not as zero."""
    assert_clipped(kind, *gradient_and_weights(size))


REFUSED = {
    "optimizer": lambda hp: make_optimizer("newton", hp),
    "schedule": lambda hp: learning_rate("newton", jnp.int32(0), hp),
    "clip": lambda hp: clip("newton", {}, {}, hp["optimizer.clip_threshold"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unknown_names_are_refused(what, make_numbers):
    with pytest.raises(ValueError, match=f"{what} must be .*, got newton"):
        REFUSED[what](make_numbers(runs=None))
