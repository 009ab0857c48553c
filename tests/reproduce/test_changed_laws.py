"""A reproduction is worth what its claims can refuse: with a law of the package changed, some of them must fail."""

import json

import pytest

CHANGED = """
import sys
from research.cli import main as cli
{law}
sys.exit(cli.run(["reproduce", *sys.argv[1:], "tracker=none"]))
"""
LAWS = {
    "weights of 5 % more variance": """
from research.models import init
scheme = init._scheme
init._scheme = lambda name: lambda *of: 1.05**0.5 * scheme(name)(*of)
""",
    "branches times 1.25": """
from research.models.skip import Skip
put_together = Skip._sum
Skip._sum = lambda self, h, branch, *rest: put_together(self, h, 1.25 * branch, *rest)
""",
    "no gradient through a norm's statistics": """
import jax
from flax.nnx.nn import normalization
statistics = normalization._compute_stats
normalization._compute_stats = lambda *of, **how: jax.lax.stop_gradient(statistics(*of, **how))
""",
    "learned scales that begin at 1e-4": """
from research.models.skip import LEARNED_SCALE
LEARNED_SCALE["rezero"] = 1e-4
""",
}
DEPENDENT = {
    "relu_growth": "weights of 5 % more variance",
    "edge_of_chaos": "weights of 5 % more variance",
    "glorot_init": "weights of 5 % more variance",
    "dynamical_isometry": "weights of 5 % more variance",
    "residual_growth": "branches times 1.25",
    "gradient_identities": "no gradient through a norm's statistics",
    "batch_norm_explosion": "no gradient through a norm's statistics",
    "norm_free": "learned scales that begin at 1e-4",
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", DEPENDENT)
def test_a_changed_law_makes_a_claim_fail(experiment, workplace, process):
    out, err = (
        run := process("-c", CHANGED.format(law=LAWS[DEPENDENT[experiment]]), experiment)
    ).communicate()
    claims = json.loads((workplace / "outputs" / experiment / "claims.json").read_text())
    failed = [claim["statement"] for claim in claims if not claim["holds"]]
    assert run.returncode == 1 and failed, out + err
