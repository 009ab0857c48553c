"""Update rules against their formulas in float64, alone and in whole programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.config.fields import traced_names
from research.training.layer_params import path_names
from research.training.optimizers import learning_rate, make_optimizer
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_hparams, make_program_config, trace_option
from ..compiling import quick
from .formulas import (
    CELL,
    CLIPS,
    DECOUPLED,
    OPTIMIZERS,
    SCHEDULES,
    SHAPES,
    UpdateRule,
    clip_arrays,
    draw_arrays,
    is_hidden,
    learning_rate_at,
    make_optimizer_option,
    split_layers,
)
from .programs import initial_params, iter_pairs, make_data, make_losses, to_float64, train

STEPS = 3
NOT_OF_THE_DIRECTION = {
    "learning_rate",
    "warmup_steps",
    "decay_steps",
    "transition_steps",
    "end_value",
    "power",
    "decay_rate",
    "decay_factor",
    "clip_threshold",
}
NUMBERS_OF_THE_DIRECTION = {
    "gd": {"weight_decay"},
    "sgd": {"weight_decay"},
    "momentum": {"weight_decay", "momentum"},
    "nesterov": {"weight_decay", "momentum"},
    "rmsprop": {"weight_decay", "beta2", "epsilon"},
    "adagrad": {"weight_decay", "epsilon"},
    "adam": {"weight_decay", "beta1", "beta2", "epsilon"},
    "adamw": {"weight_decay", "beta1", "beta2", "epsilon"},
    "lion": {"weight_decay", "beta1", "beta2"},
    "muon": {"weight_decay", "momentum", "beta1", "beta2", "epsilon"},
}
USUAL = {"weight_decay": 0.0, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def make_usual_option(kind, **changes):
    """An optimizer with the numbers that it has of ``USUAL``."""
    names = NUMBERS_OF_THE_DIRECTION[kind]
    numbers = {name: value for name, value in USUAL.items() if name in names}
    return make_optimizer_option(kind, **(numbers | changes))


def program_cases():
    """Each optimizer with some schedule, clipping and loss.

    The first cases, which have every clipping and loss, always run.
    """
    num_always = len(CLIPS)
    cases = []
    for number, kind in enumerate(OPTIMIZERS):
        schedule = SCHEDULES[number % len(SCHEDULES)]
        clipping = CLIPS[number % len(CLIPS)]
        loss = ("mse", "cross_entropy")[number % 2]
        marks = [] if number < num_always else pytest.mark.slow
        cases.append(pytest.param(kind, schedule, clipping, loss, marks=marks))
    return cases


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize(("kind", "schedule", "clipping", "loss"), program_cases())
def test_programs_follow_the_formulas(
    kind,
    schedule,
    clipping,
    loss,
):
    """Three updates of all parameters of a network; each batch is all examples, in some order."""
    level = "full" if clipping == "adaptive" else "off"
    option = make_optimizer_option(kind, schedule=schedule, clip=clipping)
    with precision_context("float64"):
        spec = make_program_config(
            precision="float64",
            optimizer=kind,
            schedule=schedule,
            clip=clipping,
            loss=loss,
            level=level,
            skip="rezero",
            depth=2,
        )
        numbers = {"loss.label_smoothing": 0.1, "train.steps": STEPS}
        for name in traced_names(option):
            numbers[f"optimizer.{name}"] = getattr(option, name)
        hp = make_hparams(spec, numbers)
        data = make_data(8)
        losses = make_losses(spec, hp, data)
        gradient = quick(jax.grad(lambda params: jnp.mean(losses(params))))
        params = initial_params(spec, hp)
        state, rows = train(spec, hp, data, chunks=(1,) * STEPS)
        rules = make_rules(option, params)
        for step in range(STEPS):
            rate = learning_rate_at(option, step, STEPS)
            grads = clip_arrays(option, split_layers(gradient(params)), split_layers(params))
            before = params
            params = descend(rules, before, grads, rate)
            assert_allclose(rows["learning_rate"][0, step], rate, rtol=1e-12)
            if level == "full":
                check_update_gauges(rows["profile"], step, before, params)
        trained = split_layers(to_float64(state.params))
        for path, expected in split_layers(params).items():
            assert_allclose(trained[path], expected, rtol=1e-9, atol=1e-12)


def make_rules(option, params):
    """The update rule of each array."""
    rules = {}
    for path in split_layers(params):
        rules[path] = UpdateRule(option, is_hidden=is_hidden(path))
    return rules


def descend(
    rules,
    params,
    grads,
    rate,
):
    """The parameters after one update.

    Args:
        rules: the update rules by path.
        params: a tree.
        grads: the clipped gradients by path.
        rate: the learning rate.
    """
    arrays = split_layers(params)
    moved = {}
    for path, rule in rules.items():
        direction = rule.direction(np.asarray(grads[path]), arrays[path])
        moved[path] = arrays[path] - rate * direction

    def join_layers(path, leaf):
        name = jax.tree_util.keystr(path)
        if "stages" in name:
            return np.stack([moved[name, number] for number in range(len(leaf))])
        return moved[name, None]

    return jax.tree.map_with_path(join_layers, params)


def norms_of_two_layers(stages):
    leaves = [leaf.reshape(2, -1) for leaf in jax.tree.leaves(stages)]
    flat = np.concatenate(leaves, axis=1)
    return np.linalg.norm(flat, axis=1)


def check_update_gauges(
    profile,
    step,
    before,
    after,
):
    profile = jax.tree.map(lambda values: values[0, step], profile)
    weight = norms_of_two_layers(before["stages"])
    change = jax.tree.map(np.subtract, after["stages"], before["stages"])
    update = norms_of_two_layers(change)
    assert_allclose(profile["weight_norm"], weight, rtol=1e-9)
    assert_allclose(profile["update_norm"], update, rtol=1e-9)
    assert_allclose(profile["update_ratio"], update / weight, rtol=1e-9)


@quick
def init_optimizer(optimizer, params):
    return make_optimizer(optimizer).init(params)


@quick
def update_optimizer(
    optimizer,
    grads,
    state,
    params,
):
    return make_optimizer(optimizer).update(grads, state, params)


def compute_directions(
    optimizer,
    gradients,
    params,
):
    """The direction of each update, of weights that stay the same."""
    state = init_optimizer(optimizer, params)
    directions = []
    for grads in gradients:
        direction, state = update_optimizer(optimizer, grads, state, params)
        directions.append(direction)
    return directions


def draw_gradients():
    return [draw_arrays(SHAPES, seed) for seed in range(1, STEPS + 1)]


def assert_trees_close(
    one,
    other,
    **tolerances,
):
    for name, leaf, other_leaf in iter_pairs(one, other):
        assert_allclose(leaf, other_leaf, err_msg=name, **tolerances)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_directions_follow_the_formulas(kind):
    """Parameters of every shape: embedding, head, stacked matrices, kernels, vectors, scalars."""
    option = make_optimizer_option(kind)
    with precision_context("float64"):
        params = draw_arrays(SHAPES, 0)
        gradients = draw_gradients()
        directions = compute_directions(trace_option(option, "float64"), gradients, params)
        rules = make_rules(option, params)
        for grads, direction in zip(gradients, directions, strict=True):
            grads = split_layers(grads)
            direction = split_layers(direction)
            for path, weights in split_layers(params).items():
                gradient = np.asarray(grads[path])
                expected = rules[path].direction(gradient, np.asarray(weights))
                assert_allclose(direction[path], expected, rtol=1e-9, atol=1e-12, err_msg=str(path))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weight_decay_is_a_part_of_the_gradient_or_decoupled(kind):
    with precision_context("float64"):
        decaying = trace_option(make_optimizer_option(kind, weight_decay=0.3), "float64")
        plain = trace_option(make_optimizer_option(kind, weight_decay=0.0), "float64")
        params = draw_arrays(SHAPES, 0)
        grads = draw_arrays(SHAPES, 1)
        if kind in DECOUPLED:
            (direction,) = compute_directions(plain, [grads], params)
            expected = jax.tree.map(lambda d, p: d + 0.3 * p, direction, params)
        else:
            with_decay = jax.tree.map(lambda g, p: g + 0.3 * p, grads, params)
            (expected,) = compute_directions(plain, [with_decay], params)
        (direction,) = compute_directions(decaying, [grads], params)
        assert_trees_close(direction, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_mask_of_weight_decay_spares_biases_norms_and_shifts(kind):
    """What decays moves as with the decay of everything, the rest as without decay."""
    with precision_context("float64"):
        params = draw_arrays(SHAPES | CELL, 0)
        grads = draw_arrays(SHAPES | CELL, 1)

        def direction_with(**changes):
            option = make_optimizer_option(kind, **changes)
            (direction,) = compute_directions(trace_option(option, "float64"), [grads], params)
            return split_layers(direction)

        decayed = direction_with(weight_decay=0.3)
        plain = direction_with(weight_decay=0.0)
        masked = direction_with(weight_decay=0.3, decay_mask="matrices")
    for path, direction in masked.items():
        name, _ = path
        is_matrix = any(word in name for word in ("kernel", "recurrent", "input"))
        expected = decayed[path] if is_matrix else plain[path]
        assert_allclose(direction, expected, rtol=1e-12, atol=1e-15, err_msg=name)
        assert np.any(decayed[path] != plain[path])


LANGUAGE_MODEL = {
    "kind": "transformer",
    "heads": 2,
    "norm": "layer",
    "shape": (3,),
    "vocabulary": 7,
    "classes": 7,
    "language": True,
}
DECAYING = [  # a network, and the last names of its parameters that decay by decay_mask=matrices
    (LANGUAGE_MODEL, {"kernel", "vectors", "positions"}),
    ({"skip": "highway", "norm": "dyt"}, {"kernel"}),
    ({"skip": "fixup"}, {"kernel"}),
    ({"kind": "rnn", "norm": "rms"}, {"kernel", "recurrent", "input"}),
]


@pytest.mark.parametrize(("changes", "expected"), DECAYING)
def test_of_a_network_matrices_and_embeddings_decay_and_gates_do_not(changes, expected):
    spec = make_program_config(**changes)
    shapes = jax.eval_shape(make_program(spec).init, make_hparams(spec))
    weights = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes.params)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    option = make_optimizer_option("sgd", weight_decay=0.25, decay_mask="matrices")
    (direction,) = compute_directions(trace_option(option), [zeros], weights)
    decaying = set()
    for path, leaf in jax.tree.leaves_with_path(direction):
        names = path_names(path)
        if np.all(leaf == 0.25):
            decaying.add(names[-1])
            assert "gate" not in names
        else:
            assert np.all(leaf == 0)
    assert decaying == expected


def test_muon_brings_singular_values_near_one():
    """Of each layer by itself, whatever its gradient's size; times √(O/I) where O > I."""
    shapes = {
        "stages": {
            "0": {"kernel": (3, 16, 4)},
            "1": {"kernel": (3, 4, 16)},
            "2": {"kernel": (3, 3, 3, 2, 4)},
        }
    }
    sizes = np.array([1e-3, 1.0, 1e3], "float32")

    def scale_layers(grad):
        return grad * sizes.reshape(-1, *[1] * (grad.ndim - 1))

    grads = jax.tree.map(scale_layers, draw_arrays(shapes, 0, "float32"))
    optimizer = trace_option(make_usual_option("muon"))
    (direction,) = compute_directions(optimizer, [grads], grads)
    for (name, _), change in split_layers(direction).items():
        matrix = np.reshape(change, (-1, change.shape[-1]))
        values = np.linalg.svd(matrix, compute_uv=False)
        if "'1'" in name:
            values = values / 2
        assert values.min() > 0.65, (name, values)
        assert values.max() < 1.25, (name, values)


LAYERS_OF_SHAPES = [
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
    (1, 2),
]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("stage", "layer"), LAYERS_OF_SHAPES)
def test_stacked_layers_are_updated_as_if_alone(
    kind,
    stage,
    layer,
):
    def take_layer(tree):
        stage_params = tree["stages"][stage]
        layer_params = jax.tree.map(lambda leaf: leaf[layer : layer + 1], stage_params)
        return {"stages": layer_params}

    with precision_context("float64"):
        optimizer = trace_option(make_optimizer_option(kind), "float64")
        params = draw_arrays(SHAPES, 0)
        gradients = draw_gradients()
        stacked = compute_directions(optimizer, gradients, params)
        layer_gradients = [take_layer(grads) for grads in gradients]
        alone = compute_directions(optimizer, layer_gradients, take_layer(params))
        for direction, stacked_direction in zip(alone, stacked, strict=True):
            assert_trees_close(direction, take_layer(stacked_direction), rtol=1e-9)


def test_muon_updates_all_but_hidden_matrices_as_adamw_does():
    shapes = SHAPES | CELL

    def first_direction(kind):
        optimizer = trace_option(make_optimizer_option(kind), "float64")
        grads = draw_arrays(shapes, 1)
        (direction,) = compute_directions(optimizer, [grads], draw_arrays(shapes, 0))
        return split_layers(direction)

    with precision_context("float64"):
        muon = first_direction("muon")
        adamw = first_direction("adamw")
        for path, direction in muon.items():
            is_same = np.allclose(direction, adamw[path], rtol=1e-12)
            is_recurrent = "recurrent" in path[0]
            assert is_same != (is_hidden(path) or is_recurrent), path


def test_muon_treats_the_gates_of_a_cell_as_stacked_layers():
    def as_layers(cell):
        return {"stages": {0: {"kernel": cell["cell"]["branch"]["recurrent"]}}}

    with precision_context("float64"):
        optimizer = trace_option(make_optimizer_option("muon"), "float64")
        params = draw_arrays(CELL, 0)
        grads = draw_arrays(CELL, 1)
        (gates,) = compute_directions(optimizer, [grads], params)
        (layers,) = compute_directions(optimizer, [as_layers(grads)], as_layers(params))
        assert_trees_close(as_layers(gates), layers, rtol=1e-12)


# These rates go far enough in 1000 steps: a step of lion is as long as the rate, and adagrad's
# steps become shorter by themselves.
RATES = dict.fromkeys(OPTIMIZERS, 0.1) | {"lion": 0.05, "adagrad": 0.5}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimum_of_a_quadratic_is_found(kind):
    """½‖W − W*‖² over all parameters, from about √(number of parameters) down."""
    optimizer = trace_option(make_usual_option(kind, schedule="linear", learning_rate=RATES[kind]))
    start = draw_arrays(SHAPES | CELL, 0, "float32")
    optimum = draw_arrays(SHAPES | CELL, 1, "float32")
    transform = make_optimizer(optimizer)

    def step(number, carry):
        params, state = carry
        gradient = jax.tree.map(jnp.subtract, params, optimum)
        direction, state = transform.update(gradient, state, params)
        rate = learning_rate(optimizer, number, jnp.int32(1000))
        params = jax.tree.map(lambda p, d: p - rate * d, params, direction)
        return params, state

    @quick
    def train(params):
        state = transform.init(params)
        params, _ = jax.lax.fori_loop(0, 1000, step, (params, state))
        return params

    assert_trees_close(train(start), optimum, atol=0.01)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_numbers_of_an_optimizer_are_traced(kind):
    params = draw_arrays(SHAPES, 0, "float32")
    grads = draw_arrays(SHAPES, 1, "float32")
    other_grads = draw_arrays(SHAPES, 2, "float32")
    later_grads = jax.tree.map(lambda g: 0.01 * g, other_grads)
    traces = []

    @quick
    def second_direction(optimizer):
        traces.append(kind)
        transform = make_optimizer(optimizer)
        _, state = transform.update(grads, transform.init(params), params)
        return transform.update(later_grads, state, params)[0]

    usual = second_direction(trace_option(make_usual_option(kind)))
    acting = set()
    for name in set(traced_names(make_usual_option(kind))) - NOT_OF_THE_DIRECTION:
        changed = second_direction(trace_option(make_usual_option(kind, **{name: 0.37})))
        is_same = jax.tree.map(np.array_equal, usual, changed)
        if not all(jax.tree.leaves(is_same)):
            acting.add(name)
    assert len(traces) == 1
    assert acting == NUMBERS_OF_THE_DIRECTION[kind]


@pytest.mark.parametrize("layer", [0, 2])
def test_a_frozen_layer_keeps_its_weights_and_the_others_move(layer):
    spec = make_program_config(
        optimizer="adamw", frozen_layer=layer, skip="identity", norm="layer", depth=3
    )
    hp = make_hparams(spec, {"optimizer.weight_decay": 0.1})
    program = make_program(spec)
    start = program.init(hp)
    before = jax.tree.map(np.array, start.params)
    state, _ = program.chunk(start, hp, make_data(), np.int32(0), np.int32(2))
    stack = state.params["stages"][0]
    for name, after in stack["branch"]["weights"][0].items():
        initial = before["stages"][0]["branch"]["weights"][0][name]
        stays = np.all(np.asarray(after) == initial, axis=tuple(range(2, initial.ndim)))[0]
        assert stays.tolist() == [number == layer for number in range(3)]


@pytest.mark.slow
def test_the_frozen_layer_of_a_network_with_several_stages_is_the_one_with_that_number():
    """Of resnet_cifar with depth 14 the stages have 2, then 1 and 1, then 1 and 1 layers."""
    for layer in range(6):
        spec = make_program_config(
            optimizer="sgd",
            frozen_layer=layer,
            kind="resnet_cifar",
            depth=14,
            width=4,
            shape=(8, 8, 1),
            skip="identity",
            level="full",
        )
        hp = make_hparams(spec, {"optimizer.learning_rate": 0.5})
        program = make_program(spec)
        data = make_data(inputs=64)
        _, rows = program.chunk(program.init(hp), hp, data, np.int32(0), np.int32(1))
        updates = np.asarray(rows["profile"]["update_norm"])[0, 0]
        assert (updates == 0).tolist() == [number == layer for number in range(6)]
