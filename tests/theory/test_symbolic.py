"""Symbolic derivatives against differences and against a formula that is known."""

import math

import pytest

from research.theory.symbolic import (
    add,
    constant,
    differentiate,
    evaluate,
    multiply,
    shared_size,
    tanh,
    variable,
    written_size,
)

X = variable("x")
Y = variable("y")


def make_nested(depth):
    """tanh(y·h + h) nested in itself, from h = x."""
    formula = X
    for _ in range(depth):
        formula = tanh(add(multiply(Y, formula), formula))
    return formula


@pytest.mark.parametrize("name", ["x", "y"])
def test_the_derivative_is_that_of_a_central_difference(name):
    formula = add(make_nested(3), multiply(constant(2.0), multiply(X, Y)))
    values = {"x": 0.3, "y": -0.4}
    step = 1e-6
    plus = evaluate(formula, values | {name: values[name] + step})
    minus = evaluate(formula, values | {name: values[name] - step})

    derivative = evaluate(differentiate(formula, name), values)

    assert derivative == pytest.approx((plus - minus) / (2 * step), abs=1e-8)


def test_the_derivative_of_tanh_is_one_minus_its_square():
    derivative = evaluate(differentiate(tanh(X), "x"), {"x": 0.7})
    assert derivative == pytest.approx(1 - math.tanh(0.7) ** 2, abs=1e-15)


def test_what_does_not_depend_on_a_variable_has_the_derivative_zero():
    assert differentiate(multiply(X, X), "y").is_number(0)


def test_a_part_that_occurs_twice_is_written_twice_and_shared_once():
    part = tanh(X)
    assert written_size(multiply(part, part)) == 5
    assert shared_size(multiply(part, part)) == 3
    assert shared_size(multiply(tanh(X), tanh(variable("x")))) == 3


def test_written_out_a_derivative_grows_exponentially_and_shared_linearly():
    derivatives = [differentiate(make_nested(depth), "x") for depth in (4, 8, 12)]
    written = [written_size(derivative) for derivative in derivatives]
    shared = [shared_size(derivative) for derivative in derivatives]
    assert written[1] > 10 * written[0]
    assert written[2] > 10 * written[1]
    assert shared[2] - shared[1] == shared[1] - shared[0]
