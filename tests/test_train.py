"""From the command line to runs: what a process shares among its runs, and what two processes make of one run."""

import gc

from research import train
from research.config import Config
from research.member import Member


def test_garbage_is_collected_again_also_where_jax_cannot_be_imported(monkeypatch, tmp_path):
    def absent(_):
        raise ImportError("no jax here")

    monkeypatch.setattr(train, "prepare_jax", absent)
    (result,) = train.train_group([Member(Config(), tmp_path / "run")])
    assert str(result["error"]) == "no jax here" and gc.isenabled()
