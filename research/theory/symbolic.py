"""Symbolic differentiation of small formulas, and how large its results are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula: an operation and what it is applied to.

    Attributes:
        operation: ``constant``, ``variable``, ``add``, ``multiply`` or ``tanh``.
        arguments: what it is applied to.
        value: the number of a constant, or the name of a variable.
    """

    operation: str
    arguments: "tuple[Formula, ...]" = ()
    value: float | str = ""

    def is_number(self, number: float) -> bool:
        """Whether it is this constant."""
        return self.operation == "constant" and self.value == number


def constant(number: float) -> Formula:
    """A number."""
    return Formula("constant", value=number)


def variable(name: str) -> Formula:
    """A variable."""
    return Formula("variable", value=name)


def add(a: Formula, b: Formula) -> Formula:
    """A + b; a zero is left out."""
    if a.is_number(0):
        return b
    if b.is_number(0):
        return a
    return Formula("add", (a, b))


def multiply(a: Formula, b: Formula) -> Formula:
    """A · b; a factor of one is left out, and a factor of zero leaves nothing."""
    if a.is_number(0) or b.is_number(0):
        return constant(0)
    if a.is_number(1):
        return b
    if b.is_number(1):
        return a
    return Formula("multiply", (a, b))


def tanh(a: Formula) -> Formula:
    """The hyperbolic tangent of a."""
    return Formula("tanh", (a,))


def differentiate(formula: Formula, name: str) -> Formula:
    """The derivative of a formula by the rules for sums, products and tanh.

    The work is proportional to the number of distinct parts of the formula. Written out, the
    result can be exponentially larger, because the product rule repeats both factors (see
    ``written_size``).

    Args:
        formula: the formula.
        name: the variable.
    """
    derivatives: dict[Formula, Formula] = {}

    def derive(part: Formula) -> Formula:
        if part not in derivatives:
            derivatives[part] = apply_rule(part)
        return derivatives[part]

    def apply_rule(part: Formula) -> Formula:
        match part.operation:
            case "constant":
                return constant(0)
            case "variable":
                return constant(1 if part.value == name else 0)
            case "add":
                a, b = part.arguments
                return add(derive(a), derive(b))
            case "multiply":
                a, b = part.arguments
                return add(multiply(derive(a), b), multiply(a, derive(b)))
            case "tanh":
                (a,) = part.arguments
                square = multiply(constant(-1), multiply(part, part))
                return multiply(add(constant(1), square), derive(a))
        raise ValueError(f"no rule for the operation {part.operation}")

    return derive(formula)


def evaluate(formula: Formula, values: Mapping[str, float]) -> float:
    """The value of a formula.

    Args:
        formula: the formula.
        values: the values of its variables by name.
    """
    known: dict[Formula, float] = {}

    def compute(part: Formula) -> float:
        if part not in known:
            known[part] = apply(part)
        return known[part]

    def apply(part: Formula) -> float:
        match part.operation:
            case "constant":
                return float(part.value)
            case "variable":
                return float(values[str(part.value)])
            case "add":
                return compute(part.arguments[0]) + compute(part.arguments[1])
            case "multiply":
                return compute(part.arguments[0]) * compute(part.arguments[1])
            case "tanh":
                return math.tanh(compute(part.arguments[0]))
        raise ValueError(f"the operation {part.operation} has no value")

    return compute(formula)


def written_size(formula: Formula) -> int:
    """The number of operations, constants and variables of a formula that is written out.

    A part that occurs twice counts twice.
    """
    sizes: dict[Formula, int] = {}

    def count(part: Formula) -> int:
        if part not in sizes:
            sizes[part] = 1 + sum(map(count, part.arguments))
        return sizes[part]

    return count(formula)


def shared_size(formula: Formula) -> int:
    """The same number where equal parts are written once and referred to by name.

    This is what the elimination of common subexpressions leaves.
    """
    numbers: dict[tuple, int] = {}
    known: dict[Formula, int] = {}

    def number_of(part: Formula) -> int:
        if part not in known:
            arguments = tuple(map(number_of, part.arguments))
            key = (part.operation, part.value, arguments)
            known[part] = numbers.setdefault(key, len(numbers))
        return known[part]

    number_of(formula)
    return len(numbers)
