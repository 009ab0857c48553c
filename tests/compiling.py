"""What keeps the tests short: programs that are compiled quickly, and sets of which a part is run always.

Compiling is most of a test's time, and how well code is optimised is not what a test is about.
"""

import functools

import jax
import pytest

from research.training.program import FAST_COMPILE_OPTIONS

quick = functools.partial(jax.jit, compiler_options=FAST_COMPILE_OPTIONS)


def one_in(step, cases):
    """All cases, of which one in ``step`` is run always and the others where slow tests are asked for."""
    return [
        pytest.param(*case, marks=[pytest.mark.slow] if n % step else [])
        for n, case in enumerate(cases)
    ]
