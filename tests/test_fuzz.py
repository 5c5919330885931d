"""Random inputs: whatever is typed, written into a file or passed to a function, the answer is a result or a sentence.

The cases are drawn by Hypothesis from a fixed seed. FUZZ=1000 draws a thousand of each kind.
"""

import contextlib
import io
import os
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import drawn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import jaxlocal as jl
from jaxlocal import app
from jaxlocal.app import cli
from jaxlocal.app.settings import FLAGS, Config, ConfigError, read
from jaxlocal.training import session

CASES = int(os.environ.get("FUZZ", "60"))
fuzz = settings(
    max_examples=CASES,
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


class Reached(Exception):  # noqa: N818 - it is not an error
    """A command has passed all checks and would train now."""


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """A folder of its own, in which nothing is trained."""

    def reached(*args, **settings):
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setenv("JAXLOCAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        np.savez("floats.npz", x=np.random.default_rng(0).random((40, 6), np.float32), y=np.arange(40) % 3)
        Path("notes.txt").write_text("no run")
        config = Config(rule="bp", epochs=2, model_args=("hidden=[4]",))
        app.train(config, Path("run"), say=lambda line: None)
        patch.setattr(session.Session, "train", reached)
        patch.setattr(sys, "unraisablehook", lambda _: None)  # Orbax's threads raise what also reaches us
        yield


def answer(words):
    """The exit code of a command, and what it prints on stderr; a command that would train has the code 0."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cli.main(words), error.getvalue()
        except Reached:
            return 0, ""


def is_sentence(text):
    return text.startswith("jaxlocal") and text.count("\n") == 1 and "Traceback" not in text and len(text) < 2000


# Command lines.

NUMBERS = st.sampled_from(["0", "1", "2", "-1", "1e-3", "nan", "inf", "1e999", "9" * 30, "2147483648", "0x10", "½", ""])
NAMES = st.sampled_from([*jl.rules.ALL, *jl.models.ALL, "digits", "floats.npz", "notes.txt", "run", "none", "/", "."])
WORDS = st.one_of(NUMBERS, NAMES, st.text(max_size=8), st.sampled_from(["adam", "cosine", "flip", "bfloat16", "true"]))
KEYS = st.sampled_from(["hidden", "norm", "width", "components", "codes", "bridge", "alpha", "noise", "frozen", "loss"])
VALUES = st.one_of(
    WORDS, st.sampled_from(["[4]", "[4,4]", "[]", "[0]", "{}", "{a: 1}", "paper", "null", "[[1]]", "a b"])
)
PAIRS = st.builds("{}={}".format, KEYS, VALUES)


def given_flag(name):
    flag = f"--{name.replace('_', '-')}"
    if name == "pipeline":
        return st.just([flag])
    values = st.lists(PAIRS, max_size=2) if name.endswith("_args") else st.lists(WORDS, min_size=1, max_size=1)
    return values.map(lambda words: [flag, *words])


SMALL = st.just(["--rule", "bp", "--epochs", "1", "--model-args", "hidden=[4]"])
FLAGS_GIVEN = st.lists(st.sampled_from(sorted(FLAGS)).flatmap(given_flag), max_size=3)
LINES = st.one_of(
    st.tuples(st.just(["train"]), SMALL, FLAGS_GIVEN),
    st.tuples(st.just(["compare"]), st.lists(NAMES, max_size=2), FLAGS_GIVEN),
    st.tuples(st.sampled_from([["eval"], ["plot"], ["list"]]), st.lists(WORDS, max_size=2), FLAGS_GIVEN),
    st.tuples(st.just(["train", "--resume", "--out"]), st.lists(WORDS, max_size=1), FLAGS_GIVEN),
    st.tuples(st.just(["train", "--config"]), st.lists(WORDS, max_size=1), FLAGS_GIVEN),
    st.tuples(st.lists(WORDS, min_size=1, max_size=3), st.just([]), FLAGS_GIVEN),
).map(lambda parts: [*parts[0], *parts[1], *(word for words in parts[2] for word in words)])


@given(LINES)
@fuzz
def test_command_lines(words):
    before = set(os.listdir())
    code, error = answer(words)
    if code:
        assert code == 2 and is_sentence(error), (words, code, error)
        assert set(os.listdir()) == before, words
    for made in set(os.listdir()) - before:
        shutil.rmtree(made)


# Files of settings.

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.dates().map(str),
    st.binary(max_size=4),
)
TREES = st.recursive(SCALARS, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(st.text(max_size=5), tree))
ODD = st.sampled_from(
    ["!!int x", "!!float {}", "!!set {a}", "&a [*a]", "<<: *b", "2020-13-45", "1:60", "0o9", "? :", "%T"]
)
FILES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.builds(lambda name, value: f"{name}: {value}".encode(), st.sampled_from(sorted(FLAGS)), TREES),
    st.builds(lambda name, value: f"{name}: {value}".encode(), st.sampled_from(sorted(FLAGS)), ODD),
)


@given(FILES)
@fuzz
def test_files_of_settings(content):
    Path("fuzz.yaml").write_bytes(content)
    complaint = "fuzz.yaml"
    try:
        assert isinstance(read(Path("fuzz.yaml")), Config)
    except ConfigError as error:
        complaint = str(error)
    assert "fuzz.yaml" in complaint and len(complaint) < 2000
    Path("fuzz.yaml").unlink()


# Files of texts.

CELLS = st.text(alphabet='ab1é ,"\n\r\0\t', max_size=6)
TABLES = st.one_of(
    st.binary(max_size=60),
    st.lists(CELLS, max_size=9).map(lambda cells: ("text,label\n" + "\n".join(cells)).encode()),
    st.lists(st.tuples(CELLS, st.sampled_from(["0", "1", "x", ""])), min_size=3, max_size=9).map(
        lambda rows: ("label,text\n" + "".join(f'{label},"{text}"\n' for text, label in rows)).encode()
    ),
)


@contextlib.contextmanager
def fuzz_csv(content):
    """A file of this name, and whatever is wrong with it is said in one sentence."""
    Path("fuzz.csv").write_bytes(content)
    try:
        yield
    except ValueError as error:
        complaint = str(error)
        assert "\n" not in complaint and ("fuzz.csv" in complaint or "validation=" in complaint), complaint
    Path("fuzz.csv").unlink()


@given(TABLES, st.sampled_from(["word", "char", "bpe"]))
@fuzz
def test_files_of_texts(content, kind):
    with fuzz_csv(content):
        texts = jl.data.load_text("fuzz.csv", tokenizer=kind, vocabulary=300)
        assert all((x[:, 0] > 0).all() and x.max() < texts.tokenizer.size for x, _ in texts.splits)


NUMBER_CELLS = st.one_of(NUMBERS, st.sampled_from(["3", "0.5", "", "a", '"', "2,1", "\0"]))


@given(st.lists(st.tuples(NUMBER_CELLS, NUMBER_CELLS), max_size=9), st.sampled_from(["label", "x", "split"]))
@fuzz
def test_files_of_numbers(rows, first):
    content = "".join(f"{x},{label}\n" for x, label in [(first, "label"), *rows])
    with fuzz_csv(content.encode()):
        table = jl.data.load_table("fuzz.csv")
        assert all(np.isfinite(x).all() and len(x) for x, _ in table.splits) and table.inputs == ("x",)


# Folders of runs.

DAMAGES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.integers(0), st.just(0)),
    st.tuples(st.just("replace"), st.binary(max_size=20), st.just(0)),
    st.tuples(st.just("remove"), st.just(0), st.just(0)),
)


def damage(file, kind, where, bit):
    content = bytearray(file.read_bytes())
    if kind == "remove":
        return file.unlink()
    if kind == "replace":
        return file.write_bytes(where)
    place = where % max(1, len(content))
    if kind == "cut":
        return file.write_bytes(content[:place])
    if content:
        content[place] ^= 1 << bit
    return file.write_bytes(content)


@pytest.mark.slow
@given(
    st.integers(0), DAMAGES, st.sampled_from(["eval damaged", "eval damaged --best", "train --resume --out damaged"])
)
@settings(fuzz, max_examples=max(4, CASES // 3))
def test_folders_of_runs(number, how, line):
    shutil.copytree("run", "damaged")
    files = sorted(path for path in Path("damaged").rglob("*") if path.is_file())
    damage(files[number % len(files)], *how)
    code, error = answer(line.split())
    shutil.rmtree("damaged")
    assert code == 0 or (code == 2 and is_sentence(error.splitlines(keepends=True)[-1])), (line, code, error)


# Calls.

ARRAYS = st.builds(
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from([np.float32, np.float16, np.int32, np.uint8, np.bool_]),
    st.sampled_from([0.0, 1.0, 3.0]),
)
ODD_VALUES = [
    *(None, True, -1, 0, 1, 2, 2**31, 2**40, -(2**40), 0.5, -0.5, 1e300, float("nan"), float("inf")),
    *("", "al", "\0", "SAME", b"x", (), [], {}, set(), (0,), [2**40], (None, None), {"a": 1}, range(3), iter([1])),
    *(object(), int, len, jnp.tanh, nn.relu, nn.Dense(3), optax.sgd(0.1), jax.random.key(0), Path("none")),
]


def bounded(value):
    """The value; what would rightly take for ever is made small."""
    return min(value, 3) if isinstance(value, int) else value


NET = jl.models.mlp((4,), 3)
RULE = jl.rules.dfa(NET, optax.sgd(0.1))
BATCH = jnp.ones((4, 6)), jax.nn.one_hot(jnp.arange(4) % 3, 3)
PAIR = tuple(map(np.asarray, BATCH))
DATA = jl.data.Splits(PAIR, PAIR, PAIR)
TOKENIZER = jl.data.Tokenizer.train(["a b a b"])
PARAMS = drawn(RULE, BATCH)
FIT = partial(jl.training.fit, epochs=1, batch_size=2)
CALLS = {
    "mlp": lambda value: jl.models.mlp(value),
    "mlp classes": lambda value: jl.models.mlp((4,), value),
    "mlp norm": lambda value: jl.models.mlp((4,), norm=value),
    "mlp dropout": lambda value: jl.models.mlp((4,), dropout=value),
    "mlp activation": lambda value: jl.models.mlp((4,), activation=value),
    "resnet": lambda value: jl.models.resnet(value),
    "conv2 padding": lambda value: jl.models.conv2(padding=value),
    "matched": lambda value: jl.models.matched(NET, value, value),
    "dense": lambda value: jl.layers.dense(value),
    "conv": lambda value: jl.layers.conv(3, value),
    "network": lambda value: jl.Network((value,), value),
    **{
        f"{name} net": partial(lambda make, value: make(value, optax.sgd(0.1)), jl.rules.ALL[name])
        for name in jl.rules.ALL
    },
    **{f"{name} tx": partial(lambda make, value: make(NET, value), jl.rules.ALL[name]) for name in jl.rules.ALL},
    "al components": lambda value: jl.rules.al(NET, optax.sgd(0.1), components=value),
    "al width": lambda value: jl.rules.al(NET, optax.sgd(0.1), width=value),
    "al codes": lambda value: jl.rules.al(NET, optax.sgd(0.1), codes=value),
    "al bridge": lambda value: jl.rules.al(NET, optax.sgd(0.1), bridge=value),
    "dkp decay": lambda value: jl.rules.dkp(NET, optax.sgd(0.1), decay=value),
    "dtp noise": lambda value: jl.rules.dtp(NET, optax.sgd(0.1), noise=value),
    "dtp alternate": lambda value: jl.rules.dtp(NET, optax.sgd(0.1), alternate=value),
    "bp frozen": lambda value: jl.rules.bp(NET, optax.sgd(0.1), frozen=value),
    "init key": lambda value: RULE.init(value, BATCH),
    "init batch": lambda value: RULE.init(jax.random.key(0), value),
    "init x": lambda value: RULE.init(jax.random.key(0), (value, BATCH[1])),
    "init y": lambda value: RULE.init(jax.random.key(0), (BATCH[0], value)),
    "step params": lambda value: RULE.step(value, BATCH),
    "step batch": lambda value: RULE.step(PARAMS, value),
    "step x": lambda value: RULE.step(PARAMS, (value, BATCH[1])),
    "predict": lambda value: RULE.predict(PARAMS, value),
    "ensemble": lambda value: jl.ensemble(value, 2),
    "ensemble n": lambda value: jl.ensemble(RULE, value).init(jax.random.key(0), BATCH),
    "mixed precision": lambda value: jl.mixed_precision(RULE, value),
    "data parallel": lambda value: jl.data_parallel(RULE, value),
    "pipelined": lambda value: jl.pipelined(value, jl.pipeline.mesh(component=1)),
    "mesh": lambda value: jl.pipeline.mesh(component=value),
    "fit rule": lambda value: FIT(value, DATA),
    "fit data": lambda value: FIT(RULE, value),
    "fit train": lambda value: FIT(RULE, DATA._replace(train=value)),
    "fit validation": lambda value: FIT(RULE, DATA._replace(validation=value)),
    "fit x": lambda value: FIT(RULE, DATA._replace(train=(value, PAIR[1]))),
    "fit epochs": lambda value: FIT(RULE, DATA, epochs=bounded(value)),
    "fit batch size": lambda value: FIT(RULE, DATA, batch_size=value),
    "fit seed": lambda value: FIT(RULE, DATA, seed=value),
    "fit augmentation": lambda value: FIT(RULE, DATA, augmentation=value),
    "evaluate": lambda value: jl.training.evaluate(RULE, PARAMS, value),
    "accuracy": lambda value: jl.training.accuracy(RULE, PARAMS, value),
    "load": lambda value: jl.data.load(value),
    "load table": lambda value: jl.data.load_table(value),
    "load text": lambda value: jl.data.load_text(value),
    "load text tokenizer": lambda value: jl.data.load_text("sentences", tokenizer=value),
    "load text length": lambda value: jl.data.load_text("sentences", length=bounded(value)),
    "load text vocabulary": lambda value: jl.data.load_text("sentences", vocabulary=value),
    "tokenizer of": lambda value: jl.data.Tokenizer.train(value),
    "tokenizer texts": lambda value: TOKENIZER.encode(value, 3),
    "tokenizer length": lambda value: TOKENIZER.encode(["a b"], bounded(value)),
    "tokenizer load": lambda value: jl.data.Tokenizer.load(value),
    "load size": lambda value: jl.data.load("digits", size=value),
    "load validation": lambda value: jl.data.load("digits", validation=value),
    "crop": lambda value: jl.augmentation.crop(value),
    "jitter": lambda value: jl.augmentation.jitter(value),
    "chain": lambda value: jl.augmentation.chain(value),
    "l2": lambda value: jl.l2(value),
    "counts": lambda value: jl.diagnostics.parameter_counts(RULE, value),
    "alignment": lambda value: jl.diagnostics.alignment(RULE, value, BATCH),
    "costs": lambda value: jl.diagnostics.costs(value, BATCH),
    "distances": lambda value: jl.diagnostics.class_distances(value, BATCH[1]),
    "search settings": lambda value: jl.search.search(jl.search.maker("bp", NET), value, DATA, epochs=1, batch_size=2),
    "draw": lambda value: jl.search.draw(jl.search.bartunov("bp"), bounded(value)),
    "bartunov": lambda value: jl.search.bartunov(value),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    def call(value):
        complaint = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                CALLS[name](value)
        except (ValueError, TypeError, FileNotFoundError) as error:
            complaint = str(error)
        assert "\n" not in complaint and len(complaint) < 1000, (name, value, complaint)

    for value in ODD_VALUES:
        call(value)
    given(ARRAYS)(settings(fuzz, max_examples=max(4, CASES // 12))(call))()
