"""Which options the compiler is given."""

import jax
import pytest

from research.training import compiler_options
from research.training.compiler_options import (
    FAST_COMPILE_OPTIONS,
    SHORT_COMPILE_OPTIONS,
    select_known,
)


def test_an_option_that_the_compiler_does_not_have_is_left_out():
    known = {"xla_backend_optimization_level": 0}
    unknown = {"xla_cpu_option_of_another_version": True}
    assert select_known(known | unknown) == known


@pytest.mark.parametrize(
    "wanted",
    [FAST_COMPILE_OPTIONS, SHORT_COMPILE_OPTIONS, compiler_options.ALL_CORES_OPTIONS],
)
def test_programs_compile_with_what_is_selected(wanted):
    selected = select_known(wanted)
    assert selected
    compiled = jax.jit(lambda x: x + 1, compiler_options=selected)
    assert compiled(1) == 2


def test_other_backends_get_no_options_of_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert select_known(FAST_COMPILE_OPTIONS) == {}
