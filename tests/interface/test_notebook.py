"""The notebook of the documentation runs from the first cell to the last one."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def run_cell(source, variables):
    """Runs a cell and returns the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop()
    exec(compile(tree, "cell", "exec"), variables)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), variables)
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), variables)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_every_cell_of_the_notebook_runs_and_shows_something():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    variables = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            shown.append(run_cell("".join(cell["source"]), variables))

    assert all(value is not None for value in shown)
    runs, drawing, summary, profile, _, comparison = shown
    assert len(runs) == 18
    assert "<table>" in runs._repr_html_()
    assert drawing._repr_png_()
    assert profile._repr_png_()
    assert "inv_sqrt_depth" in summary._repr_html_()
    assert "skip.kind" in comparison._repr_html_()
