"""Evaluates a traced loss again, with slots where something is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from research.watching.discovery import Place
from research.watching.jaxprs import (
    COND,
    JIT,
    REMAT,
    SCAN,
    SHARD_MAP,
    Path,
    Program,
    called_programs,
    is_literal,
    scan_counts,
)
from research.watching.marks import mark_p
from research.watching.segments import Segments, read_flow
from research.watching.slots import measure


@dataclass(frozen=True)
class Slot:
    """Where something is measured.

    Attributes:
        path: the mark, or the program in which a variable is measured.
        place: the variable; None for a mark.
        value: the zero input [loops…, 8] that receives the statistics.
    """

    path: Path
    place: Place | None
    value: Array


jax.tree_util.register_dataclass(Slot, data_fields=["value"], meta_fields=["path", "place"])

Slots = Sequence[Slot]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates programs.

    Attributes:
        layer_scans: the scans whose iterations are layers. Their slots have an entry for each
            iteration; all iterations of another scan share a slot.
    """

    layer_scans: frozenset[Path]

    def evaluate(
        self,
        program: Program,
        args: Sequence[Any],
        slots: Slots,
        path: Path = (),
    ) -> list[Any]:
        """The outputs of a program.

        Args:
            program: the program.
            args: its inputs.
            slots: the slots in it.
            path: where it is.
        """
        jaxpr = program.jaxpr
        env: dict[Any, Any] = {}
        env.update(zip(jaxpr.constvars, program.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        by_equation, variables = _sort_slots(slots, path)
        _measure_outputs(env, jaxpr.invars, variables.get(-1, []))
        flow = read_flow(jaxpr, by_equation, variables)
        segments = Segments(jaxpr, flow)
        for step in flow.steps:
            if step.is_measured:
                (equation,) = step.equations
                operands = [_read(env, atom) for atom in equation.invars]
                inner_slots = by_equation[step.index]
                outputs = self._run_measured(equation, operands, inner_slots, (path, step.index))
                env.update(zip(equation.outvars, outputs, strict=True))
            else:
                segments.run(step, env)
            if step.index in variables:
                outvars = jaxpr.eqns[step.index].outvars
                _measure_outputs(env, outvars, variables[step.index])
        return [_read(env, atom) for atom in flow.outputs]

    def _run_measured(
        self,
        equation: JaxprEqn,
        operands: list[Any],
        slots: Slots,
        where: tuple[Path, int],
    ) -> list[Any]:
        """The outputs of a mark, or of an equation with slots in it."""
        if equation.primitive is mark_p:
            h = operands[0]
            for slot in slots:
                h = measure(h, slot.value)
            return [h]
        path, index = where
        programs = called_programs(equation)
        paths = [(*path, (index, number)) for number in range(len(programs))]
        name = equation.primitive.name
        if name == SCAN:
            return self._run_scan(equation, programs[0], operands, slots, paths[0])
        if name == COND:
            return self._run_cond(programs, operands, slots, paths)
        if name == SHARD_MAP:
            return self._run_shard_map(equation, programs[0], operands, slots, paths[0])

        def call(slots: Slots, *operands: Any) -> list[Any]:
            return self.evaluate(programs[0], operands, slots, paths[0])

        if name in REMAT:
            call = jax.checkpoint(
                call,
                policy=equation.params["policy"],
                prevent_cse=equation.params["prevent_cse"],
            )
        elif name in JIT:
            call = jax.jit(call)
        return call(slots, *operands)

    def _run_scan(
        self,
        equation: JaxprEqn,
        body: Program,
        operands: list[Any],
        slots: Slots,
        path: Path,
    ) -> list[Any]:
        params = equation.params
        counts = scan_counts(equation)
        num_unscanned = counts.consts + counts.carry
        consts = operands[: counts.consts]
        is_over_layers = path in self.layer_scans
        scanned_slots = slots if is_over_layers else []
        shared_slots = [] if is_over_layers else slots

        def step(carry: list[Any], inputs: Any) -> tuple[list[Any], list[Any]]:
            xs, slots_of_layer = inputs
            slots_here = slots_of_layer if is_over_layers else shared_slots
            outputs = self.evaluate(body, [*consts, *carry, *xs], slots_here, path)
            return outputs[: counts.carry], outputs[counts.carry :]

        carry, ys = lax.scan(
            step,
            operands[counts.consts : num_unscanned],
            (operands[num_unscanned:], scanned_slots),
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *ys]

    def _run_cond(
        self,
        programs: list[Program],
        operands: list[Any],
        slots: Slots,
        paths: list[Path],
    ) -> list[Any]:
        branches = []
        for program, path in zip(programs, paths, strict=True):
            branches.append(self._make_branch(program, path))
        predicate, *others = operands
        return lax.switch(predicate, branches, slots, *others)

    def _make_branch(self, program: Program, path: Path) -> Any:
        def branch(slots: Slots, *operands: Any) -> list[Any]:
            inside = [slot for slot in slots if _is_inside(slot, path)]
            return self.evaluate(program, operands, inside, path)

        return branch

    def _run_shard_map(
        self,
        equation: JaxprEqn,
        body: Program,
        operands: list[Any],
        slots: Slots,
        path: Path,
    ) -> list[Any]:
        params = equation.params

        def call(slots: Slots, *operands: Any) -> tuple[Any, ...]:
            return tuple(self.evaluate(body, operands, slots, path))

        manual = params.get("newly_manual_axes", params.get("manual_axes", ()))
        mapped = jax.shard_map(
            call,
            mesh=params["mesh"],
            in_specs=(jax.sharding.PartitionSpec(), *params["in_specs"]),
            out_specs=tuple(params["out_specs"]),
            axis_names=set(manual),
            check_vma=True,
        )
        return list(mapped(slots, *operands))


def _is_inside(slot: Slot, path: Path) -> bool:
    return slot.path[: len(path)] == path


def _sort_slots(
    slots: Slots,
    path: Path,
) -> tuple[dict[int, list[Slot]], dict[int, list[Slot]]]:
    """Slots by the equation that they are in, and those of variables by where these come from.

    Args:
        slots: the slots in a program.
        path: the path of the program.
    """
    by_equation: dict[int, list[Slot]] = {}
    variables: dict[int, list[Slot]] = {}
    for slot in slots:
        if slot.place is not None and slot.path == path:
            variables.setdefault(slot.place.equation, []).append(slot)
        else:
            index, _ = slot.path[len(path)]
            by_equation.setdefault(index, []).append(slot)
    return by_equation, variables


def _measure_outputs(
    env: dict[Any, Any],
    variables: Sequence[Any],
    slots: Slots,
) -> None:
    """Puts slots at outputs of an equation, or at inputs of a program."""
    for slot in slots:
        assert slot.place is not None
        variable = variables[slot.place.output]
        env[variable] = measure(env[variable], slot.value)


def _read(env: Mapping[Any, Any], atom: Any) -> Any:
    return atom.val if is_literal(atom) else env[atom]
