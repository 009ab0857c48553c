"""The rooms of the package import downwards only, and know nothing of each other on one level."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "research"
MAY_IMPORT = {
    "gauges": {"gauges"},
    "models": {"models", "gauges.slots"},
    "data": {"data", "ranges"},
    "records": {"records"},
    "training": {"training", "models", "gauges", "data"},
    "running": {"running", "training", "gauges", "records", "config", "errors", "job", "member"},
    "sweeps": {"sweeps", "running", "records", "composed", "config", "errors", "member", "train"},
    "benchmark": {
        "benchmark",
        "sweeps",
        "running",
        "training",
        "data",
        "config",
        "errors",
        "job",
        "member",
    }
    | {"cli", "composed", "report", "run", "train"},
}


def imported(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inner = [
                f"research.{alias.name}" for alias in node.names if alias.name != "__version__"
            ]
            names += inner if node.module == "research" else [node.module]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name.removeprefix("research.") for name in names if name.startswith("research.")]


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.glob("*/**/*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_a_room_imports_only_what_it_may(file):
    room = file.relative_to(PACKAGE).parts[0]
    allowed = MAY_IMPORT[room]
    for name in imported(file):
        parts = name.split(".")
        assert parts[0] in allowed or ".".join(parts[:2]) in allowed, (
            f"{room} must not import research.{name}"
        )


def test_only_the_command_line_knows_the_benchmark():
    others = [
        file
        for file in PACKAGE.rglob("*.py")
        if "benchmark" not in file.parts and file.name != "cli.py"
    ]
    assert not [
        file for file in others if any(name.startswith("benchmark") for name in imported(file))
    ]


@pytest.mark.parametrize("file", ["cli.py", "config.py", "records/analysis.py"])
def test_what_starts_fast_never_imports_jax_at_the_top(file):
    tree = ast.parse((PACKAGE / file).read_text())
    tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in tops}  # type: ignore[attr-defined]
    assert not {name for name in names if name.split(".")[0] in ("jax", "flax", "optax", "wandb")}
