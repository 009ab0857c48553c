"""The layers that are measured, their parameters, and what is said of them in a table."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.diagnosis.words import name_input
from research.watching.discovery import Leaf, Loop, Place, Site
from research.watching.jaxprs import Path
from research.watching.marks import TAP
from research.watching.selection import parent_of

SHARED = "its parameters are shared with {owner}"
SHARED_IN_LOOP = "its parameters are shared by all iterations"
COMPUTED = "its parameters are computed from others"
UNKNOWN = "its parameters are unknown: pass them to fathom.tap as params="


@dataclass(frozen=True)
class Layer:
    """A layer that is measured.

    Attributes:
        name: its name in the record and in figures.
        kind: the name of its class.
        group: which stack of equal layers it belongs to, such as ``encoder/blocks``.
        parameters: the number of its parameters.
        note: what is not measured of it, and why; empty where all is.
        is_iteration: whether it is one iteration of a loop, measured apart by ``fathom.tap``.
        summed_iterations: the iterations of a recurrent loop over which it is summed; 1 for none.
    """

    name: str
    kind: str
    group: str
    parameters: int
    note: str = ""
    is_iteration: bool = False
    summed_iterations: int = 1

    def is_like(self, other: "Layer") -> bool:
        """Whether another layer differs in nothing but its name."""
        return dataclasses.replace(self, name=other.name) == other


@dataclass(frozen=True)
class OwnedLeaf:
    """An input that belongs to a layer.

    Attributes:
        leaf: its index.
        axes: its axes that the loops of the layer run along.
    """

    leaf: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """The layers of one site: one, or one for each iteration of its loops.

    Attributes:
        loops: the lengths of the loops.
        owned: the parameters whose gradient is the layers'.
        note: which of their parameters do not count, and why; empty where all do.
    """

    loops: tuple[int, ...]
    owned: tuple[OwnedLeaf, ...]
    note: str


@dataclass(frozen=True)
class LayerTable:
    """The layers that are measured, in forward order. ``str`` is a table.

    Attributes:
        layers: the layers.
        blocks: the sections of consecutive layers that share a loop: layer 0 of each section comes
            before layer 1 of each.
        input_name: where the input of the first layer is measured; empty where it is not.
        others: what was found and is not measured, one line each.
    """

    layers: tuple[Layer, ...]
    blocks: tuple[tuple[Section, ...], ...]
    input_name: str
    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def names(self) -> list[str]:
        """The names of the layers."""
        return [layer.name for layer in self.layers]

    @property
    def groups(self) -> dict[str, list[int]]:
        """The indices of the layers of each stack of equal layers."""
        groups: dict[str, list[int]] = {}
        for index, layer in enumerate(self.layers):
            groups.setdefault(layer.group, []).append(index)
        return groups

    def _rows(self) -> list[tuple[int, int]]:
        """The first and the last layer of each row: the iterations of a loop share one."""
        rows: list[tuple[int, int]] = []
        for index, layer in enumerate(self.layers):
            before = self.layers[index - 1] if index else None
            if before is not None and layer.is_iteration and layer.is_like(before):
                rows[-1] = (rows[-1][0], index)
            else:
                rows.append((index, index))
        return rows

    def __str__(self) -> str:
        rows = [["", "layer", "class", "parameters", "note"]]
        for first, last in self._rows():
            layer = self.layers[first]
            number = str(first)
            name = layer.name
            if last > first:
                number = f"{first}–{last}"
                name = f"{name} … {self.layers[last].name}"
            rows.append([number, name, layer.kind, f"{layer.parameters:,}", layer.note])
        widths = []
        for column in zip(*rows, strict=True):
            widths.append(max(map(len, column)))
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        start = self.input_name or "not measured: it does not depend on the parameters"
        lines.append(f"input of the first layer: {start}")
        for line in self.others:
            lines.append(f"not measured: {line}")
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True)
class Plan:
    """What is measured in a traced loss.

    Attributes:
        table: the layers.
        blocks: the sites of each block of the table.
        source: where the input of the first layer is computed; None where it is not measured.
        layer_scans: the scans whose iterations are layers.
    """

    table: LayerTable
    blocks: list[list[Site]]
    source: Place | None
    source_loops: tuple[Loop, ...]
    layer_scans: frozenset[Path]


def make_plan(
    chosen: Sequence[Site],
    found: Sequence[Site],
    leaves: Sequence[Leaf],
) -> Plan:
    """Says which layer owns which parameters, and in which order the layers are.

    Args:
        chosen: the sites that are measured, in forward order.
        found: all sites.
        leaves: the inputs of the loss.
    """
    blocks = _blocks(chosen)
    owners: dict[int, str] = {}
    layers: list[Layer] = []
    sections: list[tuple[Section, ...]] = []
    owned_sections = {}
    for site in chosen:
        owned_sections[id(site)] = _section(site, owners, leaves)
    for block in blocks:
        members = [owned_sections[id(site)] for site in block]
        sections.append(tuple(members))
        layers += _layers_of_block(block, members, leaves)
    first = blocks[0][0]
    source = _usable_source(first)
    table = LayerTable(
        layers=tuple(layers),
        blocks=tuple(sections),
        input_name=name_input(layers[0].name) if source else "",
        others=tuple(f"{site.name} {site.obstacle}" for site in found if site.obstacle),
    )
    scans = set()
    for site in chosen:
        scans |= {loop.path for loop in site.layer_loops}
    return Plan(table, blocks, source, first.source_loops, frozenset(scans))


def _usable_source(site: Site) -> Place | None:
    """The place of the input of the first layer, unless it is inside a loop over layers."""
    if any(loop.over_layers for loop in site.source_loops):
        return None
    return site.source


def _blocks(chosen: Sequence[Site]) -> list[list[Site]]:
    """Consecutive sites in the same loop over layers belong together."""
    blocks: list[list[Site]] = []
    for site in chosen:
        is_continued = (
            bool(blocks)
            and bool(site.layer_loops)
            and blocks[-1][-1].layer_loops == site.layer_loops
        )
        if is_continued:
            blocks[-1].append(site)
        else:
            blocks.append([site])
    return blocks


def _section(
    site: Site,
    owners: dict[int, str],
    leaves: Sequence[Leaf],
) -> Section:
    """The parameters that a site owns: those that no site before it uses.

    Args:
        site: the site.
        owners: the names of the layers that own a parameter; it is completed.
        leaves: the inputs of the loss.
    """
    loops = [loop.path for loop in site.layer_loops]
    lengths = tuple(loop.length for loop in site.layer_loops)
    owned = []
    shared_with = ""
    shared_in_loop = False
    for parameter in site.parameters:
        axes = dict(parameter.loop_axes)
        if parameter.leaf in owners:
            shared_with = owners[parameter.leaf]
        elif set(axes) != set(loops):
            shared_in_loop = True
        else:
            owners[parameter.leaf] = site.name
            owned.append(OwnedLeaf(parameter.leaf, tuple(axes[path] for path in loops)))
    note = ""
    if site.has_computed_parameters:
        note = COMPUTED
        owned = []
    elif shared_with:
        note = SHARED.format(owner=shared_with)
    elif shared_in_loop or (site.label.per_iteration and not owned):
        note = SHARED_IN_LOOP
    elif not owned and site.kind == TAP:
        note = UNKNOWN
    elif not owned:
        note = "it has no parameters that are differentiated"
    return Section(lengths, tuple(owned), note)


def _layers_of_block(
    block: Sequence[Site],
    sections: Sequence[Section],
    leaves: Sequence[Leaf],
) -> list[Layer]:
    lengths = sections[0].loops
    iterations = math.prod(lengths)
    layers = []
    for index in np.ndindex(*lengths):
        for site, section in zip(block, sections, strict=True):
            position = ",".join(map(str, index))
            suffix = f"[{position}]" if lengths else ""
            size = sum(leaves[owned.leaf].size for owned in section.owned)
            layer = Layer(
                name=site.name + suffix,
                kind=site.kind,
                group=_group(site),
                parameters=size // iterations,
                note=_note(site, section),
                is_iteration=site.label.per_iteration and not section.owned,
                summed_iterations=math.prod(loop.length for loop in site.recurrent_loops),
            )
            layers.append(layer)
    return layers


def _note(site: Site, section: Section) -> str:
    notes = []
    if section.note and section.owned:
        notes.append(f"grad_norm is of a part: others of {section.note}")
    elif section.note:
        notes.append(f"no grad_norm: {section.note}")
    summed = [loop.length for loop in site.loops if not loop.over_layers]
    if summed:
        lengths = " × ".join(map(str, summed))
        note = f"measured over all {lengths} iterations of a loop"
        if site.kind == TAP:
            note += "; per_iteration=True in fathom.tap measures each"
        notes.append(note)
    return "; ".join(notes)


def _group(site: Site) -> str:
    """The name of the stack of a layer."""
    if site.layer_loops:
        return site.name.split("#")[0]
    parent = parent_of(site.name)
    if site.kind == TAP:
        return parent
    return f"{parent}/{site.kind}" if parent else site.kind


def rows_in_order(table: LayerTable, rows: Sequence[Any], stack: Any) -> Iterator[Any]:
    """What was measured at each block, as arrays over its layers in forward order.

    Args:
        table: the layers.
        rows: for each section what was measured, [loops…, …], in the order of the blocks.
        stack: ``jnp.stack`` or ``np.stack``.
    """
    remaining = iter(rows)
    for block in table.blocks:
        members = [next(remaining) for _ in block]
        num_loops = len(block[0].loops)
        stacked = stack(members, axis=num_loops)
        shape_of_row = stacked.shape[num_loops + 1 :]
        yield stacked.reshape(-1, *shape_of_row)
