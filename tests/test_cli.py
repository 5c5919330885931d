"""The command line: what it prints and leaves, and one clear sentence for every mistake."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import PIL.Image
import pytest

import jaxlocal as jl
from jaxlocal import app, codes, data, models, rules, search, statistics
from jaxlocal.app import Config, ConfigError, build, cli, comparison, runs, settings
from jaxlocal.data import Splits
from jaxlocal.files import write_whole
from jaxlocal.training import Interrupted, session
from jaxlocal.version import __version__

pytestmark = [pytest.mark.usefixtures("drawn_once", "elsewhere"), pytest.mark.xdist_group("cli")]

TINY = "--rule bp --epochs 2 --model-args hidden=[8]"


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Runs with the same settings share a rule, and so its compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build", cache(build.build))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = Config(rule="bp", epochs=2, model_args=("hidden=[8]",))
    return folder, app.train(config, folder, say=lambda text: None)


SEARCH = "search bp --trials 2 --epochs 1 --model-args hidden=[8]"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searches") / "tiny"
    assert cli.main(shlex.split(f"{SEARCH} --out {folder}")) == 0
    return folder


def images(folder, *sizes):
    for name in "ab":
        Path(folder, name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            PIL.Image.fromarray(np.zeros((size, size), np.uint8)).save(Path(folder, name, f"{number}.png"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("tran", "unknown command 'tran'; did you mean train?"),
        ("xyz", "unknown command 'xyz'; choose from train, eval, predict, export, compare, search, rank, plot, list"),
        ("train --rule dpt", "--rule=dpt: unknown name; did you mean dtp?"),
        ("train --rule DFA", "--rule=DFA: unknown name; did you mean dfa?"),
        ("train --rule zzz", "--rule=zzz: unknown name; choose from bp, al, tp"),
        ("train --model cnn", "--model=cnn: unknown name; did you mean vanilla_cnn?"),
        ("train --model mpl", "--model=mpl: unknown name; did you mean mlp?"),
        ("train --model vgg", "--model=vgg: cannot take the examples of digits, of shape (8, 8, 1)"),
        ("train --data digit", "--data=digit: there is no folder of this name, and no such data set in TFDS"),
        ("train --data ./none", "--data=./none: there is no such folder; check the path"),
        ("train --data none.npz", "--data=none.npz: there is no such file; check the path"),
        ("train --optimizer adm", "--optimizer=adm: unknown name; did you mean adam?"),
        ("train --precision float64", "--precision=float64: unknown name; choose from float32, bfloat16, float16"),
        ("train --augment jiter", "--augment=jiter: unknown name; did you mean jitter?"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3; did you mean --epochs?"),
        ("train extra", "unrecognized arguments: extra; see jaxlocal train --help"),
        ("train --epochs few", "--epochs=few: must be a whole number"),
        ("train --epochs", "argument --epochs: expected one argument"),
        ("train --epochs 0", "--epochs=0: must be at least 1"),
        ("train --batch_size x", "--batch-size=x: must be a whole number"),
        ("train --lr x", "--lr=x: must be a number"),
        ("train --lr nan", "--lr=nan: must be a finite number above 0"),
        ("train --l2 -1", "--l2=-1.0: must be a finite number, 0 or more"),
        ("train --batch-size 2000", "--batch-size=2000: the training set has 1097 examples; take at most 1097"),
        ("train --seed -1", "--seed=-1: must be from 0 to 2147483647"),
        ("train --seed 2147483647 --seeds 2", "--seed=2147483647: must be from 0 to 2147483646"),
        ("train --devices 3", "--batch-size=32: cannot be split evenly over 3 devices; take a multiple"),
        ("train --devices 16", "--devices=16: mesh(data=16): needs 16 devices, but there are 8"),
        ("train --pipeline --seeds 2", "--seeds=2: a pipeline trains one seed"),
        ("train --pipeline --devices 8", "--devices=8: the rule has 2 components; take at most 2 for --pipeline"),
        ("train --pipeline --devices 4 --split 3", "--split=3: must divide the number of devices, 4"),
        ("train --pipeline --rule bp", "--pipeline: the components of bp wait for an error"),
        ("train --image-size 16", "digits is not resized; leave out --image-size, or size=… in Python"),
        ("train --validation 5000", "the training set has 1397 examples; hold out fewer than that"),
        ("train --helper-lr 1e-3 --rule bp", "--helper-lr=0.001: bp has no second optimizer; leave it out"),
        ("train --rule-args foo", "--rule-args=foo: must be KEY=VALUE, such as width=256"),
        (
            "train --rule-args foo=1",
            "--rule-args=foo=1: unknown setting of al; choose from components, codes, width",
        ),
        ("train --rule-args width=[", "--rule-args=width=[: the value is not YAML (while parsing"),
        ("train --model-args hiden=[8]", "--model-args=hiden: unknown argument of mlp; did you mean hidden?"),
        (
            "train --model-args activation=rleu",
            "--model-args activation=rleu: unknown name; did you mean relu?",
        ),
        ("train --rule-args bridge=hidden", "--rule-args bridge=hidden: unknown name; did you mean hidden_layer?"),
        ("train --model-args activation=[1]", "unknown name; choose from relu, elu"),
        ("train --resume", "--resume: needs the folder to resume; name it with --out"),
        ("train --config none.yaml", "'none.yaml' cannot be read (No such file or directory)"),
        ("eval", "RUN: is missing; name the folder of a run"),
        ("eval none", "'none' holds no run; name a folder that jaxlocal train has made"),
        ("plot none --examples 1", "--examples=1: must be at least 2"),
        ("compare", "RULE: is missing; name one rule or more, such as al bp dfa"),
        ("compare al al", "RULE=al al: name one rule or more, each once"),
        (
            "train --rule-args autoencoder_tx=sgd",
            "--rule-args=autoencoder_tx=sgd: autoencoder_tx is an optimizer, which has no name; leave it out, and set "
            "--optimizer, --lr or --helper-lr",
        ),
        ("compare 'al autoencoder_tx=sgd'", "RULE=al autoencoder_tx=sgd: autoencoder_tx is an optimizer, which has no"),
        ("compare bp al --rule-args codes=paper", "--rule-args=codes=paper: unknown setting of bp; choose from frozen"),
        ("compare al dpt", "RULE=dpt: unknown name; did you mean dtp?"),
        ("compare bp 'al componets=2'", "RULE=al componets=2: componets=2 is no setting of al, written as KEY=VALUE"),
        ("compare bp 'al width=[64, 64]'", "RULE=al width=[64, 64]: 64] is no setting of al, written as KEY=VALUE w"),
        ("compare bp 'bp lr=1' 'bp  lr=1'", "name one rule or more, each once"),
        ("compare bp 'al helper-lr=fast'", "RULE=al helper-lr=fast: helper_lr=fast: must be a number"),
        ("compare bp 'al components=9'", "RULE=al components=9: components=9: "),
        ("compare bp 'al lr=fast'", "RULE=al lr=fast: lr=fast: must be a number"),
        ("compare bp 'al lr=-1'", "RULE=al lr=-1: --lr=-1.0: must be a finite number above 0"),
        ("compare al --rule bp", "write RULE without a flag"),
        ("compare --rules=al", "unrecognized arguments: --rules=al; write RULE without a flag"),
        ("search --rule al", "write RULE without a flag"),
        ("plot --run=none", "unrecognized arguments: --run=none; write RUN without a flag"),
        ("train --rules=zz", "unrecognized arguments: --rules=zz; did you mean --rule?"),
        ("train -epochs 3", "unrecognized arguments: -epochs 3; did you mean --epochs?"),
        ("search al --lr 3", "argument --lr: expected 2 arguments"),
        ("search al --lr 1 0", "--lr=1.0 0.0: must be the smallest and the largest rate, such as 1e-4 1e-2"),
        ("search bp --helper-lr 1 2", "--helper-lr=1.0 2.0: bp has no second optimizer; leave it out"),
        (
            "compare al bp --pipeline",
            "--pipeline: the components of bp wait for an error",
        ),  # found before al is trained
        ("search", "RULE: is missing; name one rule or more"),
        ("rank --workload iris", "--workload=iris: unknown name; choose from digits, mnist"),
        ("search al --trials 0", "argument --trials: '0' is not a whole number from 1"),
        ("search al --group 0", "argument --group: '0' is not a whole number from 1"),
        ("search al --epochs 0", "--epochs=0: must be at least 1"),
        ("list foo", "unrecognized arguments: foo; see jaxlocal list --help"),
        ("train --resume --out none", "--resume: none holds no run; leave out --resume to start one there"),
        ("compare al bp --resume --out none", "--resume: none holds no run"),
        ("train --rule-args width=2020-13-45", "the value is not YAML (month must be in 1..12)"),
        ("train --rule-args 'width=!!int abc'", "the value is not YAML (invalid literal for int()"),
        ("train --rule-args 'width=[[[[[[[[[1]]]]]]]]]'", "it has lists more than 8 deep"),
        ("train --rule-args 'width=&a 1'", "it has the reference 'a'"),
        ("train --model-args norm=maybe", "norm='maybe': must be True or False"),
        ("train --model-args hidden=[0]", "hidden[0]=0: must be at least 1"),
        ("train --model-args hidden=[100000000000]", "the parameters would take"),
        ("train --seeds 1000000", "the parameters of 1000000 seeds would take"),
        ("train --seeds 1000000000", "--seeds=1000000000: must be at most 1000000"),
        ("train --devices 1000000", "--devices=1000000: must be at most 1024"),
        ("train --image-size 1000000 --data set", "--image-size=1000000: must be at most 2048"),
        ("train --epochs 1000000000000", "--epochs=1000000000000: must be at most"),
        ("search al --trials 1000000000", "argument --trials: '1000000000' is more than 100000"),
        (f"search al --trials {'9' * 5000}", "is not a whole number from 1"),
        ("train --rule dtp --model vgg --data set", "--data=set: "),
        ("train --rule dtp --model-args hidden=[]", "--rule=dtp: "),
        ("compare bp dtp --model-args hidden=[]", "RULE=dtp: "),
        ("search bp --rule-args frozen=3", "bp with --rule-args frozen=3: frozen=3: must be a set of layer numbers"),
        ("search bp --rule-args rate=3", "--rule-args=rate=3: unknown setting of bp; choose from frozen"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(line, complaint, run):
    code, out, error = run(line)
    assert (code, out) == (2, "") and complaint in error
    assert error.startswith("jaxlocal") and error.count("\n") == 1 and len(error) < 600
    assert not os.listdir()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epoch: 3", "unknown setting 'epoch'; did you mean epochs?"),
        ("epochs: few", "epochs=few: must be a whole number"),
        ("epochs: true", "epochs=True: must be a whole number"),
        ("epochs: null", "epochs=None: must be a whole number"),
        ("lr: fast", "lr=fast: must be a number"),
        ("pipeline: 3", "pipeline=3: must be true or false"),
        ("rule: 3", "rule=3: must be a text"),
        ("rule: dpt", "--rule=dpt: unknown name; did you mean dtp?"),
        ("augment: jitter", "augment=jitter: must be a list, such as [jitter]"),
        ("optimizer: adm", "optimizer=adm: unknown name; did you mean adam?"),
        ("optimizer: [adam]", "optimizer=['adam']: unknown name"),
        ("- 1", "holds no settings; write lines such as 'rule: al'"),
        ("rule: [al", "is not YAML of settings (while parsing a flow sequence"),
        ("epochs: 2020-13-45", "is not YAML of settings (month must be in 1..12)"),
        ("epochs: !!int abc", "is not YAML of settings (invalid literal for int()"),
        ("rule: !!python/object:os.system x", "is not YAML of settings (could not determine a constructor"),
        ("a: &a [*a]", "it has the reference 'a'"),
        (f"rule: {'[' * 5000}{']' * 5000}", "it has lists more than 8 deep"),
        (f"epochs: {'9' * 6000}", "is not YAML of settings"),
        (f"lr: {'9' * 400}", "must be a number, and is too large for one"),
        ("#" * 70_000, "characters; settings have at most"),
        (b"\xff\xfe\x00", "is not YAML of settings ('utf-8' codec can't decode"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(text, complaint, run):
    Path("a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, _, error = run("train --config a.yaml")
    assert code == 2 and complaint in error and error.count("\n") == 1
    assert os.listdir() == ["a.yaml"]


def test_every_setting_survives_a_file():
    config = Config(rule="dtp", lr=1e-5, augment=("jitter",), model_args=("hidden=[8]",), patience=3, pipeline=True)
    settings.write(config, Path("a.yaml"))
    assert settings.read(Path("a.yaml")) == config
    Path("b.yaml").write_text("lr: 1e-3\nmodel-args: {hidden: [8], norm: true}\nbatch_size: 16\n")
    assert settings.read(Path("b.yaml")) == Config(model_args=("hidden=[8]", "norm=true"), batch_size=16)
    Path("c.yaml").write_text("")
    assert settings.read(Path("c.yaml")) == Config()


def test_arguments_are_read_as_yaml():
    given = build.arguments("--rule-args", ("a=1e-3", "b=[1e-1,2]", "c=x", "d=null", "activation=relu"))
    assert given.pop("activation") is build.FUNCTIONS["activation"]["relu"]
    assert given == {"a": 1e-3, "b": (0.1, 2), "c": "x", "d": None}


def test_the_codes_of_associated_learning_have_names():
    given = build.arguments("--rule-args", ("codes=paper", "bridge=pooled_hidden_layer", "by_class=true"))
    assert given["codes"] is codes.paper and given["by_class"] is True
    rule = rules.al(models.mlp((8,)), optax.sgd(0.1), **given)
    bridge = (
        rule.init(jax.random.key(0), (np.ones((2, 4), "f4"), np.eye(2, 10, dtype="f4"))).components[0].weights["bridge"]
    )
    assert bridge["layers_1"]["layers_0"]["linear"]["kernel"].shape == (
        8,
        40,
    )  # codes of 8 units, five times that hidden


def test_images_of_different_sizes_and_images_too_small_for_the_network(run):
    images("mixed", *[8] * 12, 9)
    code, _, error = run("train --data mixed")
    assert code == 2 and "the images differ in size" in error and "one size, such as --image-size 224, or" in error
    code, _, error = run("train --data mixed --image-size 8 --model vgg")
    assert code == 2 and "cannot take the examples of mixed, of shape (8, 8, 1)" in error and "--image-size" in error


def test_real_targets_need_a_squared_error(run):
    rng = np.random.default_rng(0)
    x, y = rng.random((100, 5)).astype("f4"), rng.random((100, 2)).astype("f4")
    for targets in (y[:, 0], y[:, :1], y):
        np.savez("real.npz", x=x, y=targets)
        code, _, error = run(f"train --data real.npz {TINY}")
        assert code == 2 and "real.npz: cross entropy needs class labels, but the targets are real numbers" in error
        assert "add --model-args loss=squared_error" in error and "whole numbers" not in error
    np.savez("classes.npz", x=x, y=np.arange(100.0) % 3)
    code, _, error = run(f"train --data classes.npz {TINY}")
    assert code == 2 and "store the labels as whole numbers, or add --model-args" in error
    code, out, _ = run("train --data real.npz --rule bp --epochs 1 --model-args hidden=[8] loss=squared_error")
    assert code == 0 and "%" not in out.splitlines()[-1]
    np.savez("test.npz", x_train=x, y_train=np.eye(2, dtype="f4").repeat(50, 0), x_test=x, y_test=y)
    code, _, error = run(f"train --data test.npz {TINY}")
    assert code == 2 and "the targets are real numbers, in the test set at least; add" in error


def test_every_network_takes_a_loss():
    x, y = np.zeros((4, 16, 16, 1), "f4"), np.full((4, 2), 0.3, "f4")
    config = Config(model="conv2", model_args=("loss=squared_error",))
    assert build.network(config, build.Data(Splits(*[(x, y)] * 3), None, ())).loss is jl.squared_error


def test_the_users_own_folder_in_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in jl.checks.path("folder", "~/runs"), cli.flags.folder("~/runs"):
        assert path == tmp_path / "home" / "runs"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        jl.data.load("~nobody/x.csv")


def test_too_little_memory_is_one_sentence(run, monkeypatch):
    def fail(_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setitem(cli.COMMANDS, "list", fail)
    assert run("list") == (
        2,
        "",
        "jaxlocal list: the memory is too small (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes); take a smaller "
        "batch or network\n",
    )


def test_a_rule_of_ones_own_in_a_path_with_a_space_can_be_compared():
    Path("my rules").mkdir()
    Path("my rules/r.py").write_text("from jaxlocal.rules import dfa\n\ndef mine(net, tx):\n    return dfa(net, tx)\n")
    ((name, config),) = comparison.with_own(["my rules/r.py:mine  lr=0.1"], Config()).items()
    assert name == "my rules/r.py:mine lr=0.1" and config.lr == 0.1 and config.rule.endswith("my rules/r.py:mine")


def test_an_npz_file_and_examples_that_are_not_images(run):
    rng = np.random.default_rng(0)
    np.savez("a.npz", x=rng.random((100, 5)).astype("f4"), y=rng.integers(0, 3, 100))
    code, _, error = run("train --data a.npz --augment jitter")
    assert code == 2 and "--augment: needs images, but the examples have shape (5,); leave it out" in error
    code, out, _ = run(f"train --data a.npz {TINY}")
    assert code == 0 and "→ runs/bp-a-1" in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_a_screen(command, run, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        assert cli.main([command, "--help"]) == 0
    screen.seek(0)
    lines = screen.read().splitlines()
    assert 5 < len(lines) <= 40 and max(map(len, lines)) <= 80
    assert command in run("")[1] and command in run("--help")[1]


def test_help_says_the_defaults(run):
    out = " ".join(run("train --help")[1].split())
    for field in fields(Config):
        text = settings.FLAGS[field.name].text
        has_value = isinstance(field.default, str | int | float) and field.default is not False
        assert (f"{text} (default: {field.default})" if has_value else f"{text} ") in f"{out} "


def test_list_names_every_rule_network_and_data_set(run):
    code, out, error = run("list")
    assert code == 0 and not error
    for name in (*rules.ALL, *models.ALL, *build.AUGMENTATIONS, *build.OPTIMIZERS, *data.NAMES):
        assert re.search(rf"\b{name}\b", out)
    assert "augmentations, which --augment takes with their defaults:" in out.splitlines()


def test_version(run):
    assert run("--version") == (0, f"{__version__}\n", "")


def test_train_then_eval(run):
    code, out, error = run(f"train {TINY}")
    lines = error.splitlines()  # there is no progress bar, because stderr is not a terminal
    assert code == 0 and len(lines) == 2
    assert all(
        re.fullmatch(rf"epoch {n} of 2: local losses [\d.]+, validation [\d.]+ %", line)
        for n, line in enumerate(lines, 1)
    )
    heading, timing, parts, last, *_ = out.splitlines()
    assert heading == "bp on digits: mlp, 1 component, 610 parameters, 100 % used in prediction → runs/bp-digits-1"
    assert timing.startswith("2 epochs in ") and parts.split() == ["train", "validation", "test"]
    code, out, _ = run("eval runs/bp-digits-1")
    assert code == 0 and out.splitlines()[1].split() == ["runs/bp-digits-1", *last.split()]


def test_plot_names_its_pictures(run, monkeypatch):
    monkeypatch.setattr(app, "draw", lambda folder, **flags: [folder / "a.png", flags])
    assert run("plot folder --best") == (0, "folder/a.png\n{'best': True, 'examples': 1000}\n", "")


def test_eval_of_the_best_and_of_other_data(trained, run):
    folder, _ = trained
    code, out, _ = run(f"eval {folder} --best")
    assert code == 0 and " best (epoch " in out
    x, y = data.digits().test
    np.savez("same.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez("other.npz", x_train=x[:, :4], y_train=y)
    np.savez("real.npz", x_train=x, y_train=np.random.default_rng(0).random(y.shape))
    np.savez("large.npz", x=np.full(x[:2].shape, 1e300))
    labels = y.argmax(1)
    np.savez("few.npz", x_train=x[labels < 7], y_train=labels[labels < 7])  # without the highest classes
    with np.load("few.npz") as file:
        rule, params, _ = runs.load(folder)
        right = np.asarray(rule.predict(params, file["x_train"])).argmax(1) == file["y_train"]
    parts = app.evaluate(folder, data="few.npz").measured[0].parts
    sizes = [len(pair[0]) for pair in data.load("few.npz")]
    found = np.dot(sizes, [parts[part]["accuracy"] for part in ("train", "validation", "test")])
    assert found == pytest.approx(right.sum(), abs=1e-3)
    code, out, _ = run(f"eval {folder} --data same.npz")
    assert code == 0 and "last (epoch 2)" in out
    assert out.split()[-2:] == run(f"eval {folder}")[1].split()[-2:]  # on the test set
    code, _, error = run(f"eval {folder} --data other.npz")
    assert code == 2 and "has examples or targets of shape (4, 8, 1), but the run was trained on (8, 8, 1)" in error
    code, out, error = run(f"eval {folder} --data real.npz")
    assert (code, out) == (2, "") and "--data=real.npz: holds real numbers as targets, but the run was trained" in error
    code, out, error = run(f"predict {folder} large.npz")
    assert (code, out) == (2, "") and "holds NaN, infinity or a number too large for float32" in error
    np.savez("empty.npz", x=x[:0])
    code, out, error = run(f"predict {folder} empty.npz")
    assert (code, out) == (2, "") and "empty.npz holds no example; give it at least one" in error
    np.savez("bright.npz", x=255 * x[:2])
    for run_or_name in (folder, "digits_bp"):
        code, out, error = run(f"predict {run_or_name} bright.npz")
        remedy = "bright.npz holds numbers up to 255, but the run was trained on images of 0 to 1; save them as uint8"
        assert (code, out) == (2, "") and remedy in error


def test_flags_override_the_file_and_the_file_overrides_the_run(run):
    Path("a.yaml").write_text("rule: bp\nepochs: 1\nmodel_args: {hidden: [8]}\nlr: 0.5\n")
    assert run("train --config a.yaml --lr 0.01 --out run")[0] == 0
    saved = settings.read(Path("run/config.yaml"))
    assert saved == Config(rule="bp", epochs=1, model_args=("hidden=[8]",), lr=0.01)
    code, out, _ = run("train --resume --out run --epochs 2")  # other settings come from the run
    assert code == 0 and "resuming after epoch 1\n1 epoch in" in out
    assert settings.read(Path("run/config.yaml")) == replace(saved, epochs=2)
    code, _, error = run("train --resume --out run --config a.yaml")
    assert code == 2 and "--lr=0.5: the run in run has 0.01" in error
    assert run("train --out run")[2].endswith(
        "--out=run: holds a run; resume it with --resume, or name another folder\n"
    )


def test_a_switch_can_be_turned_off(run, monkeypatch):
    asked = []
    monkeypatch.setattr(app, "train", lambda config, folder, **flags: asked.append((config.pipeline, flags)))
    Path("run").mkdir()
    settings.write(Config(pipeline=True), Path("run/config.yaml"))
    for line in ("", "--pipeline", "--no-pipeline --log wandb trackio"):
        assert run(f"train --resume --out run {line}")[0] == 0
    assert [pipeline for pipeline, _ in asked] == [True, True, False]
    assert all(flags["resume"] for _, flags in asked)
    assert [list(flags["log"]) for _, flags in asked] == [[], [], ["wandb", "trackio"]]


@pytest.mark.filterwarnings("default")
def test_a_damaged_checkpoint_is_one_line(trained, run):
    shutil.copytree(trained[0], "run")
    last = max(Path("run/checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(last / "params")
    code, _, error = run("eval run")
    assert code in (0, 2) and error.startswith(f"jaxlocal eval: checkpoint {last} is damaged (")
    assert ".py" not in error


def test_a_checkpoint_of_other_settings_is_one_sentence(trained, run):
    shutil.copytree(trained[0], "run")
    settings.write(Config(rule="bp", epochs=2, model_args=("hidden=[9]",)), Path("run/config.yaml"))
    code, _, error = run("eval run")
    assert code == 2 and re.search(
        r"has parameters of other shapes: .* \(8,\) float32, where this rule and network have .* \(9,\) float32; give "
        "config.yaml the settings",
        error,
    )


def test_compare(run, monkeypatch):
    code, out, _ = run("compare bp dfa --epochs 1 --model-args hidden=[8] --seeds 2 --out both")
    assert code == 0
    *_, bp, dfa, empty, header, difference, drawn, curves = out.splitlines()
    assert bp.startswith("bp last (epoch 1)") and dfa.startswith("dfa last (epoch 1)") and not empty
    ours, theirs = (
        json.loads(Path(f"both/{rule}/summary.json").read_text())["measured"][0]["parts"]["test"]["accuracy"]
        for rule in ("dfa", "bp")
    )
    found = statistics.paired(100 * np.array(ours), 100 * np.array(theirs))
    assert re.fullmatch(r"Test accuracy, minus that of bp +\[95 % interval\] +effect size", header)
    expected = f"dfa {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] {found.effect:+.1f}"
    assert difference.split() == expected.split()
    assert (drawn, curves) == ("picture: both/differences.png", "picture: both/compare.png")
    assert Path("both/differences.png").exists() and Path("both/compare.png").exists()

    def stopped(*args, **flags):
        raise Interrupted(signal.SIGINT, 7)

    monkeypatch.setattr(session, "fit", stopped)
    code, _, error = run(
        "compare bp dfa --out both --resume --epochs 2 --log tensorboard"
    )  # other settings come from compare.yaml
    assert code == 130
    assert error == (
        "jaxlocal compare: stopped after step 7 of bp; "
        "resume with: jaxlocal compare bp dfa --out both --resume --log tensorboard\n"
    )


@pytest.mark.slow
def test_compare_a_rule_with_itself_by_settings_of_its_own(run):
    rules = "'al width=4 lr=0.01' al"
    code, out, _ = run(f"compare {rules} --epochs 1 --rule-args width=8 --model-args hidden=[8] --out both")
    assert code == 0 and out.count("al width=4 lr=0.01 last (epoch 1)") == 1
    own, shared = (settings.read(Path(f"both/{name}/config.yaml")) for name in ("al,width=4,lr=0.01", "al"))
    assert (own.lr, own.rule_args, shared.lr, shared.rule_args) == (0.01, ("width=8", "width=4"), 1e-3, ("width=8",))
    bridge = runs.load("both/al,width=4,lr=0.01").params.components[0].weights["bridge"]
    assert {leaf.shape[-1] for leaf in jax.tree.leaves(bridge)} == {4}
    code, _, error = run(f"compare {rules} --out both")
    assert code == 2 and "--out=both: holds a comparison; resume it with --resume" in error
    kept = Path("both/compare.yaml").read_text()
    code, _, error = run(f"compare {rules} --out both --resume --lr 0.1")
    assert code == 2 and "--lr=0.1: the run in both/al has 0.001" in error
    assert Path("both/compare.yaml").read_text() == kept
    code, _, error = run("compare 'al width=5' --out both --resume --seed 9")  # there is no run of it yet
    assert code == 2 and "--seed=9: the run in both has 0" in error and not Path("both/al,width=5").exists()
    code, out, _ = run(f"compare {rules} --out both --resume --epochs 2")  # each rule keeps its own settings
    assert code == 0 and "al width=4 lr=0.01 last (epoch 2)" in out


def test_the_same_search_command_resumes(run, monkeypatch):
    """Also with rates, an optimizer and a schedule that the user has chosen."""
    line = "search bp --trials 3 --group 2 --epochs 1 --model-args hidden=[8] --optimizer nesterov --out found"
    rest, line = line, f"{line} --schedule al --lr 1e-2 2e-2"
    code, out, error = run(line)
    assert code == 0 and not error and Path("found/histograms.png").exists()
    assert out.startswith("bp on digits, 3 settings, 1 epoch each → found/bp\n") and "test accuracy of the best" in out
    assert run(line)[1] == out
    rates = [float(row.split()[-1]) for row in out.splitlines()[3:6]]
    assert out.splitlines()[1].split() == ["trial", "validation", "%", "loss", "lr"] and 0.01 <= min(rates) < 0.02
    for change, what in (
        (line + " --batch-size 16", "batch_size"),
        (f"{rest} --schedule al --lr 1e-2 1e-1", "settings"),
        (f"{rest} --schedule cosine --lr 1e-2 2e-2", "code (of the rule"),
    ):
        code, _, error = run(change)
        assert code == 2 and f"holds a search with other {what}" in error

    def stopped(*args, **flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "search", stopped)
    code, _, error = run(line)
    assert code == 130
    assert error == (
        "jaxlocal search: stopped after the last finished group of bp; resume with: the same command and --out found\n"
    )


def test_ctrl_c_before_there_is_a_run(run, monkeypatch):
    def stopped(*args, **flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "build", stopped)
    assert run("train") == (130, "", "jaxlocal train: stopped\n")


def test_a_run_that_diverges_is_one_sentence(run):
    code, _, error = run("train --rule bp --epochs 9 --model-args hidden=[8] --optimizer sgd --lr 1e30 --out run")
    assert code == 1 and "the run has diverged; lower the learning rate" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "No space left on device; make room, or write to another place"),
        (errno.EACCES, "Permission denied; change its permissions, or name another place"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_one_sentence(number, sentence, trained, run, monkeypatch):
    def refuse(*args, **flags):
        raise OSError(number, os.strerror(number), "curves.png")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refuse)
    assert run(f"plot {trained[0]}") == (1, "", f"jaxlocal plot: curves.png: {sentence}\n")


def test_a_file_that_cannot_be_written_has_its_own_name_in_the_error(tmp_path):
    (tmp_path / "file").touch()
    for place, error in (("gone", FileNotFoundError), ("file", NotADirectoryError)):
        with pytest.raises(error) as caught:
            write_whole(tmp_path / place / "a.json", "{}")
        assert caught.value.filename == str(tmp_path / place / "a.json")


def test_underscores_in_a_flag_and_in_a_text():
    assert cli._with_dashes("--batch_size=3_0") == "--batch-size=3_0"
    assert cli._with_dashes("--well_done, great") == "--well_done, great"


def test_the_bar_shows_losses_and_accuracies(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        code, out, _ = run(f"train {TINY}")
    shown = screen.getvalue()
    assert code == 0 and out.startswith("bp on digits")
    assert re.search(r"epoch 1: .*\d+/68 .*batch/s, local losses=\d", shown)
    assert re.search(r"validation=\d+\.\d\d %", shown)
    assert not shown.split("\r")[-1].strip()  # the bar is erased at the end


def shell(line, **flags):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    return subprocess.Popen(
        [sys.executable, "-m", "jaxlocal.app.cli", *shlex.split(line)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **flags,
    )


def test_a_run_ends_when_its_output_is_closed():
    with shell(f"train {TINY} --out run") as process:
        assert process.stdout.readline().startswith("bp on digits")
        process.stdout.close()
        assert process.wait(600) == 141
        assert all(line.startswith("epoch ") for line in process.stderr)
    assert Path("run/summary.json").exists() and Path("run/curves.png").exists()
    assert list(Path(".cache/compiled").iterdir())  # compiled programs are kept


def saved_data(x, y):
    np.savez("set.npz", x=x, y=y)


X = np.random.default_rng(0).random((40, 6), np.float32)
LABELS = np.arange(40) % 3


@pytest.mark.parametrize(
    ("x", "y", "complaint"),
    [
        (np.where(X > 0.9, np.nan, X), LABELS, "x_train holds NaN, infinity"),
        (X, np.where(X[:, :1] > 0.9, np.inf, X[:, :1]), "y holds NaN, infinity"),
        (X, np.where(LABELS == 1, 10**13, LABELS), "y has the class 10000000000000, whose one-hot rows would take"),
        (X, LABELS * 0, "y_train has one class, 0, so that there is nothing to learn"),
        (X, LABELS * 0 + 1, "y_train has one class, 1, so that there is nothing to learn"),
    ],
)
def test_data_that_cannot_be_learned_leave_nothing(x, y, complaint, run):
    saved_data(x, y)
    code, out, error = run("train --data set.npz --epochs 1")
    assert (code, out) == (2, "") and complaint in error and error.count("\n") == 1
    assert sorted(os.listdir()) == [".cache", "set.npz"] or os.listdir() == ["set.npz"]


def test_an_unknown_platform_is_one_sentence():
    environment = {**os.environ, "JAX_PLATFORMS": "bogus"}
    command = [sys.executable, "-m", "jaxlocal.app.cli", "train", "--epochs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("jaxlocal train: JAX_PLATFORMS=bogus: JAX cannot start")
    assert not os.listdir()


def test_a_searched_setting_that_is_fixed_is_not_searched(run):
    code, out, error = run("search dtp --trials 2 --epochs 1 --rule-args noise=0.125 --model-args hidden=[8] --out s")
    assert (code, error) == (0, "")
    assert "noise" not in out and "alpha" in out


def test_real_targets_are_ranked_by_their_loss(run):
    saved_data(X, X @ np.random.default_rng(1).random((6, 2), np.float32))
    line = "search bp --trials 3 --epochs 2 --data set.npz --batch-size 4 --model-args loss=squared_error --out s"
    code, out, error = run(line)
    assert (code, error) == (0, "")
    losses = [float(row.split()[1]) for row in out.splitlines()[3:6]]
    assert "validation loss" in out and losses == sorted(losses) and losses[0] > 0
    assert "test loss of the best setting" in out and "%" not in out
    assert run(line)[:2] == (0, out)  # from the folder


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"[1]"])
@pytest.mark.parametrize("name", ["search.json", "trials.jsonl"])
def test_a_damaged_search_is_one_sentence(name, damage, searched, run):
    shutil.copytree(searched, "s")
    Path("s/bp", name).write_bytes(damage)
    code, _, error = run(f"{SEARCH} --out s")
    if (name, damage) == ("trials.jsonl", b""):  # no trial is finished
        assert code == 0
    else:
        assert code == 2 and "its search.json or trials.jsonl is damaged; remove the folder" in error


@pytest.mark.parametrize("damage", [b"xx", b"\xff\xfe", b"", b"[1]"])
def test_a_run_is_read_although_its_scores_are_damaged(damage, trained, run):
    shutil.copytree(trained[0], "t")
    for file in Path("t/checkpoints").glob("*/metrics/metrics"):
        file.write_bytes(damage)
    assert run("eval t")[0] == 0
    code, _, error = run("eval t --best")
    assert code == 2 and "has no best checkpoint that can be read; leave out --best" in error
    Path("t/metrics.jsonl").write_bytes(damage)
    code, _, error = run("plot t")
    assert code == 2 and "metrics.jsonl holds no epoch that can be read; write it anew by jaxlocal train" in error


def test_a_run_with_wrong_metrics_is_one_sentence(trained, run):
    shutil.copytree(trained[0], "run")
    Path("run/metrics.jsonl").write_text('{"epoch": 1, "step": 2, "train": 3, "validation": 4}\n')
    code, _, error = run("plot run")
    assert code == 2 and "metrics.jsonl holds no epoch that can be read; write it anew" in error


def test_a_wrong_setting_in_a_folder_is_named_with_its_file(trained, run):
    shutil.copytree(trained[0], "run")
    with Path("run/config.yaml").open("a") as file:
        file.write("rule: zz\n")
    code, _, error = run("eval run")
    assert code == 2 and "config.yaml: rule=zz: unknown name" in error


def test_a_comparison_names_the_rule_that_diverges(run):
    code, _, error = run("compare bp --epochs 1 --model-args hidden=[8] --lr 1e30")
    assert code == 1 and error.splitlines()[-1].startswith("jaxlocal compare: bp: component 0: its loss")


@pytest.mark.parametrize(
    ("call", "kind", "complaint"),
    [
        (lambda: Config(epochs="few"), ConfigError, "--epochs=few: must be a whole number"),
        (lambda: Config(model_args="hidden=[8]"), ConfigError, "--model-args=hidden=[8]: must be a list"),
        (lambda: Config(lr=True), ConfigError, "--lr=True: must be a number"),
        (lambda: app.train("bp"), TypeError, "config='bp': must be a Config"),
        (lambda: app.compare("bp", Config()), TypeError, "rules='bp': must be a list of names, such as"),
        (lambda: app.compare([], Config()), ConfigError, "RULE: is missing; name one rule or more"),
        (lambda: app.search(["zz"], Config()), ConfigError, "RULE=zz: unknown name"),
        (lambda: next(app.draw("run", examples="9")), TypeError, "examples='9': must be a whole number"),
    ],
)
def test_wrong_arguments_in_python_are_one_sentence(call, kind, complaint):
    with pytest.raises(kind, match=f"^{re.escape(complaint)}"):
        call()


def test_settings_in_python_may_have_the_types_of_numpy_and_of_yaml():
    config = Config(epochs=np.int64(3), lr=np.float32(0.5), model_args={"hidden": [8]}, augment=["flip"])
    assert config == Config(epochs=3, lr=0.5, model_args=("hidden=[8]",), augment=("flip",))


@pytest.mark.parametrize(("kind", "ended"), [(KeyboardInterrupt, [130]), (OSError, [])])
def test_ctrl_c_where_an_exception_cannot_be_raised(kind, ended, monkeypatch, capfd):
    """Python hands it to a hook, for example if it comes within a callback of the garbage collection."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    cli._cannot_be_raised(SimpleNamespace(exc_type=kind))
    assert codes == ended
    assert capfd.readouterr().err == "jaxlocal: stopped\n" * len(ended)
