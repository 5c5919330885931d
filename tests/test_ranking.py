"""The ranking: what is searched, that seeds are paired, that it resumes, and what its table says."""

import json
from functools import partial

import jax
import numpy as np
import optax
import pytest
from helpers import drawn

import jaxlocal as jl
from jaxlocal import app, ranking
from jaxlocal.app.settings import ConfigError
from jaxlocal.ranking import Entry
from jaxlocal.ranking.protocol import with_forward_weights
from jaxlocal.rule import forward_weights

DATA = jl.data.Splits(*((x[:n], y[:n]) for n, (x, y) in zip((64, 50, 50), jl.data.digits(), strict=True)))
NET = partial(jl.models.mlp, hidden=(6, 5))
TINY = ranking.Workload("tiny", NET, lambda: DATA, epochs=1, batch_size=16)


def test_every_rule_gets_the_same_rates():
    drawn = [jl.search.draw(ranking.space(rule), 3) for rule in jl.rules.ALL]
    rates = {tuple(setting["lr"] for setting in settings) for settings in drawn}
    assert len(rates) == 1


def test_every_rule_starts_a_seed_with_the_same_forward_weights():
    batch = jl.data.floats((DATA.train[0][:4], DATA.train[1][:4]))
    bp = jl.rules.bp(NET(), optax.sgd(0.0))
    expected = jl.get_weights(bp, drawn(bp, batch))
    for name in ("al", "dtp", "fa", "dfa", "predsim", "ff"):
        rule = jl.rules.ALL[name](NET(), optax.sgd(0.1))
        params = with_forward_weights(rule, drawn(rule, batch, seed=1), expected)
        own = jl.get_weights(rule, params)
        same = [layer for layer in expected if layer in own and np.array_equal(own[layer], expected[layer])]
        kernels_with_a_label = 1 if name == "ff" else 0
        assert len(same) == len(jax.tree.leaves(forward_weights(params))) - kernels_with_a_label


def test_it_resumes_from_its_folder_and_a_rule_of_ones_own_can_enter(tmp_path):
    def mine(net, tx):
        return jl.rules.bp(net, tx)

    whole = ranking.enter(mine, TINY, trials=2, seeds=2, folder=tmp_path / "whole")
    assert whole.rule == "mine"
    ranking.enter("bp", TINY, trials=2, seeds=1, folder=tmp_path / "parts")
    lines = []
    parts = ranking.enter("bp", TINY, trials=2, seeds=2, folder=tmp_path / "parts", say=lines.append)
    assert parts.accuracies == whole.accuracies and parts.trials == whole.trials
    again = ranking.enter("bp", TINY, trials=2, seeds=2, folder=tmp_path / "parts")
    assert again == parts  # with the minutes that it took
    other = ranking.enter("bp", TINY, trials=2, seeds=1, folder=tmp_path / "parts", data=DATA._replace(test=DATA.train))
    assert other.accuracies["test"] == other.accuracies["train"]  # not what was kept of the other test set
    assert [line.partition(":")[0] for line in lines] == ["bp", "seed 2"]  # the first seed was kept
    (tmp_path / "parts" / "seeds.json").write_text(json.dumps({"setting": {}}))
    with pytest.raises(ValueError, match=r"seeds\.json' is damaged; remove it"):
        ranking.enter("bp", TINY, trials=2, seeds=2, folder=tmp_path / "parts")


def test_wrong_arguments_are_one_sentence_before_anything_is_trained(tmp_path):
    with pytest.raises(TypeError, match=r"^workload='digits': must be a Workload"):
        ranking.enter("bp", "digits")
    with pytest.raises(TypeError, match=r"^rule=.*: has no name for the table"):
        ranking.enter(partial(jl.rules.dfa), TINY)
    with pytest.raises(ValueError, match=r"^batch_size=65: .*64"):
        ranking.enter("bp", TINY._replace(batch_size=65))
    with pytest.raises(ValueError, match=r"^workload: its network's loss is for real targets"):
        ranking.enter("bp", TINY._replace(net=lambda: jl.models.mlp((4,), loss=jl.squared_error)))
    with pytest.raises(TypeError, match=r"^workload\.net=Network.*: must be a function"):
        ranking.enter("bp", TINY._replace(net=NET()))
    with pytest.raises(TypeError, match=r"^workload\.load=Splits.*: must be a function"):
        ranking.enter("bp", TINY._replace(load=DATA))
    with pytest.raises(TypeError, match=r"^data=\(.*: must be a jl\.data\.Splits"):
        ranking.enter("bp", TINY, data=tuple(DATA))
    with pytest.raises(TypeError, match=r"^data\.test=None: must be a pair"):
        ranking.enter("bp", TINY, data=DATA._replace(test=None))
    with pytest.raises(TypeError, match=r"^entries=Entry.*: must be a list"):
        ranking.table(entry("bp", 0.95))
    with pytest.raises(ValueError, match=r"^entries: have different numbers of seeds \(bp 1, fa 2\)"):
        ranking.table([entry("bp", 0.95), entry("fa", 0.9, 0.9)])
    with pytest.raises(ValueError, match=r"^entries: is empty"):
        ranking.table([])
    with pytest.raises(ValueError, match=r"^entries: several are of a rule called 'bp'"):
        ranking.table([entry("bp", 0.95), entry("bp", 0.92)])
    with pytest.raises(ValueError, match=r"^seeds=0: must be at least 1"):
        app.rank(["bp"], folder=tmp_path / "a", seeds=0)
    assert not (tmp_path / "a").exists()


def entry(rule, *tests):
    accuracies = {split: list(tests) for split in ("train", "validation", "test")}
    return Entry(rule, {"lr": 0.001}, accuracies, [], 60.0)


def test_the_table_has_the_best_rule_first_and_differences_in_points():
    table = ranking.table([entry("fa", 0.92, 0.90), entry("bp", 0.95, 0.94), entry("al", 0.96, 0.95)])
    lines = [line.split("  ")[0] for line in table.splitlines()]
    assert lines[2:] == ["al", "bp", "fa"]
    assert "+1.00   " in table and "+1.00 [" not in table and "-3.50 [-9.85, +2.85]" in table
    alone = ranking.table([entry("fa", 0.92)])
    assert "92.00 %" in alone and ranking.differences([entry("fa", 0.92)]) == {}


def test_a_rule_that_cannot_learn_a_workload_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(ranking.WORKLOADS, "tiny", TINY._replace(net=lambda: jl.models.lstm_classifier(9, 10)))
    with pytest.raises(ConfigError, match="bp is left out"):
        app.rank(["bp"], "tiny", tmp_path / "a", say=lambda line: None)
    monkeypatch.setitem(ranking.WORKLOADS, "tiny", TINY)
    monkeypatch.setitem(jl.rules.ALL, "tp", lambda net, tx: jl.rules.dfa(net, "no optimizer"))
    lines = []
    entries = app.rank(["bp", "tp", "dfa"], "tiny", tmp_path / "b", trials=1, seeds=2, say=lines.append)
    assert [entry.rule for entry in entries] == ["bp", "dfa"]
    assert "tp is left out" in (tmp_path / "b" / "tiny.txt").read_text()
    assert (tmp_path / "b" / "tiny.png").exists()
    with pytest.raises(ConfigError, match="--workload=tin: unknown name"):
        app.rank(["bp"], "tin", tmp_path / "c")
