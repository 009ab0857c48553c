"""Update rules against their formulas in float64, by themselves and in whole programs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.training.optimizers import learning_rate, make_optimizer
from research.training.precision import scope
from research.training.program import make_program

from ..compiling import quick
from .formulas import (
    CELL,
    CLIPS,
    DECOUPLED,
    NUMBERS,
    OPTIMIZERS,
    SCHEDULES,
    SHAPES,
    STEPS,
    apart,
    clipped,
    direction,
    draw,
    is_hidden,
    rate,
)

READS = {
    "momentum": {"momentum"}, "nesterov": {"momentum"}, "rmsprop": {"beta2", "epsilon"}, "adagrad": {"epsilon"},
    "adam": {"beta1", "beta2", "epsilon"}, "adamw": {"beta1", "beta2", "epsilon"}, "lion": {"beta1", "beta2"},
    "muon": {"momentum", "beta1", "beta2", "epsilon"},
}  # fmt: skip

# Each optimizer with some schedule, clipping and loss; the first of them, which have every option of these, always.
PROGRAMS = [
    pytest.param(*options, marks=[] if n < max(len(SCHEDULES), len(CLIPS)) else pytest.mark.slow)
    for n, options in enumerate(
        zip(
            OPTIMIZERS,
            itertools.cycle(SCHEDULES),
            itertools.cycle(CLIPS),
            itertools.cycle(["mse", "cross_entropy"]),
        )
    )
]


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("kind, schedule, clipping, loss", PROGRAMS)
def test_program_follows_the_formulas(
    kind, schedule, clipping, loss, make_spec, make_numbers, make_data, train, weights, loss_of
):
    """Three updates of a whole network, every parameter in float64; the batch is all examples, in whatever order."""
    with scope("float64"):
        how = {"optimizer": kind, "schedule": schedule, "clip": clipping, "loss": loss}
        level = "full" if clipping == "adaptive" else "off"
        spec = make_spec(**how, precision="float64", skip="rezero", depth=2, level=level)
        numbers = make_numbers(NUMBERS, dtype="float64")
        data = make_data(8)
        losses = loss_of(spec, numbers, data)
        gradient = quick(jax.grad(lambda params: jnp.mean(losses(params))))
        params = weights(make_program(spec).init(numbers).params)
        state, rows = train(spec, numbers, data, (1,) * STEPS)
        memories = {path: {} for path in apart(params)}
        for step in range(STEPS):
            bounded = clipped(
                clipping,
                apart(gradient(params)),
                apart(params),
                NUMBERS["optimizer.clip_threshold"],
            )
            change = {
                path: -rate(schedule, step, NUMBERS) * direction(
                    kind, np.asarray(g), apart(params)[path], memories[path], step + 1, hidden=is_hidden(path),
                    decay=0.03, mu=0.8, b1=0.7, b2=0.95, eps=1e-3,
                )
                for path, g in bounded.items()
            }  # fmt: skip
            before = params
            params = moved(params, change)
            np.testing.assert_allclose(
                rows["learning_rate"][0, step], rate(schedule, step, NUMBERS), rtol=1e-12
            )
            if level == "full":
                check_update_gauges(
                    {name: values[0, step] for name, values in rows["profile"].items()},
                    before,
                    params,
                )
        for path, expected in apart(params).items():
            np.testing.assert_allclose(
                apart(weights(state.params))[path], expected, rtol=1e-9, atol=1e-12
            )


def moved(params, change):
    def move(path, leaf):
        name = jax.tree_util.keystr(path)
        if "stages" in name:
            return leaf + np.stack([change[name, n] for n in range(len(leaf))])
        return leaf + change[name, None]

    return jax.tree.map_with_path(move, params)


def check_update_gauges(profile, before, after):
    def by_layer(tree):
        return np.linalg.norm(
            np.concatenate([leaf.reshape(2, -1) for leaf in jax.tree.leaves(tree)], axis=1), axis=1
        )

    weight = by_layer(before["stages"])
    update = by_layer(jax.tree.map(np.subtract, after["stages"], before["stages"]))
    np.testing.assert_allclose(profile["weight_norm"], weight, rtol=1e-9)
    np.testing.assert_allclose(profile["update_norm"], update, rtol=1e-9)
    np.testing.assert_allclose(profile["update_ratio"], update / weight, rtol=1e-9)


@functools.cache
def compiled(kind):
    """An optimizer's two functions, its numbers being arguments as in a program."""
    init = quick(lambda hp, params: make_optimizer(kind, hp).init(params))
    return init, quick(lambda hp, *how: make_optimizer(kind, hp).update(*how))


def directions(kind, gradients, params, hp):
    """The direction of each update of the same weights."""
    init, update = compiled(kind)
    state = init(hp, params)
    found = []
    for grads in gradients:
        change, state = update(hp, grads, state, params)
        found.append(change)
    return found


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_directions_follow_the_formulas(kind, make_numbers):
    """Parameters of every shape there is: embedding and head, stacked matrices, kernels of images, vectors, scalars."""
    with scope("float64"):
        params = draw(SHAPES, 0)
        gradients = [draw(SHAPES, seed) for seed in range(1, STEPS + 1)]
        found = directions(
            kind, gradients, params, make_numbers(NUMBERS, runs=None, dtype="float64")
        )
        for path, p in apart(params).items():
            memory = {}
            for step, grads in enumerate(gradients):
                expected = direction(
                    kind, np.asarray(apart(grads)[path]), np.asarray(p), memory, step + 1, hidden=is_hidden(path),
                    decay=0.03, mu=0.8, b1=0.7, b2=0.95, eps=1e-3,
                )  # fmt: skip
                np.testing.assert_allclose(
                    apart(found[step])[path], expected, rtol=1e-9, atol=1e-12, err_msg=str(path)
                )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weight_decay_is_a_part_of_the_gradient_or_decoupled(kind, make_numbers):
    with scope("float64"):
        params = draw(SHAPES, 0)
        grads = draw(SHAPES, 1)

        def first(grads, decay):
            return directions(
                kind,
                [grads],
                params,
                make_numbers({"optimizer.weight_decay": decay}, runs=None, dtype="float64"),
            )[0]

        if kind in DECOUPLED:
            expected = jax.tree.map(lambda change, p: change + 0.3 * p, first(grads, 0.0), params)
        else:
            expected = first(jax.tree.map(lambda g, p: g + 0.3 * p, grads, params), 0.0)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), first(grads, 0.3), expected
        )


def test_muon_brings_singular_values_near_one(make_numbers):
    """Of each layer by itself, however different their gradients are; times √(O/I) where outputs are more."""
    shapes = {
        "stages": {
            "0": {"kernel": (3, 16, 4)},
            "1": {"kernel": (3, 4, 16)},
            "2": {"kernel": (3, 3, 3, 2, 4)},
        }
    }
    sizes = np.array([1e-3, 1.0, 1e3], "float32")
    grads = jax.tree.map(
        lambda g: g * sizes.reshape(-1, *[1] * (g.ndim - 1)), draw(shapes, 0, "float32")
    )
    hp = make_numbers(runs=None)
    (found,) = directions("muon", [grads], grads, hp | {"optimizer.weight_decay": jnp.float32(0)})
    for (name, _), change in apart(found).items():
        values = np.linalg.svd(np.reshape(change, (-1, change.shape[-1])), compute_uv=False)
        values /= 2 if "'1'" in name else 1
        assert values.min() > 0.65 and values.max() < 1.25, (name, values)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_stacked_layers_are_moved_as_if_alone(kind, make_numbers):
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        trees = draw(SHAPES, 0), *(draw(SHAPES, seed) for seed in range(1, STEPS + 1))
        together = directions(kind, trees[1:], trees[0], hp)
        for stage, layers in ((0, 2), (1, 3)):
            for n in range(layers):
                alone = [
                    {"stages": jax.tree.map(lambda leaf: leaf[n : n + 1], t["stages"][stage])}
                    for t in trees
                ]
                for one, all_ in zip(
                    directions(kind, alone[1:], alone[0], hp), together, strict=True
                ):
                    expected = jax.tree.map(lambda leaf: leaf[n : n + 1], all_["stages"][stage])
                    jax.tree.map(
                        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9),
                        one["stages"],
                        expected,
                    )


def test_muon_leaves_all_but_hidden_matrices_to_adam(make_numbers):
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        shapes = SHAPES | CELL

        def of(kind):
            return apart(directions(kind, [draw(shapes, 1)], draw(shapes, 0), hp)[0])

        muon = of("muon")
        adamw = of("adamw")
        same = {path for path in muon if np.allclose(muon[path], adamw[path], rtol=1e-12)}
        assert {path for path in muon if path not in same} == {
            path for path in muon if is_hidden(path) or "recurrent" in path[0]
        }


def test_muon_takes_the_gates_of_a_cell_apart(make_numbers):
    """As if they were stacked layers."""
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        params = draw(CELL, 0)
        grads = draw(CELL, 1)

        def stacked(tree):
            return {"stages": {0: {"kernel": tree["cell"]["branch"]["recurrent"]}}}

        (cell,), (layers,) = (
            directions("muon", [f(grads)], f(params), hp) for f in (lambda tree: tree, stacked)
        )
        np.testing.assert_allclose(
            stacked(cell)["stages"][0]["kernel"], layers["stages"][0]["kernel"], rtol=1e-12
        )


# Rates that go far enough in 1000 steps: lion's step is as long as the rate, adagrad's become shorter by themselves.
RATES = dict.fromkeys(OPTIMIZERS, 0.1) | {"lion": 0.05, "adagrad": 0.5}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimum_of_a_quadratic_is_found(kind, make_numbers):
    """½‖W − W*‖² over all parameters, down from about √(number of parameters)."""
    hp = make_numbers({"optimizer.learning_rate": RATES[kind], "train.steps": 1000}, runs=None)
    start, optimum = (draw(SHAPES | CELL, seed, "float32") for seed in (0, 1))
    optimizer = make_optimizer(kind, hp)

    def step(i, carry):
        params, state = carry
        change, state = optimizer.update(jax.tree.map(jnp.subtract, params, optimum), state, params)
        now = learning_rate("linear", i, hp)
        return jax.tree.map(lambda p, d: p - now * d, params, change), state

    train = quick(
        lambda params: jax.lax.fori_loop(0, 1000, step, (params, optimizer.init(params)))[0]
    )
    jax.tree.map(
        lambda w, best: np.testing.assert_allclose(w, best, atol=0.01), train(start), optimum
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_numbers_of_an_optimizer_are_traced(kind, make_numbers):
    (params, grads, others) = (draw(SHAPES, seed, "float32") for seed in range(3))
    traces = []

    @quick
    def two_updates(hp):
        traces.append(kind)
        optimizer = make_optimizer(kind, hp)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        return optimizer.update(jax.tree.map(lambda g: 0.01 * g, others), state, params)[0]

    numbers = ("momentum", "beta1", "beta2", "epsilon", "weight_decay")
    changes = [{}] + [{f"optimizer.{name}": 0.37} for name in numbers]
    results = [two_updates(make_numbers(change, runs=None)) for change in changes]
    assert len(traces) == 1
    usual = jax.tree.leaves(results[0])
    moved = {
        name
        for name, result in zip(numbers, results[1:], strict=True)
        if any(
            np.any(np.asarray(a) != np.asarray(b))
            for a, b in zip(usual, jax.tree.leaves(result), strict=True)
        )
    }
    assert moved == {"weight_decay"} | READS.get(kind, set())
