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


def code_blocks(document, language="python"):
    """The fenced code blocks of a document, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def layer_local(net, tx):
    """The rule that README.md shows, run from its text."""
    (source,) = [block for block in code_blocks("README.md") if "def layer_local" in block]
    namespace = {}
    exec(source, namespace)
    return namespace["layer_local"](net, tx)


# Every rule that the contract is tested on. A new rule is one more line here.
RULES = {**jl.rules.ALL, "layer_local": layer_local}
# One rule of each file, for what the rules of a file cannot do differently.
FAMILIES = ("bp", "al", "dtp", "kp", "dkp", "layer_local")


def by_rule(names, quick=tuple(RULES)):
    """Run a test for each of the rules; one process takes all tests of a rule, so that `start` compiles it once.

    Rules that are not among the quick ones are marked slow.
    """
    cases = []
    for name in names:
        marks = [pytest.mark.xdist_group(name), *([] if name in quick else [pytest.mark.slow])]
        cases.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", cases)


NETS = {
    "dense": jl.models.mlp((7, 6, 5), classes=3),
    "dense norm": jl.models.mlp((7, 6, 5), classes=3, norm=True),
    "dense dropout": jl.models.mlp((7, 6, 5), classes=3, dropout=0.3),
    "conv": jl.Network(
        (jl.layers.conv(3, stride=2, norm=True), jl.layers.local(4, stride=2), jl.layers.dense(5)),
        jl.layers.Head(3),
    ),
}


def make_batch(net, batch_size=8, seed=0):
    """A random batch for one of the nets."""
    rng = np.random.default_rng(seed)
    shape = (6, 6, 2) if net is NETS["conv"] else (4,)
    x = rng.normal(size=(batch_size, *shape))
    y = np.eye(3)[rng.integers(3, size=batch_size)]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def slow(*values):
    """One case of a parametrized test, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Start(NamedTuple):
    """A compiled rule, and parameters after one step, when no bias is zero."""

    rule: jl.Rule
    init: Callable
    step: Callable
    params: jl.Params
    batch: tuple


@cache
def start(name, net):
    """Compile a rule for a net, once for all tests of a process."""
    rule, batch = RULES[name](net, optax.sgd(0.5)), make_batch(net)
    step = jax.jit(rule.step)
    params, _ = step(rule.init(jax.random.key(0), batch), batch)
    return Start(rule, rule.init, step, params, batch)


def plain(tree):
    """The tree with its arrays as NumPy arrays, and random keys as their data."""

    def one(leaf):
        return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(one, tree)


def same(a, b):
    """Whether two trees are equal bit for bit."""
    leaves = zip(jax.tree.leaves(plain(a)), jax.tree.leaves(plain(b)), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in leaves)
