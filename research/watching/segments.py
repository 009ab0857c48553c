"""Parts of a traced program in which nothing is measured.

They are evaluated as JAX does. The blocks of an unrolled network are the same equations with other
operands, so equal parts are traced and differentiated once: each is a call of one jit-compiled
function, which XLA inlines.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr, JaxprEqn

from research.watching.jaxprs import JIT, is_literal, iter_programs
from research.watching.marks import mark_p

SMALLEST_SHARED = 4  # equations; a call of fewer takes as long as tracing them


@dataclass(frozen=True)
class Step:
    """Consecutive equations, or one in which something is measured.

    Attributes:
        index: the index of the last of them in the program.
        equations: the equations.
        is_measured: whether something is measured in it.
    """

    index: int
    equations: tuple[JaxprEqn, ...]
    is_measured: bool


@dataclass(frozen=True)
class Flow:
    """A program without the marks that are not measured.

    Attributes:
        steps: its equations.
        outputs: what it returns.
    """

    steps: list[Step]
    outputs: list[Any]


def read_flow(
    jaxpr: Jaxpr,
    measured: Collection[int],
    ends: Collection[int],
) -> Flow:
    """Divides a program into steps.

    Args:
        jaxpr: the program.
        measured: the indices of the equations in which something is measured.
        ends: the indices of equations with outputs that are measured.
    """
    steps: list[Step] = []
    waiting: list[JaxprEqn] = []
    aliases: dict[Any, Any] = {}

    def resolve(atom: Any) -> Any:
        return atom if is_literal(atom) else aliases.get(atom, atom)

    def end_step(index: int) -> None:
        if waiting:
            steps.append(Step(index, tuple(waiting), is_measured=False))
            waiting.clear()

    for index, equation in enumerate(jaxpr.eqns):
        operands = [resolve(atom) for atom in equation.invars]
        is_measured = index in measured
        if equation.primitive is mark_p and not is_measured:
            aliases[equation.outvars[0]] = operands[0]
            continue
        resolved = equation.replace(invars=operands)
        is_alone = is_measured or _holds_programs(equation)
        if is_alone:
            end_step(index - 1)
        if is_measured:
            steps.append(Step(index, (resolved,), is_measured=True))
            continue
        waiting.append(resolved)
        if is_alone or index in ends:
            end_step(index)
    end_step(len(jaxpr.eqns) - 1)
    return Flow(steps, [resolve(atom) for atom in jaxpr.outvars])


def _holds_programs(equation: JaxprEqn) -> bool:
    """Whether an equation holds programs that are traced again for each block.

    JAX traces a jit-compiled function once, so it is the same for all.
    """
    if equation.primitive.name in JIT:
        return False
    return any(True for _ in iter_programs(dict(equation.params)))


@dataclass(frozen=True)
class Segment:
    """Equations that are evaluated together.

    Attributes:
        equations: the equations.
        inputs: the variables that they read.
        outputs: the variables that are read after them.
    """

    equations: tuple[JaxprEqn, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    def signature(self) -> Hashable:
        """Equal for segments that compute the same from their inputs; None where it is unknown."""
        numbers = {variable: number for number, variable in enumerate(self.inputs)}
        rows: list[Hashable] = [tuple(variable.aval for variable in self.inputs)]
        for equation in self.equations:
            operands = []
            for atom in equation.invars:
                operands.append(_literal_key(atom) if is_literal(atom) else numbers[atom])
            for variable in equation.outvars:
                numbers[variable] = len(numbers)
            results = tuple(variable.aval for variable in equation.outvars)
            params = tuple(sorted(equation.params.items(), key=_first))
            rows.append((equation.primitive, tuple(operands), results, params, equation.ctx))
        rows.append(tuple(numbers[variable] for variable in self.outputs))
        signature = tuple(rows)
        try:
            hash(signature)
        except TypeError:  # a parameter that cannot be compared
            return None
        return signature


def _literal_key(atom: Any) -> Hashable:
    """Identifies a constant, as text, because 0.0 and -0.0 are equal."""
    is_scalar = np.ndim(atom.val) == 0
    value = repr(atom.val) if is_scalar else id(atom.val)
    return value, atom.aval


def _first(item: tuple[str, Any]) -> str:
    return item[0]


class Segments:
    """The segments of a program, for its evaluation."""

    def __init__(self, jaxpr: Jaxpr, flow: Flow):
        """Finds the segments.

        Args:
            jaxpr: the program.
            flow: its steps.
        """
        self._jaxpr = jaxpr
        self._by_index: dict[int, Segment] = {}
        self._signatures: dict[int, Hashable] = {}
        last_reads = _last_reads(flow)
        candidates = []
        for step in flow.steps:
            if step.is_measured:
                continue
            self._by_index[step.index] = _make_segment(step, last_reads)
            if len(step.equations) >= SMALLEST_SHARED:
                candidates.append(step.index)
        if len(candidates) > 1:
            for index in candidates:
                self._signatures[index] = self._by_index[index].signature()
        self._counts = Counter(self._signatures.values())
        self._shared: dict[Hashable, Callable[..., Any]] = {}

    def run(
        self,
        step: Step,
        env: dict[Any, Any],
    ) -> None:
        """Evaluates a step in which nothing is measured.

        Args:
            step: the step.
            env: the values of variables; it is completed.
        """
        segment = self._by_index[step.index]
        function = self._function(step.index)
        inputs = [env[variable] for variable in segment.inputs]
        values = function(*inputs)
        env.update(zip(segment.outputs, values, strict=True))

    def _function(self, index: int) -> Callable[..., Any]:
        segment = self._by_index[index]
        signature = self._signatures.get(index)
        if signature in self._shared:
            return self._shared[signature]
        part = self._jaxpr.replace(
            constvars=[],
            invars=list(segment.inputs),
            outvars=list(segment.outputs),
            eqns=list(segment.equations),
        )
        function = functools.partial(eval_jaxpr, part, ())
        if signature is None or self._counts[signature] == 1:
            return function
        self._shared[signature] = jax.jit(function)
        return self._shared[signature]


def _make_segment(step: Step, last_reads: Mapping[Any, int]) -> Segment:
    computed: dict[Any, None] = {}
    inputs: dict[Any, None] = {}
    for equation in step.equations:
        for atom in equation.invars:
            if not is_literal(atom) and atom not in computed:
                inputs[atom] = None
        computed.update(dict.fromkeys(equation.outvars))
    outputs = [variable for variable in computed if last_reads.get(variable, -1) > step.index]
    return Segment(step.equations, tuple(inputs), tuple(outputs))


def _last_reads(flow: Flow) -> dict[Any, int]:
    """The index of the last step that reads a variable."""
    last: dict[Any, int] = {}
    end = 0
    for step in flow.steps:
        end = step.index + 1
        for equation in step.equations:
            for atom in equation.invars:
                if not is_literal(atom):
                    last[atom] = step.index
    for atom in flow.outputs:
        if not is_literal(atom):
            last[atom] = end
    return last
