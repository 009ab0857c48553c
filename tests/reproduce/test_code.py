"""Mistakes in the code of an experiment are one line with their place, before any training."""

import pytest

from research.cli import train
from research.records.runs import Run
from research.reproduce import experiments
from research.reproduce.code import call_code, check_code

CLAIMS = "def claims(runs):\n    return []\n"
FIGURE = "def figure(runs):\n    return None\n"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes the files of the experiment ``gain``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "gain"
    folder.mkdir(parents=True)
    for module in ("experiments", "code"):
        monkeypatch.setattr(
            f"research.reproduce.{module}.resource_dir", lambda name: tmp_path / name
        )
    experiments.load_module.cache_clear()

    def write(claims=CLAIMS, figure=FIGURE):
        for name, source in {"claims": claims, "figure": figure}.items():
            if source is not None:
                (folder / f"{name}.py").write_text(source)

    return write


@pytest.mark.parametrize(
    "key", experiments.experiment_names() + experiments.experiment_names("paper")
)
def test_the_code_of_each_experiment_is_accepted(key):
    check_code(key)


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        (None, " is missing: an experiment needs its function claims(runs)"),
        ("import math\n\ndef claims(runs:\n    pass\n", ", line 3: '(' was never closed"),
        ("def claim(runs):\n    pass\n", " has no function claims(runs); did you mean claim?"),
        ("x = 1\nreturn x\n", ", line 2: 'return' outside function"),
        (
            f"import numpy\nimport seaborn_nope\n{CLAIMS}",
            ", line 2: the module seaborn_nope is not installed, and Fathom does not bring it",
        ),
        (
            f"from seaborn_nope.axes import draw\n{CLAIMS}",
            ", line 1: the module seaborn_nope is not installed, and Fathom does not bring it",
        ),
    ],
)
def test_a_mistake_is_found_without_executing_the_code(code, claims, line):
    code(claims=claims)
    with pytest.raises(ValueError) as raised:
        check_code("gain")
    assert str(raised.value) == f"experiments/gain/claims.py{line}"


@pytest.mark.parametrize(
    "figure",
    [
        FIGURE,
        "from numpy import mean as figure\n",
        "try:\n    import seaborn_nope\nexcept ImportError:\n    pass\nfigure = print\n",
        f"raise ValueError\n{FIGURE}",
    ],
)
def test_what_may_work_is_accepted(code, figure):
    code(figure=figure)
    check_code("gain")


class UntrainedRun(Run):
    """A run with one setting, without files."""

    def __init__(self):
        self.config = {"init.gain": 1.0}


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return runs[0]['init.gian']", "KeyError: there is no init.gian; did you mean init.gain?"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('too few runs')", "too few runs"),
        ("assert not runs", "AssertionError"),
        (
            "import seaborn_nope",
            "the module seaborn_nope is not installed, and Fathom does not bring it",
        ),
    ],
)
def test_an_exception_in_the_code_has_its_place(code, body, line):
    code(claims=f"def claims(runs):\n    {body}\n")
    with pytest.raises(ValueError) as raised:
        call_code("gain", "claims", [UntrainedRun()])
    assert str(raised.value) == f"experiments/gain/claims.py, line 2: {line}"


@pytest.mark.parametrize("command", ["reproduce", "figure"])
def test_a_command_checks_the_code_first(fathom, code, monkeypatch, command):
    code(figure="def figure(runs)\n")
    monkeypatch.setattr(experiments, "find_experiments", lambda *_: ["gain"])
    monkeypatch.setattr(train, "main", lambda *_: pytest.fail("a run was trained"))

    result = fathom(command, "gain")

    assert result.code == 2
    assert result.out == ""
    assert result.err == "fathom: experiments/gain/figure.py, line 1: expected ':'\n"
