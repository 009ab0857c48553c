"""Programs are lowered for the accelerators that are not at hand, by JAX on a CPU."""

import jax
import numpy as np
import pytest

from research.parallel.mesh import Layout
from research.runner.run_setup import make_run_setup
from research.training.program import make_program

from ..builders import make_config

PLATFORMS = {"gpu": ("cuda", "rocm"), "tpu": ("tpu",)}  # of each backend
SMALL = {
    "model.depth": 2,
    "model.width": 8,
    "train.batch_size": 8,
    "train.steps": 4,
}
TEXT = {"data": "python_docs"}
MODELS = {
    "mlp": {},
    "cnn": {},
    "resnet": {"model.depth": 18, "norm": "batch", "skip": "identity"},
    "resnet_cifar": {"model.depth": 8, "norm": "batch", "skip": "identity"},
    "rnn": {"model.depth": 8},
    "transformer": {**TEXT, "skip": "identity", "norm": "layer"},
}
PRECISIONS = (
    "float16",
    "mixed_float16",
    "mixed_bfloat16",
    "float8_e4m3",
    "float8_e5m2",
    "float4_e2m1",
)
ALWAYS = ("transformer in float32", "mlp in float8_e4m3")


def list_cases():
    """Each model in float32, and one in each other precision."""
    cases = {}
    for model, changes in MODELS.items():
        cases[f"{model} in float32"] = {"model": model, **changes}
    for precision in PRECISIONS:
        cases[f"mlp in {precision}"] = {"precision": precision}
    parameters = []
    for name, changes in cases.items():
        marks = [] if name in ALWAYS else [pytest.mark.slow]
        parameters.append(pytest.param(changes, id=name, marks=marks))
    return parameters


@pytest.mark.parametrize("changes", list_cases())
@pytest.mark.parametrize("backend", PLATFORMS)
def test_a_group_of_runs_is_lowered(changes, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    make_program.cache_clear()
    layout = Layout("vmap")
    configs = [make_config({**SMALL, **changes, "seed": seed}) for seed in (0, 1)]
    setup = make_run_setup(*configs, layout=layout)
    program = make_program(setup.program_config, layout)
    state = jax.eval_shape(program.init, setup.hp)
    step = np.int32(0)
    chunk = program.chunk.trace(state, setup.hp, setup.data, step, step)
    evaluation = program.evaluate.trace(state, setup.hp, setup.data)
    for traced in (chunk, evaluation):
        text = traced.lower(lowering_platforms=PLATFORMS[backend]).as_text()
        assert "stablehlo.dot_general" in text
    make_program.cache_clear()
