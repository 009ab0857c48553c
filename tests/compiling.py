"""Fast compilation for tests, and subsets of cases that always run.

Compilation takes most of a test's time, and no test depends on how well the code is optimised.
"""

import functools

import jax
import pytest

from research.training.compiler_options import FAST_COMPILE_OPTIONS, select_known
from research.training.program import make_program

from .optimizations import optimizations

quick = functools.partial(jax.jit, compiler_options=select_known(FAST_COMPILE_OPTIONS))


def one_in(step, cases):
    """All cases as parameters of a test; all but every ``step``-th are marked slow.

    Args:
        step: 1 marks none.
        cases: a tuple of arguments for each.
    """
    parameters = []
    for number, case in enumerate(cases):
        marks = [pytest.mark.slow] if number % step else []
        parameters.append(pytest.param(*case, marks=marks))
    return parameters


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled_room():
    """For the conftest of a room: compiles about as quickly as possible, in all of its tests.

    A program that was compiled so rounds differently, and JAX would use it for other rooms too: the
    setting is not in the key of its cache in memory.
    """
    with optimizations(disabled=True):
        yield
    make_program.cache_clear()
    jax.clear_caches()
