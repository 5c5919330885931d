"""Rules, nets, batches and comparisons that several test modules share."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlocal as jl

ROOT = Path(__file__).parent.parent
OWN_RULE = "docs/adding-a-rule.md"


def code_blocks(document, language="python"):
    """The fenced code blocks of a document, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def layer_local(net, tx):
    """The rule that the page on rules of one's own shows, run from its text."""
    (source,) = [block for block in code_blocks(OWN_RULE) if "def layer_local" in block]
    namespace = {}
    exec(source, namespace)
    return namespace["layer_local"](net, tx)


# Every rule that the contract is tested on.
RULES = {**jl.rules.ALL, "layer_local": layer_local}
# One rule of each file, for what the rules of a file cannot do differently.
FAMILIES = ("bp", "al", "dtp", "kp", "dkp", "pepita", "predsim", "dgl", "scpl", "ff", "layer_local")
# The library's rules that a pipeline runs.
FORWARD_ONLY = ("al", "drtp", "predsim", "dgl", "scpl", "ff")
# They predict in ways of their own, without the network's head.
HEADLESS = ("al", "ff")
# They differ from `brsf` in where their magnitudes come from. So most of their tests are slow ones.
LIKE_BRSF = ("usf", "frsf")


def by_rule(names, quick=tuple(name for name in RULES if name not in LIKE_BRSF)):
    """Run a test for each of the rules; one process takes all tests of a rule, so that `start` compiles it once.

    Rules that are not among the quick ones are marked slow.
    """
    cases = []
    for name in names:
        marks = [pytest.mark.xdist_group(name), *([] if name in quick else [pytest.mark.slow])]
        cases.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", cases)


def by_case(cases, quick=()):
    """As `by_rule`, for pairs of a rule and a net. Those on sequences are marked slow unless they are quick ones."""
    params = []
    for name, net in cases:
        slow = name in LIKE_BRSF or (net in SEQUENCES and (name, net) not in quick)
        marks = [pytest.mark.xdist_group(name), *([pytest.mark.slow] if slow else [])]
        params.append(pytest.param(name, net, id=f"{net}-{name}", marks=marks))
    return pytest.mark.parametrize(("name", "net"), params)


NETS = {
    "dense": jl.models.mlp((7, 6, 5), classes=3),
    "norm dropout": jl.models.mlp((7, 6, 5), classes=3, norm=True, dropout=0.3),
    "conv": jl.Network(
        (jl.layers.conv(3, stride=2, norm=True), jl.layers.local(4, stride=2), jl.layers.dense(5)),
        jl.layers.Head(3),
    ),
    "lstm": jl.models.lstm_classifier(7, 3, features=4, hidden=(3,)),
    "transformer": jl.models.transformer_classifier(7, 3, features=4, depth=1, heads=2, hidden=5, dropout=0.3),
    "tagger": jl.models.lstm_classifier(7, 3, features=4, hidden=(3,), pool=None),
}
SEQUENCES = "lstm", "transformer", "tagger"
ON_SEQUENCES = "bp", "al", "fa", "kp", "brsf", "wm", "dfa", "drtp", "dkp", "predsim", "dgl", "scpl"
ON_TOKENS = tuple(name for name in ON_SEQUENCES if name not in ("predsim", "scpl"))  # where each token has a target
KINDS_ON_TOKENS = "al", "bp", "kp", "dfa", "drtp", "dgl"  # one of each kind


def make_batch(net, batch_size=8, seed=0):
    """A random batch for one of the nets."""
    rng = np.random.default_rng(seed)
    if net is NETS["tagger"]:
        ids = token_ids(rng, batch_size)
        return jax.device_put((ids, tags(rng, ids)))
    y = np.eye(3)[rng.integers(3, size=batch_size)]
    if any(net is NETS[name] for name in SEQUENCES):
        return jax.device_put((token_ids(rng, batch_size), y.astype(np.float32)))
    shape = (6, 6, 2) if net is NETS["conv"] else (4,)
    x = rng.normal(size=(batch_size, *shape))
    return jax.device_put((x.astype(np.float32), y.astype(np.float32)))


def token_ids(rng, count, steps=5, known=7):
    """Sequences of random lengths, padded with 0. The first is as long as can be, and the last is empty."""
    lengths = np.array([steps, *rng.integers(1, steps, size=count - 2), 0])
    ids = rng.integers(1, known, size=(count, steps), dtype=np.int32)
    return np.where(np.arange(steps) < lengths[:, None], ids, 0).astype(np.int32)


def tags(rng, ids):
    """A class for each token, and a row of zeros at padded places."""
    return (np.eye(3)[rng.integers(3, size=ids.shape)] * (ids != 0)[..., None]).astype(np.float32)


def slow(*values):
    """One case of a parametrized test, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Start(NamedTuple):
    """A rule, its functions, parameters and a batch. `step` compiles when it is called first."""

    rule: jl.Rule
    init: Callable
    step: Callable
    params: jl.Params
    batch: tuple


@cache
def start(name, net):
    """Make a rule for a net, once for all tests of a process."""
    rate = 0.05 if name == "ff" else 0.5  # its loss is of a sum over units, and larger steps switch off a whole block
    rule, batch = RULES[name](net, optax.sgd(rate)), make_batch(net)
    return Start(rule, rule.init, jax.jit(rule.step), drawn(rule, batch), batch)


def drawn(rule, batch, seed=2):
    """Parameters drawn by NumPy, because JAX would compile a program for each shape.

    No bias is zero, and statistics are not those of a start, so that it shows if one of them is lost.

    With this seed no component of the small nets is dead at the start, which would learn the same whatever it gets.
    """
    rng, small = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def fill(path, leaf):
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(int(rng.integers(2**31)))
        if "weights" not in names and "stats" not in names:  # no steps and no momentum
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype))
        if names[-1] in ("bias", "mean", "scale", "var"):
            values = (names[-1] in ("scale", "var")) + small.uniform(-0.1, 0.1, size=leaf.shape)
            return jax.device_put(values.astype(leaf.dtype))
        values = rng.normal(size=leaf.shape, scale=max(np.prod(leaf.shape[:-1]), *leaf.shape[-1:], 1) ** -0.5)
        return jax.device_put(values.astype(leaf.dtype))

    shapes = jax.eval_shape(rule.init, jax.random.key(0), batch)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def plain(tree):
    """The tree with its arrays as NumPy arrays, and random keys as their data."""

    def one(leaf):
        return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(one, tree)


def same(a, b):
    """Whether two trees are equal bit for bit."""
    leaves = zip(jax.tree.leaves(plain(a)), jax.tree.leaves(plain(b)), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in leaves)
