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


DECOUPLED = ("adamw", "lion", "muon")
READS = {
    "momentum": {"momentum"}, "nesterov": {"momentum"}, "rmsprop": {"beta2", "epsilon"}, "adagrad": {"epsilon"},
    "adam": {"beta1", "beta2", "epsilon"}, "adamw": {"beta1", "beta2", "epsilon"}, "lion": {"beta1", "beta2"},
    "muon": {"momentum", "beta1", "beta2", "epsilon"},
}  # fmt: skip


def direction(kind, g, p, memory, t, *, hidden, decay, mu, b1, b2, eps):
    """What the learning rate multiplies at update t = 1, 2, …, of one array; ``memory`` is changed in place."""
    if kind in DECOUPLED:
        return undecayed(kind, g, memory, t, hidden=hidden, mu=mu, b1=b1, b2=b2, eps=eps) + decay * p
    return undecayed(kind, g + decay * p, memory, t, hidden=hidden, mu=mu, b1=b1, b2=b2, eps=eps)


def undecayed(kind, g, memory, t, *, hidden, mu, b1, b2, eps):
    m, v = memory.get("m", 0), memory.get("v", 0)
    if kind in ("gd", "sgd"):
        return g
    if kind in ("momentum", "nesterov"):
        memory["m"] = mu * m + g
        return memory["m"] if kind == "momentum" else g + mu * memory["m"]
    if kind == "adagrad":
        memory["v"] = v + g**2
        return g / np.sqrt(memory["v"] + eps)
    if kind == "rmsprop":
        memory["v"] = b2 * v + (1 - b2) * g**2
        return g / (np.sqrt(memory["v"]) + eps)
    if kind == "lion":
        memory["m"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g)
    if kind == "muon" and hidden:
        memory["m"] = mu * m + (1 - mu) * g
        return orthogonalised(mu * memory["m"] / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t), eps)
    memory["m"], memory["v"] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + eps)


def orthogonalised(x, eps):
    """Jordan et al. 2024: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times from X/(‖X‖+ε), all axes but the last being rows."""
    u, s, v = np.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    s = s / (np.linalg.norm(s) + eps)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return np.sqrt(max(1, v.shape[1] / u.shape[0])) * ((u * s) @ v).reshape(x.shape)


def rate(schedule, step, numbers):
    """The learning rate of update ``step`` = 0, 1, …"""
    names = ("optimizer.learning_rate", "train.steps", "optimizer.warmup_steps", "optimizer.decay_factor")
    peak, total, warmup, factor = map(numbers.get, names)
    cosine = np.cos(np.pi * min(1, (step - warmup) / max(total - warmup, 1)))
    return (
        peak
        * {
            "constant": 1,
            "warmup": (step + 1) / warmup if step < warmup else 1,
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
    """Every array by its path, each layer of a stage and each gate of a cell under a path of its own."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        found |= (
            {(name, n): leaf[n] for n in range(len(leaf))}
            if "stages" in name or "cell" in name
            else {(name, None): leaf}
        )
    return found


def is_hidden(path):
    return path[1] is not None and "kernel" in path[0]


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
                    kind, np.asarray(g), apart(params)[path], memories[path], step + 1, hidden=is_hidden(path),
                    decay=0.03, mu=0.8, b1=0.7, b2=0.95, eps=1e-3,
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


SHAPES = {
    "embed": {"kernel": (5, 4)},
    "stages": {
        0: {"weights": {0: {"kernel": (2, 4, 6), "bias": (2, 6)}, 1: {"kernel": (2, 6, 4)}}, "shifts": (2, 2, 2)},
        1: {"conv": {"kernel": (3, 3, 3, 2, 4)}, "norm": {"scale": (3, 4)}, "skip": {"alpha": (3,)}},
    },
    "head": {"kernel": (4, 3), "bias": (3,)},
}
CELL = {"cell": {"branch": {"recurrent": (3, 4, 4), "input": (3, 2, 4), "bias": (3, 4)}}}


def draw(shapes, seed, dtype="float64"):
    generator = np.random.default_rng(seed)
    normal = lambda shape: jnp.asarray(generator.standard_normal(shape), dtype)  # noqa: E731
    return jax.tree.map(normal, shapes, is_leaf=lambda node: isinstance(node, tuple))


def directions(kind, gradients, params, hp):
    """The direction of each update of the same weights, the numbers being arguments as in a program."""
    state = jax.jit(lambda hp, params: make_optimizer(kind, hp).init(params))(hp, params)
    update = jax.jit(lambda hp, *how: make_optimizer(kind, hp).update(*how))
    found = []
    for grads in gradients:
        change, state = update(hp, grads, state, params)
        found.append(change)
    return found


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_directions_follow_the_formulas(kind, make_numbers):
    """Parameters of every shape there is: embedding and head, stacked matrices, kernels of images, vectors, scalars."""
    with scope("float64"):
        params, gradients = draw(SHAPES, 0), [draw(SHAPES, seed) for seed in range(1, STEPS + 1)]
        found = directions(kind, gradients, params, make_numbers(NUMBERS, runs=None, dtype="float64"))
        for path, p in apart(params).items():
            memory = {}
            for step, grads in enumerate(gradients):
                expected = direction(
                    kind, np.asarray(apart(grads)[path]), np.asarray(p), memory, step + 1, hidden=is_hidden(path),
                    decay=0.03, mu=0.8, b1=0.7, b2=0.95, eps=1e-3,
                )  # fmt: skip
                np.testing.assert_allclose(apart(found[step])[path], expected, rtol=1e-9, atol=1e-12, err_msg=str(path))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weight_decay_is_a_part_of_the_gradient_or_decoupled(kind, make_numbers):
    with scope("float64"):
        params, grads = draw(SHAPES, 0), draw(SHAPES, 1)
        first = lambda grads, decay: directions(  # noqa: E731
            kind, [grads], params, make_numbers({"optimizer.weight_decay": decay}, runs=None, dtype="float64")
        )[0]
        if kind in DECOUPLED:
            expected = jax.tree.map(lambda change, p: change + 0.3 * p, first(grads, 0.0), params)
        else:
            expected = first(jax.tree.map(lambda g, p: g + 0.3 * p, grads, params), 0.0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), first(grads, 0.3), expected)


def test_muon_brings_singular_values_near_one(make_numbers):
    """Of each layer by itself, however different their gradients are; times √(O/I) where outputs are more."""
    shapes = {"stages": {"0": {"kernel": (3, 16, 4)}, "1": {"kernel": (3, 4, 16)}, "2": {"kernel": (3, 3, 3, 2, 4)}}}
    sizes = np.array([1e-3, 1.0, 1e3], "float32")
    grads = jax.tree.map(lambda g: g * sizes.reshape(-1, *[1] * (g.ndim - 1)), draw(shapes, 0, "float32"))
    hp = make_numbers(runs=None)
    (found,) = directions("muon", [grads], grads, hp | {"optimizer.weight_decay": jnp.float32(0)})
    for (name, _), change in apart(found).items():
        values = np.linalg.svd(np.reshape(change, (-1, change.shape[-1])), compute_uv=False)
        values /= 2 if "'1'" in name else 1
        assert 0.65 < values.min() and values.max() < 1.25, (name, values)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_stacked_layers_are_moved_as_if_alone(kind, make_numbers):
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        trees = draw(SHAPES, 0), *(draw(SHAPES, seed) for seed in range(1, STEPS + 1))
        together = directions(kind, trees[1:], trees[0], hp)
        for stage, layers in ((0, 2), (1, 3)):
            for n in range(layers):
                alone = [{"stages": jax.tree.map(lambda leaf: leaf[n : n + 1], t["stages"][stage])} for t in trees]  # noqa: B023
                for one, all_ in zip(directions(kind, alone[1:], alone[0], hp), together, strict=True):
                    expected = jax.tree.map(lambda leaf: leaf[n : n + 1], all_["stages"][stage])  # noqa: B023
                    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), one["stages"], expected)


def test_muon_leaves_all_but_hidden_matrices_to_adam(make_numbers):
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        shapes = SHAPES | CELL
        of = lambda kind: apart(directions(kind, [draw(shapes, 1)], draw(shapes, 0), hp)[0])  # noqa: E731
        muon, adamw = of("muon"), of("adamw")
        same = {path for path in muon if np.allclose(muon[path], adamw[path], rtol=1e-12)}
        assert {path for path in muon if path not in same} == {
            path for path in muon if is_hidden(path) or "recurrent" in path[0]
        }


def test_muon_takes_the_gates_of_a_cell_apart(make_numbers):
    """As if they were stacked layers."""
    with scope("float64"):
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        params, grads = draw(CELL, 0), draw(CELL, 1)
        stacked = lambda tree: {"stages": {0: {"kernel": tree["cell"]["branch"]["recurrent"]}}}  # noqa: E731
        (cell,), (layers,) = (directions("muon", [f(grads)], f(params), hp) for f in (lambda tree: tree, stacked))
        np.testing.assert_allclose(stacked(cell)["stages"][0]["kernel"], layers["stages"][0]["kernel"], rtol=1e-12)


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

    train = jax.jit(lambda params: jax.lax.fori_loop(0, 1000, step, (params, optimizer.init(params)))[0])
    jax.tree.map(lambda w, best: np.testing.assert_allclose(w, best, atol=0.01), train(start), optimum)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_numbers_of_an_optimizer_are_traced(kind, make_numbers):
    (params, grads, others), traces = (draw(SHAPES, seed, "float32") for seed in range(3)), []

    @jax.jit
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
        if any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(usual, jax.tree.leaves(result), strict=True))
    }
    assert moved == {"weight_decay"} | READS.get(kind, set())


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
    np.testing.assert_allclose([at("warmup", step) for step in (0, 9, 10, 99)], [0.2, 2.0, 2.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose([at("warmup_cosine", step) for step in (0, 9, 10, 55)], [0.2, 2.0, 2.0, 1.0], rtol=1e-5)
    assert at("warmup_cosine", 99) < 0.001
    np.testing.assert_allclose(
        [at("step", step) for step in (0, 49, 50, 74, 75, 99)], [2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-5
    )


def gradient_and_weights(size):
    """Two stacked layers, a cell of three gates and a head, as programs hold them."""
    generator = np.random.default_rng(0)

    def draw(scale):
        shapes = {"stages": {"0": {"kernel": (2, 4, 4), "bias": (2, 4), "alpha": (2,)}}, "head": {"kernel": (4, 3)}}
        is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
        return jax.tree.map(
            lambda s: jnp.asarray(scale * generator.standard_normal(s), jnp.float32), shapes | CELL, is_leaf=is_shape
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
