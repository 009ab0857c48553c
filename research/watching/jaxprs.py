"""What Fathom knows of the equations of traced programs (jaxprs) that hold other programs.

An equation is found again by its *path*: for each level of nesting the index of the equation and
the index of the program inside it. The same program may stand in several equations, so the
identity of an equation would not say which call of it is meant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from research.watching.marks import mark_p

Path = tuple[tuple[int, int], ...]

SCAN = "scan"
COND = "cond"
SHARD_MAP = "shard_map"
JIT = ("jit", "pjit")
REMAT = ("checkpoint", "remat2", "remat")
# Equations that call one program with their own operands, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "remat": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
# What Fathom reads of other equations that hold programs. Where JAX names it otherwise, they are
# unknown, and what is inside is not measured.
NEEDED = {
    SCAN: {"jaxpr", "length", "reverse", "unroll"},
    COND: {"branches"},
    SHARD_MAP: {"jaxpr", "mesh", "in_specs", "out_specs", "check_vma"},
}
# Equations whose result is their first operand: in another format or elsewhere, at most.
IDENTITIES = (
    "convert_element_type",
    "copy",
    "copy_p",
    "sharding_constraint",
    "optimization_barrier",
    "reduce_precision",
    "name",
    "pvary",
    "pcast",
    mark_p.name,
)


@dataclass(frozen=True)
class Program:
    """A program inside an equation, and the constants that it closes over."""

    jaxpr: Jaxpr
    consts: tuple[Any, ...]


def open_program(program: Any) -> Program:
    """A jaxpr or a closed jaxpr as a ``Program``."""
    if hasattr(program, "jaxpr"):
        return Program(program.jaxpr, tuple(program.consts))
    return Program(program, ())


def called_programs(equation: JaxprEqn) -> list[Program]:
    """The programs inside an equation whose marks can be measured; empty for other equations."""
    name = equation.primitive.name
    params = equation.params
    if not is_known(equation):
        return []
    if name in CALLS:
        return [open_program(params[CALLS[name]])]
    if name == SCAN:
        return [open_program(params["jaxpr"])]
    if name == SHARD_MAP and params["check_vma"]:
        return [open_program(params["jaxpr"])]
    if name == COND:
        return [open_program(branch) for branch in params["branches"]]
    return []


def is_known(equation: JaxprEqn) -> bool:
    """Whether Fathom can measure inside an equation of this kind, as this JAX writes it."""
    name = equation.primitive.name
    params = equation.params
    if name in CALLS:
        return CALLS[name] in params
    if name == SCAN and "num_consts" not in params and "ft_in" not in params:
        return False
    return name in NEEDED and NEEDED[name] <= set(params)


@dataclass(frozen=True)
class ScanCounts:
    """How many operands of a scan are constants, and how many are carried."""

    consts: int
    carry: int


def scan_counts(equation: JaxprEqn) -> ScanCounts:
    """Reads the operands of a scan: constants, then what is carried, then what it runs along."""
    params = equation.params
    if "num_consts" in params:
        return ScanCounts(params["num_consts"], params["num_carry"])
    # From JAX 0.12 on, the operands are a tree of these three groups.
    consts, carry, _ = params["ft_in"].unpack()
    return ScanCounts(len(consts), len(carry))


def iter_programs(value: Any) -> Iterator[Jaxpr]:
    """Every program in the parameters of an equation, of any kind."""
    if isinstance(value, Jaxpr):
        yield value
    elif hasattr(value, "jaxpr") and isinstance(value.jaxpr, Jaxpr):
        yield value.jaxpr
    elif isinstance(value, tuple | list):
        for item in value:
            yield from iter_programs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from iter_programs(item)


def marks_inside(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Every mark in a program, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive is mark_p:
            yield equation
        else:
            for inner in iter_programs(dict(equation.params)):
                yield from marks_inside(inner)


def is_literal(atom: Any) -> bool:
    """Whether an operand is a constant written into the equation."""
    return isinstance(atom, Literal)
