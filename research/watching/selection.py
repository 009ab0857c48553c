"""Chooses which of the layers that were found are measured."""

import fnmatch
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from research.config.arguments import short_repr
from research.config.suggestions import find_nearest
from research.watching.discovery import Leaf, Site
from research.watching.marks import TAP

AUTO = "auto"
ALL = "all"
MANY = 2  # siblings that count as a stack of layers
SHARE_OF_HEAVIEST = 0.5
NAMED_LAYERS = 6  # how many names an error lists

Select = str | type | Sequence[str] | Callable[["Candidate"], bool]


@dataclass(frozen=True)
class Candidate:
    """A layer that could be measured, as a predicate receives it.

    Attributes:
        name: its path, such as ``blocks/3``.
        kind: the name of its class, or ``tap``.
        shape: the shape of its output.
        dtype: the format of its output.
        parameters: the number of its parameters, with those of the layers in it. For layers that a
            scan runs along, that of all of them.
        loops: the lengths of the scans whose iterations are layers.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    loops: tuple[int, ...]


class NothingToMeasure(ValueError):
    """No layer was found, or the selection fits none."""


def choose(
    sites: Sequence[Site],
    select: Select,
    depth: int | None,
    leaves: Sequence[Leaf],
) -> list[Site]:
    """The sites that are measured, in forward order.

    Args:
        sites: the layers that were found.
        select: ``auto``, ``all``, a glob, several of them, a class, or a predicate.
        depth: the number of entries of the paths of the layers; None for any.
        leaves: the inputs of the loss.

    Raises:
        NothingToMeasure: no layer can be measured, or none fits.
        ValueError: a layer that was asked for by its name cannot be measured.
        TypeError: ``select`` is of another type.
    """
    if not sites:
        raise NothingToMeasure(
            "no layer was found: the loss calls no module of Flax, Equinox or Haiku and no "
            "fathom.tap. Pass the NNX or Equinox model as the argument that is differentiated, "
            'or name arrays with fathom.tap(h, "name")'
        )
    sizes = {id(site): count_parameters(site, leaves) for site in sites}
    if depth is not None:
        sites = _at_depth(sites, depth)
    measurable = [site for site in sites if not site.obstacle]
    if select == AUTO:
        chosen = measurable if depth is not None else _choose_stack(measurable, sizes)
    elif select == ALL:
        chosen = measurable
    elif isinstance(select, type):
        chosen = _of_class(sites, select)
    elif callable(select):
        chosen = []
        for site in measurable:
            if select(_candidate(site, sizes[id(site)])):
                chosen.append(site)
    elif not isinstance(select, str | list | tuple):
        raise TypeError(
            f"select must be {AUTO!r}, {ALL!r}, a glob, a list of globs, a class or a function, "
            f"got {short_repr(select)}"
        )
    else:
        globs = [select] if isinstance(select, str) else list(select)
        chosen = _matching(sites, globs)
    if not chosen:
        raise NothingToMeasure(_describe_failure(sites, select))
    return chosen


def count_parameters(site: Site, leaves: Sequence[Leaf]) -> int:
    """The number of parameters of a layer, over all iterations of its loops."""
    indices = {parameter.leaf for parameter in site.parameters}
    return sum(leaves[index].size for index in indices)


def _candidate(site: Site, parameters: int) -> Candidate:
    return Candidate(
        name=site.name,
        kind=site.kind,
        shape=site.shape,
        dtype=str(site.dtype),
        parameters=parameters,
        loops=tuple(loop.length for loop in site.layer_loops),
    )


def _at_depth(sites: Sequence[Site], depth: int) -> list[Site]:
    chosen = [site for site in sites if len(_segments(site.name)) == depth]
    if not chosen:
        depths = sorted({len(_segments(site.name)) for site in sites})
        known = ", ".join(map(str, depths))
        raise NothingToMeasure(f"no layer is at depth={depth}; there are layers at {known}")
    return chosen


def _of_class(sites: Sequence[Site], kind: type) -> list[Site]:
    chosen = [site for site in sites if site.kind == kind.__name__]
    if not chosen:
        kinds = ", ".join(sorted({site.kind for site in sites}))
        raise NothingToMeasure(f"no layer is of class {kind.__name__}; there are {kinds}")
    return _without_obstacles(chosen)


def _matching(sites: Sequence[Site], globs: Sequence[str]) -> list[Site]:
    chosen = []
    names = list(dict.fromkeys(site.name for site in sites))
    for glob in globs:
        if not any(matches(name, glob) for name in names):
            nearest = find_nearest(glob, names) or _nearest_by_start(glob, names)
            hint = f"; did you mean {nearest}?" if nearest else ""
            raise NothingToMeasure(f"no layer fits select={glob!r}{hint} {_list(names)}")
    for site in sites:
        if any(matches(site.name, glob) for glob in globs):
            chosen.append(site)
    return _without_obstacles(chosen)


def _without_obstacles(sites: Sequence[Site]) -> list[Site]:
    """The sites that can be measured.

    Raises:
        ValueError: no call of a layer can.
    """
    measurable = [site for site in sites if not site.obstacle]
    names = {site.name.split("#")[0] for site in measurable}
    for site in sites:
        if site.obstacle and site.name not in names:
            raise ValueError(f"{site.name} cannot be measured: it {site.obstacle}")
    return measurable


def _nearest_by_start(glob: str, names: Sequence[str]) -> str | None:
    start = glob.split("*")[0].lower()
    for name in names:
        if start and name.lower().startswith(start[:3]):
            return name
    return None


def matches(name: str, glob: str) -> bool:
    """Whether a path fits a glob.

    ``*`` stands for any text within an entry of the path and ``**`` for any number of entries.

    >>> matches("blocks/3", "blocks/*")
    True
    >>> matches("blocks/3/linear", "blocks/*")
    False
    >>> matches("blocks/3/linear", "**/linear")
    True
    """
    return _segments_match(_segments(name), _segments(glob))


def _segments_match(names: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not names
    if globs[0] == "**":
        remainders = [names[skipped:] for skipped in range(len(names) + 1)]
        return any(_segments_match(remainder, globs[1:]) for remainder in remainders)
    if not names or not fnmatch.fnmatchcase(names[0], globs[0]):
        return False
    return _segments_match(names[1:], globs[1:])


def _segments(name: str) -> list[str]:
    return name.split("/")


def parent_of(name: str) -> str:
    """The path of the layer in which a layer is; empty at the top."""
    return name.rpartition("/")[0]


def _choose_stack(sites: Sequence[Site], sizes: dict[int, int]) -> list[Site]:
    """The stacks of equal layers that hold most of the parameters.

    A stack are siblings of one class, or a layer that a scan runs along. Of the stacks that hold at
    least half the parameters of the heaviest one, those at the least depth are chosen, and then all
    that are neither inside nor around them. Siblings that are stacks themselves, such as an encoder
    and a decoder, give way to their layers. Layers that the user named are chosen before all.
    """
    taps = [site for site in sites if site.kind == TAP]
    if taps:
        return taps
    stacks: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        stacks.setdefault((parent_of(site.name), site.kind), []).append(site)
    heavy = _heaviest(stacks, sizes)
    if not heavy:
        least = min((len(_segments(site.name)) for site in sites), default=0)
        return [site for site in sites if len(_segments(site.name)) == least]
    chosen: list[Site] = []
    for stack in sorted(heavy, key=_depth_of_stack):
        pairs = itertools.product(stack, chosen)
        if not any(_is_nested(site, other) for site, other in pairs):
            chosen += _inner_stacks(stack, stacks, sizes) or stack
    kept = {id(site) for site in chosen}
    return [site for site in sites if id(site) in kept]


def _heaviest(stacks: dict[tuple[str, str], list[Site]], sizes: dict[int, int]) -> list[list[Site]]:
    many = [stack for stack in stacks.values() if _count_layers(stack) >= MANY]
    weights = []
    for stack in many:
        weights.append(sum(sizes[id(site)] for site in stack))
    limit = SHARE_OF_HEAVIEST * max(weights, default=0)
    heavy = []
    for stack, weight in zip(many, weights, strict=True):
        if weight >= limit:
            heavy.append(stack)
    return heavy


def _inner_stacks(
    stack: Sequence[Site],
    stacks: dict[tuple[str, str], list[Site]],
    sizes: dict[int, int],
) -> list[Site]:
    """The layers in the members of a stack, if each member is a stack itself; else nothing.

    Args:
        stack: the stack.
        stacks: all stacks.
        sizes: the number of parameters of each site.
    """
    inner: list[Site] = []
    for member in stack:
        found = [chain for chain in stacks.values() if _fills(chain, member, sizes)]
        if not found:
            return []
        inner += found[0]
    return inner


def _fills(
    chain: Sequence[Site],
    member: Site,
    sizes: dict[int, int],
) -> bool:
    """Whether a layer consists of a chain of layers, each fed by the one before.

    Args:
        chain: siblings of one class.
        member: the layer.
        sizes: the number of parameters of each site.
    """
    outer_loops = len(member.layer_loops)
    if not chain[0].name.startswith(f"{member.name}/"):
        return False
    if _count_layers(chain, outer_loops) < MANY:
        return False
    for before, site in zip(chain, chain[1:], strict=False):
        if site.fed_by != before.name:
            return False
    weight = sum(sizes[id(site)] for site in chain)
    return weight >= SHARE_OF_HEAVIEST * sizes[id(member)]


def _count_layers(stack: Sequence[Site], outer_loops: int = 0) -> int:
    """The layers of a stack; repeated calls of a layer count once.

    Args:
        stack: the stack.
        outer_loops: how many of the loops around it do not count.
    """
    total = 0
    for site in stack:
        if "#" not in site.name:
            total += math.prod(loop.length for loop in site.layer_loops[outer_loops:])
    return total


def _depth_of_stack(stack: Sequence[Site]) -> int:
    return len(_segments(stack[0].name))


def _is_nested(one: Site, other: Site) -> bool:
    """Whether a layer is inside another, in either order."""
    first = one.name.split("#")[0]
    second = other.name.split("#")[0]
    return first == second or first.startswith(f"{second}/") or second.startswith(f"{first}/")


def _describe_failure(sites: Sequence[Site], select: Select) -> str:
    obstacles = [f"{site.name} {site.obstacle}" for site in sites if site.obstacle]
    if len(obstacles) == len(sites):
        return f"no layer can be measured: {'; '.join(obstacles[:NAMED_LAYERS])}"
    names = list(dict.fromkeys(site.name for site in sites))
    chosen = select if isinstance(select, str) else getattr(select, "__name__", select)
    return f"no layer fits select={chosen} {_list(names)}"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_LAYERS])
    more = " …" if len(names) > NAMED_LAYERS else ""
    return f"(found: {shown}{more})"
