"""The trained networks that come with the library: each is as accurate as its record says."""

import json
import os
import shlex

import numpy as np
import pytest

import jaxlocal as jl
from experiments.demos import pretrained
from jaxlocal.app import cli, trained
from jaxlocal.version import __version__

MNIST = pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="no prepared MNIST in TFDS_DATA_DIR")


def test_every_command_has_its_network_and_all_are_small():
    assert sorted(pretrained.COMMANDS) == trained.NAMES
    files = [*trained.FOLDER.iterdir()]
    assert len(files) == 2 * len(trained.NAMES)
    assert max(file.stat().st_size for file in files) < 3e5 and sum(file.stat().st_size for file in files) < 1.5e6


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[MNIST, pytest.mark.slow]) if name.startswith("mnist") else name
        for name in pretrained.COMMANDS
    ],
)
def test_a_network_is_as_accurate_as_its_record_says(name):
    rule, params, record = jl.pretrained(name)
    data = jl.data.load(record["settings"]["data"])
    last = record["measured"]["test"]
    found = jl.training.evaluate(rule, params, data.test)
    np.testing.assert_allclose(found["accuracy"], last["accuracy"], atol=2e-4)  # two of 10,000 images
    np.testing.assert_allclose(found["loss"], last["loss"], rtol=1e-3)  # convolutions and products may round otherwise
    assert found["accuracy"] > 0.9
    assert record["command"] == pretrained.COMMANDS[name] and len(record["commit"]) == 40
    assert record["settings"]["seed"] == 0 and record["versions"].keys() == {"jaxlocal", "jax", "python"}


def test_a_network_is_kept_with_its_record_and_an_unknown_one_is_refused(tmp_path, monkeypatch):
    """Of another rule than those that are there, whose helpers are kept as well."""
    command = "jaxlocal train --rule kp --epochs 1 --model-args hidden=[8]"
    assert cli.main([*shlex.split(command)[1:], "--out", str(tmp_path / "run")]) == 0
    pretrained.keep(tmp_path / "run", "mine", command, tmp_path / "kept")
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(trained, "NAMES", ["mine"])
    rule, params, record = jl.pretrained("mine")
    wanted = jl.load(tmp_path / "run")
    for name, array in jl.get_weights(wanted.rule, wanted.params).items():
        np.testing.assert_array_equal(array, jl.get_weights(rule, params)[name])
    assert (record["command"], record["versions"]["jaxlocal"]) == (command, __version__)
    with pytest.raises(ValueError, match=r"name='mne': there is no trained network of this name; did you mean mine\?"):
        jl.pretrained("mne")


def test_a_network_is_measured_by_its_name_on_its_own_data_or_others(capsys):
    assert cli.main(["eval", "digits_dfa"]) == 0
    name, *last = capsys.readouterr().out.splitlines()[-1].split()
    measured = jl.pretrained("digits_dfa").record["measured"]
    accuracies = [f"{100 * measured[part]['accuracy']:.2f}" for part in ("train", "validation", "test")]
    assert name == "digits_dfa" and last[-6::2] == accuracies and "(epoch 40)" in " ".join(last)
    assert cli.main(["eval", "digits_dfa", "--data", "iris"]) == 2
    assert "--data=iris" in capsys.readouterr().err


def test_a_network_predicts_and_is_exported_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, _ = jl.data.digits().test
    np.savez("some.npz", x=x[:3])
    rule, params, record = jl.pretrained("digits_dfa")
    classes = [str(label) for label in np.argmax(rule.predict(params, x[:3]), axis=1)]
    assert cli.main(["export", "digits_dfa"]) == 0
    facts = json.loads((tmp_path / "digits_dfa" / "export" / "model.json").read_text(encoding="utf-8"))
    assert facts["commit"] == record["commit"] and facts["epoch"] == record["settings"]["epochs"]
    capsys.readouterr()
    assert cli.main(["predict", "digits_dfa", "some.npz"]) == 0  # the folder of the export has its name, and is no run
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == classes
    assert cli.main(["predict", "digits_dfa", "some.npz", "--best"]) == 2
    assert "--best: the network 'digits_dfa' has no other epoch" in capsys.readouterr().err
