"""Rules of one's own on the command line: FILE.py:NAME in place of a rule's name."""

import json
import os
from pathlib import Path

import pytest

import jaxlocal as jl
from jaxlocal import app
from jaxlocal.app import cli, rule_names

pytestmark = [pytest.mark.usefixtures("elsewhere"), pytest.mark.xdist_group("cli")]

TINY = "--epochs 2 --model-args hidden=[8]"
FILE = """
import functools
import jaxlocal as jl
import optax
from beside import times

def slower(net, tx, *, factor: float = 1.0):
    return jl.rules.bp(net, optax.chain(tx, optax.scale(times(factor))))

def choosy(net, tx):
    if len(net.blocks) > 0:
        raise ValueError("too many blocks")

def nothing(net, tx):
    return net

def lonely(net):
    return jl.rules.bp(net, optax.sgd(0.1))

def vague(*arguments):
    return "vague"

def otherwise(network, optimizer):
    return jl.rules.bp(network, optimizer)

def hidden(net, tx, factor: float = 1.0):
    return jl.rules.bp(net, optax.chain(tx, optax.scale({}["factor"] if factor == 1 else factor)))

partly = functools.partial(jl.rules.bp, frozen={0})

def helped(net, tx, *, readout_tx=None, factor=1.0):
    return jl.rules.bp(net, tx)

def taught(net, tx, words=1):
    def teach(weights, stats, message, key):
        raise ArithmeticError("no\\nlesson. " * words)
    parts = *(jl.Part((i,), jl.init_forward((block,)), teach) for i, block in enumerate(net.blocks)), jl.head_part(net)
    return jl.make_rule(net, parts, {"forward": tx}, locality={"forward": jl.upward(len(parts))})
"""


@pytest.fixture
def file(tmp_path):
    """A file of rules in another folder than the current one, and a module beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "beside.py").write_text("def times(factor): return 1.0 * factor\n")
    (folder / "mine.py").write_text(FILE)
    return folder / "mine.py"


def losses(folder):
    """The loss on the validation set after each epoch."""
    return [json.loads(line)["validation"]["loss"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def train(capsys, *words):
    code = cli.main(["train", *words, *TINY.split()])
    return code, capsys.readouterr()


def test_a_rule_in_a_file_is_trained_measured_and_resumed_from_any_folder(file, capsys, monkeypatch):
    assert train(capsys, "--rule", "bp")[0] == 0
    (here := Path("here").absolute()).mkdir()
    monkeypatch.chdir(file.parent)
    code, said = train(capsys, "--rule", "mine.py:slower", "--out", str(here / "run"))
    assert code == 0
    assert said.out.startswith("slower on digits")
    monkeypatch.chdir(here.parent)
    assert losses("runs/bp-digits-1") == losses("here/run")
    assert cli.main(["eval", "here/run"]) == 0
    assert cli.main(["train", "--out", "here/run", "--resume", "--epochs", "3"]) == 0
    assert len(losses("here/run")) == 3
    rule, params, data = jl.load("here/run")
    assert rule.predict(params, data.test[0]).shape == data.test[1].shape


def test_its_settings_are_arguments_and_the_folder_is_called_after_the_function(file, capsys):
    for number, factor in enumerate(("1.0", "0.5"), 1):
        assert train(capsys, "--rule", f"{file}:slower", "--rule-args", f"factor={factor}")[0] == 0
        assert Path(f"runs/slower-digits-{number}/summary.json").exists()
    assert losses("runs/slower-digits-1") != losses("runs/slower-digits-2")


def test_rules_of_ones_own_are_compared_and_searched(file, monkeypatch, capsys):
    monkeypatch.chdir(file.parent)
    words = "mine.py:slower", "mine.py:slower factor=0.5", "bp"
    assert cli.main(["compare", *words, *TINY.split()]) == 0
    table = capsys.readouterr().out
    assert all(f"\n{name} last (epoch 2)" in table for name in ("slower", "slower factor=0.5", "bp"))
    assert "mine.py" not in table
    assert {place.name for place in Path("runs/compare-1").iterdir() if place.is_dir()} == {
        "slower",
        "slower,factor=0.5",
        "bp",
    }
    assert losses("runs/compare-1/slower") == losses("runs/compare-1/bp")
    assert cli.main(["search", "mine.py:slower", "--trials", "2", *TINY.split()]) == 0
    assert Path("runs/search-1/slower").is_dir()


def test_a_rule_of_ones_own_is_ranked(file, monkeypatch, capsys):
    short = {name: one._replace(epochs=1) for name, one in jl.ranking.WORKLOADS.items()}
    monkeypatch.setattr(jl.ranking, "WORKLOADS", short)
    names, lines = [f"{file}:{rule}" for rule in ("otherwise", "hidden", "partly")], []
    entries = app.rank(names, trials=1, seeds=1, folder="ranked", say=lines.append)
    assert [entry.rule for entry in entries] == ["otherwise", "partly"]
    reason = "hidden is left out: KeyError: 'factor', in line 27 of mine.py\n"
    assert reason in Path("ranked/digits.txt").read_text()
    said = "\n".join([*lines, ""])
    assert said.count("hidden is left out") == 1 and f"\n{reason}" in said
    assert Path("ranked/digits/otherwise/seeds.json").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mine.py", "names a file; write mine.py:NAME for a function in it"),
        ("gone.py:slower", "gone.py cannot be read (No such file or directory); put it there"),
        ("mine.py:slow", "mine.py has no function slow; did you mean slower?"),
        ("mine.py:jl", "mine.py has no function jl; choose from times, slower, choosy, nothing, lonely, vague"),
        ("mine.py:lonely", "too many positional arguments; a rule is made of a network and an optimizer"),
        ("mine.py:nothing", "which is no jl.Rule; return jl.make_rule(…)"),
        ("mine.py:choosy", "too many blocks, in line 12 of mine.py"),
        ("mine.py:hidden", "KeyError: 'factor', in line 27 of mine.py"),
        ("mine.py:taught", "ArithmeticError: no lesson, in line 36 of mine.py"),
        ("exits.py:slower", "exits.py cannot be run (SystemExit: "),
        ("reads.py:slower", "reads.py cannot be run (FileNotFoundError: "),
        ("mine.py:vague", "made 'vague', which is no jl.Rule"),
        ("~nobody-here/mine.py:slower", "mine.py cannot be read"),
        (
            "broken.py:slower",
            "broken.py cannot be run (NameError: name 'undefined' is not defined, in line 2 of broken",
        ),
        ("syntax.py:slower", "syntax.py cannot be run (SyntaxError: "),
        ("empty.py:slower", "empty.py has no function slower; define it there"),
        ("slower", "unknown name; choose from"),
        ("mine:slower", "unknown name; for a function of your own write mine.py:slower\n"),
    ],
)
def test_a_mistake_is_one_sentence(name, sentence, file, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    for other, text in (
        ("broken", "\nundefined\n"),
        ("syntax", "def\n"),
        ("empty", ""),
        ("exits", "import sys\nsys.exit(0)\n"),
        ("reads", "open('w.npy')\n"),
    ):
        Path(f"{other}.py").write_text(text)
    code, said = train(capsys, "--rule", name)
    assert code == 2
    assert said.err.startswith("jaxlocal train: --rule=")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["train --rule", "compare", "search"])
def test_a_mistake_in_a_lesson_is_said_before_a_folder_is_made(command, file, capsys):
    assert cli.main([*command.split(), f"{file}:taught", "--rule-args", "words=99", *TINY.split()]) == 2
    said = capsys.readouterr().err
    assert "ArithmeticError: no lesson. no lesson" in said and said.endswith("…, in line 36 of mine.py\n")
    assert not Path("runs").exists()


def test_an_unknown_setting_of_a_rule_in_a_file(file, capsys):
    code, said = train(capsys, "--rule", f"{file}:slower", "--rule-args", "facto=2")
    assert code == 2
    assert "did you mean factor?" in said.err
    code, said = train(capsys, "--rule", f"{file}:choosy", "--rule-args", "facto=2")
    assert code == 2
    assert "it has none" in said.err


def test_an_optimizer_of_another_name_is_no_setting_and_has_no_rate_of_helpers(file, capsys):
    renamed = f"in {file}:helped rename readout_tx to one of them, or leave --helper-lr out"
    for command, sentence in (
        ("train --helper-lr 0.1 --rule", "sets the rate of autoencoder_tx, inverse_tx, feedback_tx only; " + renamed),
        ("search --helper-lr 0.1 1 --trials 1", "--helper-lr=0.1 1.0: sets the rate of autoencoder_tx, inverse_tx, "),
        ("train --rule-args readout_tx=sgd --rule", "readout_tx is an optimizer, which has no name; leave it out"),
        ("train --rule-args readouts=sgd --rule", "unknown setting of {file}:helped; choose from factor\n"),
    ):
        assert cli.main([*command.split(), f"{file}:helped"]) == 2
        assert sentence.replace("{file}", str(file)) in capsys.readouterr().err
    for own, sentence in (("readout_tx=sgd", "is an optimizer"), ("readout_lr=0.1", "schedule, l2, factor\n")):
        assert cli.main(["compare", f"{file}:helped {own}"]) == 2
        assert sentence in capsys.readouterr().err


def test_two_rules_of_one_name_cannot_share_a_folder(file, capsys):
    other = file.with_name("other.py")
    other.write_text(FILE)
    for command in "compare", "search", "rank":
        assert cli.main([command, f"{file}:slower", f"{other}:slower"]) == 2
        said = f"RULE: {file}:slower and {other}:slower would both be called slower; give one of the functions another"
        assert said in capsys.readouterr().err


def test_each_file_imports_what_lies_beside_it_and_is_read_again_when_it_has_changed(file, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    (other.parent / "beside.py").write_text("def times(factor): return 3.0\n")
    other.write_text(FILE)
    first, second = (rule_names.rule_maker("RULE", f"{one}:slower") for one in (file, other))
    assert first.__globals__["times"](1) == 1.0 and second.__globals__["times"](1) == 3.0
    assert rule_names.rule_maker("RULE", f"{file}:slower") is first
    file.write_text("def slower(net, tx): ...\n")
    os.utime(file, ns=(0, 0))
    assert rule_names.rule_maker("RULE", f"{file}:slower") is not first


def test_settings_need_no_star(file, capsys):
    assert train(capsys, "--rule", f"{file}:hidden", "--rule-args", "factor=0.5")[0] == 0
    assert cli.main(["compare", f"{file}:hidden factor=0.5", *TINY.split()]) == 0


def test_commands_that_cannot_take_such_a_rule_say_so(file, capsys):
    assert cli.main(["cite", f"{file}:slower"]) == 2
    assert "its papers are not known here" in capsys.readouterr().err
    assert cli.main(["search", f"{file}:nothing", "--trials", "1"]) == 2
    assert "which is no jl.Rule" in capsys.readouterr().err


def test_a_name_without_a_file_stays_as_it_is():
    assert rule_names.located("bp") == rule_names.short("bp") == "bp"
    assert rule_names.located("mine.py:rule") == f"{Path.cwd() / 'mine.py'}:rule"
    assert not rule_names.is_own("bp")
    assert rule_names.is_own("mine.py:rule")
