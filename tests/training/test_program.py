"""Laws of a run as a pure function: what it may depend on, and what must not change it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.training.precision import scope
from research.training.program import make_program

LEVELS = [option.name for option in config.Level]
SEEDS_AND_RATES = {"seed": [0, 1, 2], "optimizer.learning_rate": [0.1, 0.01, 0.3]}


def alone(numbers, run):
    return {path: value[run : run + 1] for path, value in numbers.items()}


def of_run(tree, run):
    return jax.tree.map(lambda leaf: leaf[run : run + 1], tree)


def test_runs_that_differ_in_numbers_share_one_trace(make_spec, make_numbers, make_data, train):
    spec = make_spec(level="off", capacity=11)  # a program of this test's own
    every_other = {
        path: 3 if isinstance(value, int) else 0.37
        for path, value in config.traced(config.Config()).items()
    }
    for changes, pieces in [
        ({}, (10,)),
        ({"seed": 2**32 - 1}, (3, 4)),
        (every_other | {"train.steps": 99}, (1, 11)),
    ]:
        train(spec, make_numbers(changes), make_data(), pieces)
    program = make_program(spec)
    assert make_program(spec) is program
    assert program.init._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    assert program.chunk._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_batch_of_runs_equals_the_runs_alone(
    make_spec, make_numbers, make_data, train, assert_equal
):
    numbers = make_numbers(SEEDS_AND_RATES, runs=3)
    together = train(make_spec(), numbers, make_data())
    for run in range(3):
        assert_equal(train(make_spec(), alone(numbers, run), make_data()), of_run(together, run))


def test_one_seed_one_run(make_spec, make_numbers, make_data, train, assert_equal):
    first, again, other = (
        train(make_spec(), make_numbers({"seed": seed}), make_data()) for seed in (5, 5, 6)
    )
    assert_equal(first, again)
    assert not np.any(first[1]["train_loss"] == other[1]["train_loss"])


@pytest.mark.parametrize("pieces", [(3, 3, 4), (1, 9), (7, 3)], ids=str)
def test_chunks_are_invisible(make_spec, make_numbers, make_data, train, assert_equal, pieces):
    """Three steps an epoch: the pieces end within epochs and between them."""
    whole = train(make_spec(), make_numbers(), make_data(), (10,))
    assert_equal(train(make_spec(), make_numbers(), make_data(), pieces), whole)
    assert int(whole[0].step[0]) == 10


@pytest.mark.parametrize("level", LEVELS)
def test_measuring_does_not_change_the_run(
    make_spec, make_numbers, make_data, train, assert_equal, level
):
    plain, measured = (
        train(make_spec(level=name), make_numbers(), make_data()) for name in ("norms", level)
    )
    assert_equal(plain[0], measured[0])
    for name in ("train_loss", "train_accuracy", "learning_rate"):
        np.testing.assert_array_equal(plain[1][name], measured[1][name])


# Measured and bare steps lie in two branches of a conditional, which the compiler fuses each in its own way: their
# sums run in another order, and the last bit differs.
ANOTHER_FUSION = 1e-6


def test_measuring_at_an_interval_does_not_change_the_run(
    make_spec, make_numbers, make_data, train, distance
):
    (plain, rows), (spaced, spaced_rows) = (
        train(make_spec(level="full", every=every), make_numbers(), make_data()) for every in (1, 5)
    )
    assert distance(spaced.params, plain.params) < ANOTHER_FUSION
    np.testing.assert_allclose(spaced_rows["train_loss"], rows["train_loss"], rtol=ANOTHER_FUSION)


def test_levels_add_gauges(make_spec, make_numbers, make_data, train):
    layers = {}
    for level in LEVELS:
        _, rows = train(make_spec(level=level), make_numbers(), make_data())
        layers[level] = {name: values.shape[-1] for name, values in rows.get("profile", {}).items()}
    outputs = {
        "signal_grad": 4,
        "activation_rms": 4,
        "activation_mean": 4,
    }  # the embedding's and three layers'
    assert layers["off"] == {}
    assert layers["norms"] == outputs | {"grad_norm": 3}
    deep = (
        "branch_grad",
        "skip_grad",
        "weight_norm",
        "update_norm",
        "update_ratio",
        "saturated",
        "dead",
    )
    assert layers["full"] == layers["norms"] | dict.fromkeys(deep, 3)


def test_between_measured_steps_there_is_no_profile(make_spec, make_numbers, make_data, train):
    plain, spaced = (
        train(make_spec(level="full", every=every), make_numbers(), make_data())[1]
        for every in (1, 5)
    )
    measured = np.arange(10) % 5 == 0
    for name, values in (spaced["profile"] | {"grad_norm": spaced["grad_norm"]}).items():
        assert np.all(np.isnan(values[:, ~measured])), name
        expected = plain["grad_norm"] if values.ndim == 2 else plain["profile"][name]
        np.testing.assert_allclose(
            values[:, measured], expected[:, measured], rtol=ANOTHER_FUSION, atol=1e-8, err_msg=name
        )  # a mean cancels
    assert np.all(spaced["finite"])


def test_loss_at_initialisation_is_log_classes(make_spec, make_numbers, make_data, train):
    _, rows = train(
        make_spec(),
        make_numbers({"init.gain": [0.0, 1.0, 1.0], "seed": [0, 1, 2]}, runs=3),
        make_data(),
    )
    np.testing.assert_allclose(rows["train_loss"][0, 0], np.log(4), rtol=1e-6)
    np.testing.assert_allclose(rows["train_loss"][1:, 0], np.log(4), atol=0.5)


def test_a_small_set_is_learned_by_heart(make_spec, make_numbers, make_data, train):
    _, rows = train(
        make_spec(), make_numbers({"optimizer.learning_rate": 0.1}), make_data(), (16,) * 25
    )
    assert np.max(rows["train_loss"][0, -3:]) < 0.01  # the last epoch
    assert np.all(rows["train_accuracy"][0, -3:] == 1)


def test_an_exploded_run_is_reported_as_such(make_spec, make_numbers, make_data, train):
    _, rows = train(make_spec(), make_numbers({"optimizer.learning_rate": 1e38}), make_data())
    assert rows["finite"][0, 0] and not np.all(rows["finite"])


def test_each_epoch_visits_each_example_at_most_once(
    pairs, make_numbers, make_data, train, weights, loss_of
):
    """At a learning rate of 0 the loss of a step tells which two examples it saw; of seven, one is left out."""
    spec = pairs
    data = make_data(7, classes=2)
    numbers = make_numbers(
        {"optimizer.learning_rate": 0.0, "seed": [4, 4, 5], "init.gain": [1.0, 2.0, 1.0]}, runs=3
    )
    state, rows = train(spec, numbers, data, (5, 7))
    orders = []
    for run in range(3):
        losses = np.asarray(loss_of(spec, numbers, data, run=run)(weights(state.params, run)))
        pairs = list(itertools.combinations(range(7), 2))
        means = np.array([losses[list(pair)].mean() for pair in pairs])
        distances = np.abs(rows["train_loss"][run][:, None] - means)
        assert np.all(np.sum(distances < 1e-5, axis=1) == 1)  # every step names one pair
        orders.append([pairs[i] for i in np.argmin(distances, axis=1)])
    for order in orders:
        for epoch in np.reshape(order, (4, 6)):
            assert len(set(epoch)) == 6
    assert orders[0] == orders[1] != orders[2]  # of the seed, whatever the weights are
    assert (
        len({tuple(epoch) for epoch in np.reshape(orders[0], (4, 6)).tolist()}) == 4
    )  # and of the epoch


def test_the_norm_of_the_layers_with_both_ends_is_that_of_the_whole_gradient(
    make_spec, make_numbers, make_data, train, weights
):
    """One step at a learning rate of 1, without momentum: the change of the parameters is the gradient itself."""
    with scope("float64"):
        spec = make_spec(precision="float64", optimizer="gd", activation="relu", bias=False)
        numbers = make_numbers({"optimizer.learning_rate": 1.0}, dtype="float64")
        data = make_data(8)
        before = weights(make_program(spec).init(numbers).params)
        state, rows = train(spec, numbers, data, (1,))
        gradient = jax.tree.map(np.subtract, before, weights(state.params))
        (stage,) = gradient["stages"].values()
        layers = np.linalg.norm(stage["branch"]["weights"][0]["kernel"], axis=(1, 2))
        np.testing.assert_allclose(rows["profile"]["grad_norm"][0, 0], layers, rtol=1e-12)
        outer = [np.linalg.norm(gradient[part]["kernel"]) for part in ("embed", "head")]
        np.testing.assert_allclose(
            rows["grad_norm"][0, 0], np.linalg.norm([*layers, *outer]), rtol=1e-12
        )


def test_evaluation_with_running_statistics(
    make_spec, make_numbers, make_data, train, weights, loss_of
):
    spec = make_spec(norm="batch", level="off")
    numbers = make_numbers({"loss.label_smoothing": 0.1})
    state, _ = train(spec, numbers, make_data(), (5,))
    measured = make_program(spec).evaluate(state, numbers, make_data())
    plainly = loss_of(
        spec, make_numbers(), make_data(), split="eval_"
    )  # no smoothing in evaluation
    expected = plainly(weights(state.params), running=weights(state.model_state))
    np.testing.assert_allclose(measured["eval_loss"], [np.mean(expected)], rtol=1e-5)
    assert measured["eval_accuracy"].shape == (1,)


def test_running_statistics_go_on_from_step_to_step(
    make_spec, make_numbers, make_data, train, weights
):
    """Of one example, seen all over: its mean h is approached as (1 - 0.9^S) h, its variance as 0.9^S + 0."""
    spec = make_spec(norm="batch", level="off")
    numbers = make_numbers({"optimizer.learning_rate": 0.0})
    data = make_data()
    data |= {name: jnp.repeat(data[name][:1], 24, axis=0) for name in ("x", "y")}
    state, _ = train(spec, numbers, data, (2, 3))
    params = weights(state.params)
    running = weights(state.model_state)["stages"][0]["norm"]
    first = (
        np.asarray(data["x"][0], np.float64) @ params["embed"]["kernel"] + params["embed"]["bias"]
    )
    np.testing.assert_allclose(running["mean"][0], (1 - 0.9**5) * first, rtol=1e-5)
    np.testing.assert_allclose(running["var"][0], 0.9**5, rtol=1e-5)


def test_update_gauges_are_those_of_the_stored_parameters(
    make_spec, make_numbers, make_data, train, weights
):
    spec = make_spec(level="full")
    numbers = make_numbers()
    data = make_data()
    states = [train(spec, numbers, data, (steps,)) for steps in (4, 5)]
    before, after = (
        [leaf.reshape(3, -1) for leaf in jax.tree.leaves(weights(s.params)["stages"])]
        for s, _ in states
    )
    weight = np.linalg.norm(np.concatenate(before, axis=1), axis=1)
    update = np.linalg.norm(np.concatenate(after, axis=1) - np.concatenate(before, axis=1), axis=1)
    profile = {name: values[0, 4] for name, values in states[1][1]["profile"].items()}
    np.testing.assert_allclose(profile["weight_norm"], weight, rtol=1e-5)
    np.testing.assert_allclose(profile["update_norm"], update, rtol=1e-5)
    np.testing.assert_allclose(profile["update_ratio"], update / weight, rtol=1e-5)


def test_full_batch_steps_see_every_example(
    make_spec, make_numbers, make_data, train, weights, loss_of
):
    with scope("float64"):
        spec = make_spec(precision="float64", optimizer="gd", activation="relu", bias=False)
        numbers = make_numbers({"optimizer.learning_rate": 0.0}, dtype="float64")
        data = make_data(8)
        state, rows = train(spec, numbers, data, (3,))
        expected = jnp.mean(loss_of(spec, numbers, data)(weights(state.params)))
        np.testing.assert_allclose(rows["train_loss"][0], float(expected), rtol=1e-12)
