"""Finds the marks of a traced loss: in forward order, with the loops around them.

It follows each parameter through the program to the layers that use it, and each layer's input
back to where it is computed.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr

from research.watching.jaxprs import (
    CALLS,
    COND,
    IDENTITIES,
    SCAN,
    SHARD_MAP,
    Path,
    Program,
    called_programs,
    is_known,
    is_literal,
    iter_programs,
    marks_inside,
    scan_counts,
)
from research.watching.marks import Label, Role, is_float_array, mark_p


@dataclass(frozen=True)
class Leaf:
    """An array among the inputs of the loss.

    Attributes:
        path: the keys that lead to it, such as ``("blocks", "0", "kernel")``.
        is_differentiated: whether the loss is differentiated with respect to it.
        size: the number of its elements.
    """

    path: tuple[str, ...]
    is_differentiated: bool
    size: int


@dataclass(frozen=True)
class Loop:
    """A scan around a mark.

    Attributes:
        path: where the equation is.
        length: its number of iterations.
        over_layers: whether it runs along parameters or the user says so, so that each iteration is
            another layer. All iterations of other loops are measured together.
    """

    path: Path
    length: int
    over_layers: bool


@dataclass(frozen=True)
class Origin:
    """The input that a variable holds, or a part of it.

    Attributes:
        leaf: the index of the input.
        axes: for each axis of the variable the axis of the input.
        loop_axes: the axes of the input that scans run along, by the path of the scan.
    """

    leaf: int
    axes: tuple[int, ...]
    loop_axes: tuple[tuple[Path, int], ...] = ()


@dataclass(frozen=True)
class Fact:
    """What is known of a variable.

    Attributes:
        depends: whether it depends on inputs that are differentiated.
        origin: the input that it holds; None where it is computed.
        layer: the layer whose output it is; empty where that is unknown.
        carried: the scans around it whose state from the iteration before it depends on.
    """

    depends: bool
    origin: Origin | None = None
    layer: str = ""
    carried: frozenset[Path] = frozenset()


# Equations that hold programs in which nothing can be measured.
KNOWN_TO_BLOCK = (
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "while",
    "pallas_call",
)
NOTHING = Fact(depends=False)


@dataclass(frozen=True)
class Place:
    """Where a variable gets its value: an output of an equation, or an input of a program.

    Attributes:
        path: the program.
        equation: the index of the equation; -1 for an input of the program.
        output: the index of the output of the equation, or of the input of the program.
        shape: its shape.
        dtype: its format.
    """

    path: Path
    equation: int
    output: int
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Parameter:
    """An input that belongs to a layer.

    Attributes:
        leaf: its index.
        loop_axes: its axes that the loops around the layer run along, by the path of the loop.
    """

    leaf: int
    loop_axes: tuple[tuple[Path, int], ...]


@dataclass
class Site:
    """A mark at the output of a layer, and what belongs to it.

    Attributes:
        path: where the mark is.
        label: what it says.
        name: the name of the layer. From the second call of a layer on, ``#1``, ``#2``, … follow.
        kind: its class.
        shape: the shape of its output, without loops.
        dtype: the format of its output.
        loops: the scans around it, from the outside in.
        parameters: the inputs that belong to it, with those of the layers in it.
        has_computed_parameters: whether some of its parameters are computed from others, so that
            their gradient is not known.
        source: where its input is computed; None where that is unknown.
        source_loops: the scans around that.
        fed_by: the layer whose output is its input; empty where that is unknown.
        recurrent_loops: the loops that do not run over layers and hand a state on to this layer in
            the next iteration, as in a recurrent network.
        obstacle: why it cannot be measured; empty where it can.
    """

    path: Path
    label: Label
    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    loops: tuple[Loop, ...]
    parameters: tuple[Parameter, ...]
    has_computed_parameters: bool
    source: Place | None = None
    source_loops: tuple[Loop, ...] = ()
    fed_by: str = ""
    recurrent_loops: tuple[Loop, ...] = ()
    obstacle: str = ""

    @property
    def layer_loops(self) -> tuple[Loop, ...]:
        """The loops whose iterations are layers."""
        return tuple(loop for loop in self.loops if loop.over_layers)


@dataclass
class _Level:
    """A program that is being read.

    Attributes:
        path: where it is.
        jaxpr: the program.
        facts: what is known of its variables.
        loops: the scans around it.
        parent: the program that calls it.
        operands: for an input of the program the variable of the parent that it has; for the
            carry of a scan, the one that it has in the first iteration.
        places: where a variable gets its value.
        copies: the variable that a variable is equal to.
    """

    path: Path
    jaxpr: Jaxpr
    facts: dict[Any, Fact]
    loops: tuple[Loop, ...] = ()
    parent: "_Level | None" = None
    operands: dict[Any, Any] = field(default_factory=dict)
    places: dict[Any, Place] = field(default_factory=dict)
    copies: dict[Any, Any] = field(default_factory=dict)

    def fact(self, atom: Any) -> Fact:
        return NOTHING if is_literal(atom) else self.facts.get(atom, NOTHING)


@dataclass
class _Input:
    """The input of a layer; see ``Site``."""

    source: Place | None = None
    loops: tuple[Loop, ...] = ()
    fed_by: str = ""


class Discovery:
    """The marks of a traced loss.

    Attributes:
        sites: the outputs of layers that can be measured or not, in forward order.
    """

    def __init__(self, closed: ClosedJaxpr, leaves: Sequence[Leaf]):
        """Reads the program.

        Args:
            closed: the loss, whose first output is the loss itself.
            leaves: its first inputs.
        """
        self.sites: list[Site] = []
        self._leaves = leaves
        self._inputs: dict[str, list[_Input]] = {}
        facts = {}
        for index, variable in enumerate(closed.jaxpr.invars[: len(leaves)]):
            axes = tuple(range(len(variable.aval.shape)))
            depends = leaves[index].is_differentiated
            facts[variable] = Fact(depends, Origin(index, axes))
        self._read(_Level((), closed.jaxpr, facts))
        self._note_unreached(closed.jaxpr)
        self._number_calls()

    def _read(self, level: _Level) -> None:
        """Reads a program, and adds its marks to ``sites``."""
        for index, variable in enumerate(level.jaxpr.invars):
            level.places[variable] = _place(level, -1, index, variable)
        for index, equation in enumerate(level.jaxpr.eqns):
            for output, variable in enumerate(equation.outvars):
                level.places[variable] = _place(level, index, output, variable)
            self._read_equation(level, index, equation)

    def _read_equation(
        self,
        level: _Level,
        index: int,
        equation: JaxprEqn,
    ) -> None:
        name = equation.primitive.name
        facts = [level.fact(atom) for atom in equation.invars]
        depends = any(fact.depends for fact in facts)
        carried = _union_of_carried(facts)
        for variable in equation.outvars:
            level.facts[variable] = Fact(depends, carried=carried)
        if equation.primitive is mark_p:
            fact = self._add_mark(level, index, equation)
            level.facts[equation.outvars[0]] = fact
            if not is_literal(equation.invars[0]):
                level.copies[equation.outvars[0]] = equation.invars[0]
        elif name in IDENTITIES and len(equation.outvars) == 1:
            level.facts[equation.outvars[0]] = facts[0]
        elif name == "transpose" and facts[0].origin:
            origin = facts[0].origin
            axes = tuple(origin.axes[axis] for axis in equation.params["permutation"])
            moved = dataclasses.replace(origin, axes=axes)
            level.facts[equation.outvars[0]] = dataclasses.replace(facts[0], origin=moved)
        else:
            self._read_programs(level, index, equation, facts)

    def _read_programs(
        self,
        level: _Level,
        index: int,
        equation: JaxprEqn,
        facts: Sequence[Fact],
    ) -> None:
        """Reads the programs inside an equation."""
        programs = called_programs(equation)
        if not programs:
            self._note_blocked(level, index, equation)
            return
        name = equation.primitive.name
        for number, program in enumerate(programs):
            path = (*level.path, (index, number))
            if name == SCAN:
                self._read(_scan_level(level, equation, program, path, facts))
                continue
            operands = equation.invars[1:] if name == COND else equation.invars
            inner = _called_level(level, program, path, operands)
            if name == SHARD_MAP:
                inner.parent = None
            self._read(inner)
            if name in CALLS:
                for outer, result in zip(equation.outvars, inner.jaxpr.outvars, strict=True):
                    level.facts[outer] = inner.fact(result)
                    self._note_result(level, inner, outer, result)

    def _note_result(
        self,
        level: _Level,
        inner: _Level,
        outer: Any,
        result: Any,
    ) -> None:
        """A call that returns its own operand returns a copy."""
        if is_literal(result):
            return
        result = _follow_copies(inner, result)
        operand = inner.operands.get(result)
        if operand is not None and not is_literal(operand):
            level.copies[outer] = operand

    def _add_mark(
        self,
        level: _Level,
        index: int,
        equation: JaxprEqn,
    ) -> Fact:
        """Adds a mark; returns what is known of its result."""
        label: Label = equation.params["label"]
        h, *refs = equation.invars
        aval: Any = h.aval
        fact = level.fact(h)
        origins = [level.fact(ref).origin for ref in refs]
        name = self._name(label, origins)
        if name is None:
            return fact
        if label.role is Role.INPUT:
            source, loops = _find_source(level, h)
            self._inputs.setdefault(name, []).append(_Input(source, loops, fact.layer))
            return fact
        inputs = self._inputs.get(name)
        own_input = inputs.pop() if inputs else _Input()
        if fact.layer == name or self._wraps_loop(name, level.loops):
            return fact  # Flax calls what ``remat`` and ``scan`` wrap as the same module again
        parameters = []
        has_computed = False
        for ref, origin in zip(refs, origins, strict=True):
            if origin is None:
                has_computed = has_computed or level.fact(ref).depends
            elif self._leaves[origin.leaf].is_differentiated:
                parameters.append(Parameter(origin.leaf, origin.loop_axes))
        site = Site(
            path=(*level.path, (index, 0)),
            label=label,
            name=name,
            kind=label.kind,
            shape=tuple(aval.shape),
            dtype=aval.dtype,
            loops=level.loops,
            parameters=tuple(dict.fromkeys(parameters)),
            has_computed_parameters=has_computed,
            source=own_input.source,
            source_loops=own_input.loops,
            fed_by=own_input.fed_by,
            recurrent_loops=_recurrent_loops(level.loops, fact),
        )
        self.sites.append(site)
        return dataclasses.replace(fact, layer=name)

    def _wraps_loop(self, name: str, loops: tuple[Loop, ...]) -> bool:
        """Whether a layer was found in a loop, and is now found around that loop."""
        for site in self.sites:
            is_deeper = len(site.loops) > len(loops)
            if site.name == name and is_deeper and site.loops[: len(loops)] == loops:
                return True
        return False

    def _name(self, label: Label, origins: Sequence[Origin | None]) -> str | None:
        """The name of a layer; None for one that has neither a name nor parameters."""
        if label.name is not None:
            return label.name
        for origin in origins:
            if origin is not None:
                path = self._leaves[origin.leaf].path
                return "/".join(path[: len(path) - label.depth])
        return None

    def _note_blocked(
        self,
        level: _Level,
        index: int,
        equation: JaxprEqn,
    ) -> None:
        """Adds the marks inside an equation whose inside cannot be measured."""
        seen = set()
        for inner in iter_programs(dict(equation.params)):
            for marked in marks_inside(inner):
                label: Label = marked.params["label"]
                if label.role is Role.INPUT or label.name is None or label.name in seen:
                    continue
                seen.add(label.name)
                aval: Any = marked.outvars[0].aval
                site = Site(
                    path=(*level.path, (index, 0)),
                    label=label,
                    name=label.name,
                    kind=label.kind,
                    shape=tuple(aval.shape),
                    dtype=aval.dtype,
                    loops=level.loops,
                    parameters=(),
                    has_computed_parameters=False,
                    obstacle=f"is inside {_describe_blocking(equation)}",
                )
                self.sites.append(site)

    def _number_calls(self) -> None:
        """Tells repeated calls of a layer apart. Calls that are not measured do not count."""
        calls: dict[str, int] = {}
        for site in self.sites:
            if site.obstacle:
                continue
            number = calls.get(site.name, 0)
            calls[site.name] = number + 1
            if number:
                site.name = f"{site.name}#{number}"

    def _note_unreached(self, jaxpr: Jaxpr) -> None:
        """Notes the layers from which nothing reaches the loss."""
        is_used = [False] * len(jaxpr.outvars)
        is_used[0] = True
        live, _ = dce_jaxpr(jaxpr, is_used, instantiate=True)
        remaining = {equation.params["label"] for equation in marks_inside(live)}
        for site in self.sites:
            if not site.obstacle and site.label not in remaining:
                site.obstacle = "does not reach the loss"


def _describe_blocking(equation: JaxprEqn) -> str:
    name = equation.primitive.name
    if name == SHARD_MAP and is_known(equation):
        return "a shard_map with check_vma=False"
    if name in KNOWN_TO_BLOCK:
        return f"a {name.removesuffix('_jaxpr').removesuffix('_call')}"
    return f"a {name}, which Fathom does not know in JAX {jax.__version__}"


def _place(
    level: _Level,
    equation: int,
    output: int,
    variable: Any,
) -> Place:
    aval = variable.aval
    shape = tuple(getattr(aval, "shape", ()))
    return Place(level.path, equation, output, shape, getattr(aval, "dtype", None))


def _called_level(
    level: _Level,
    program: Program,
    path: Path,
    operands: Iterable[Any],
) -> _Level:
    """A program that is called with operands of the equation."""
    inner = _Level(path, program.jaxpr, {}, level.loops, level)
    for variable, operand in zip(program.jaxpr.invars, operands, strict=True):
        inner.operands[variable] = operand
        inner.facts[variable] = level.fact(operand)
    return inner


def _scan_level(
    level: _Level,
    equation: JaxprEqn,
    program: Program,
    path: Path,
    facts: Sequence[Fact],
) -> _Level:
    """The body of a scan."""
    counts = scan_counts(equation)
    num_unscanned = counts.consts + counts.carry
    along_parameters = any(fact.origin is not None for fact in facts[num_unscanned:])
    over_layers = along_parameters or _is_measured_per_iteration(program.jaxpr)
    loop = Loop(path, equation.params["length"], over_layers)
    inner = _Level(path, program.jaxpr, {}, (*level.loops, loop), level)
    depends = any(fact.depends for fact in facts)
    carried = _union_of_carried(facts)
    for position, variable in enumerate(program.jaxpr.invars):
        fact = facts[position]
        if position < counts.consts:
            inner.facts[variable] = fact
        elif position < num_unscanned:
            is_state = depends and is_float_array(variable.aval)
            own = frozenset([path]) if is_state else frozenset()
            inner.facts[variable] = Fact(depends, carried=carried | own)
        else:
            inner.facts[variable] = _scanned_fact(fact, path)
        if position < num_unscanned:
            inner.operands[variable] = equation.invars[position]
    return inner


def _is_measured_per_iteration(body: Jaxpr) -> bool:
    """Whether a mark in the body of a scan, but not in a scan inside it, asks for that."""
    for equation in body.eqns:
        if equation.primitive is mark_p:
            is_measured = equation.params["label"].per_iteration
        elif equation.primitive.name == SCAN:
            is_measured = False
        else:
            inner = iter_programs(dict(equation.params))
            is_measured = any(map(_is_measured_per_iteration, inner))
        if is_measured:
            return True
    return False


def _scanned_fact(fact: Fact, path: Path) -> Fact:
    """What is known of a slice of a variable along its first axis."""
    if fact.origin is None:
        return Fact(fact.depends, carried=fact.carried)
    first, *others = fact.origin.axes
    loop_axes = (*fact.origin.loop_axes, (path, first))
    origin = Origin(fact.origin.leaf, tuple(others), loop_axes)
    return Fact(fact.depends, origin, carried=fact.carried)


def _union_of_carried(facts: Iterable[Fact]) -> frozenset[Path]:
    """The scans whose state one of some variables depends on."""
    carried: frozenset[Path] = frozenset()
    for fact in facts:
        carried |= fact.carried
    return carried


def _recurrent_loops(loops: Iterable[Loop], fact: Fact) -> tuple[Loop, ...]:
    """The loops that are no loops over layers and whose state a variable depends on."""
    recurrent = []
    for loop in loops:
        if not loop.over_layers and loop.path in fact.carried:
            recurrent.append(loop)
    return tuple(recurrent)


def _find_source(level: _Level, atom: Any) -> tuple[Place | None, tuple[Loop, ...]]:
    """Where a variable is computed, in the outermost program, and the loops around that.

    The place is None where it is a constant, or does not depend on a parameter.
    """
    if is_literal(atom):
        return None, ()
    variable = _follow_copies(level, atom)
    operand = level.operands.get(variable)
    if operand is not None and level.parent is not None:
        return _find_source(level.parent, operand)
    if not level.fact(variable).depends:
        return None, ()
    return level.places.get(variable), level.loops


def _follow_copies(level: _Level, variable: Any) -> Any:
    while variable in level.copies:
        variable = level.copies[variable]
    return variable
