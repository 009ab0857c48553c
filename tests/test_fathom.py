"""``import fathom`` is the Python interface of ``research``."""

import subprocess
import sys

import pytest

import fathom
import research


def test_it_has_the_names_of_research():
    assert dir(fathom) == dir(research)
    assert fathom.__version__ == research.__version__
    assert fathom.watch is research.watch
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from fathom import nothing as nothing


def test_what_it_does_not_have_leads_to_what_it_has():
    with pytest.raises(AttributeError, match="'plot'; it has load, train, sweep, watch, "):
        _ = fathom.plot
    with pytest.raises(AttributeError, match="did you mean fathom.load"):
        _ = fathom.lod


def test_importing_it_imports_nothing_slow():
    script = "import sys, fathom; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script])
    assert ended.returncode == 0
