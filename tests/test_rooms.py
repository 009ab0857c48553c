"""The rooms of the package import downwards only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "research"
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "theory": {"config"},
    "parallel": set(),
    "gauges": {"config", "parallel", "theory"},
    "data": {"config"},
    "records": {"config", "gauges"},
    "models": {"config", "gauges", "parallel", "theory"},
    "training": {"config", "data", "gauges", "models", "parallel", "theory"},
    "diagnosis": {"config", "gauges", "records", "theory"},
    "reporting": {"config", "diagnosis", "gauges", "records", "theory"},
}
MAY_IMPORT["runner"] = set(MAY_IMPORT) - {"reporting"}
MAY_IMPORT["watching"] = {
    "config",
    "diagnosis",
    "gauges",
    "parallel",
    "records",
    "runner",
    "theory",
}
MAY_IMPORT["sweeps"] = set(MAY_IMPORT)
MAY_IMPORT["reproduce"] = set(MAY_IMPORT)
MAY_IMPORT["benchmark"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["interface"] = set(MAY_IMPORT)
STARTS_FAST = ["cli", "config", "records/runs.py", "reporting", "theory"]
HEAVY = {"jax", "flax", "optax", "wandb"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def imported_rooms(file: Path) -> set[str]:
    """The rooms that a file imports from, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "research":
                names = [f"research.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "research" and rest and rest != "__version__":
                rooms.add(rest.split(".")[0])
    return rooms


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.glob("*/**/*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_a_room_imports_only_from_rooms_below_it(file):
    room = room_of(file)
    assert imported_rooms(file) - {room} <= MAY_IMPORT[room]


def test_in_front_of_the_rooms_stand_the_python_interface_and_the_command_alone():
    in_front = {file.name for file in PACKAGE.glob("*.py")}
    assert in_front == {"__init__.py", "__main__.py"}
    assert imported_rooms(PACKAGE / "__main__.py") == {"cli"}


def files_of(place: str) -> list[Path]:
    path = PACKAGE / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("place", STARTS_FAST)
def test_what_starts_fast_imports_nothing_heavy_at_the_top(place):
    for file in files_of(place):
        for node in ast.parse(file.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert not {name.split(".")[0] for name in names} & HEAVY, file
