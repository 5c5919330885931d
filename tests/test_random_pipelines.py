"""Random pipelines: whatever the components, the cut and the number of devices, T ticks and a drain are T updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import same, slow

import jaxlocal as jl
from jaxlocal.layers import conv, dense

BATCH, CLASSES = 4, 3
QUICK = ((6, 3),)  # of two devices; a seed and the largest number of blocks
SLOW = (5, 3), (9, 3), (31, 7), (33, 7)


def random_net(rng, count):
    """Blocks of random widths; where the input is an image, the first one or two may be convolutions.

    No two blocks have the same width. Alike stages of a device would run as one, which rounds in another way.
    """
    image = bool(rng.integers(2))
    convolutions = int(rng.integers(1, min(count, 2) + 1)) if image else 0
    widths = 2 + rng.permutation(9)[:count]
    blocks = [
        conv(int(width), stride=int(rng.integers(1, 3))) if i < convolutions else dense(int(width))
        for i, width in enumerate(widths)
    ]
    shape = (int(rng.integers(4, 7)), int(rng.integers(4, 7)), 2) if image else (int(rng.integers(2, 6)),)
    return jl.Network(tuple(blocks), jl.layers.Head(CLASSES)), shape


def random_rule(rng, net):
    """Associated Learning with codes of a random width, or Direct Random Target Projection."""
    tx = (optax.adam(1e-2), optax.sgd(0.1, momentum=0.9))[rng.integers(2)]
    if rng.integers(4) == 0:
        return jl.rules.drtp(net, tx)
    return jl.rules.al(net, tx, width=int(rng.integers(2, 7)))


def random_cut(rng, components):
    """The number of devices, and the sizes of one or two stages for each of them."""
    each = int(rng.integers(1, 3)) if components > 1 else 1
    most = min(8, components // each)
    devices = int(rng.integers(1 + most // 2, most + 1))
    stages = devices * each
    ends = 1 + np.sort(rng.choice(components - 1, stages - 1, replace=False))
    return devices, tuple(np.diff([0, *ends, components]).tolist())


def random_batches(rng, count, shape):
    x = rng.normal(size=(count, BATCH, *shape))
    y = np.eye(CLASSES)[rng.integers(CLASSES, size=(count, BATCH))]
    return list(zip(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), strict=True))


@pytest.mark.parametrize(("seed", "most"), [*QUICK, *(slow(*case) for case in SLOW)])
def test_a_random_pipeline_is_its_rule_bit_for_bit(seed, most):
    """Its drained parameters are those of as many sequential updates; there may be fewer batches than stages."""
    rng = np.random.default_rng(seed)
    net, shape = random_net(rng, int(rng.integers(2, most + 1)))
    rule = random_rule(rng, net)
    batches = random_batches(rng, int(rng.integers(1, 6)), shape)
    params = jax.jit(rule.init)(jax.random.key(seed), batches[0])
    devices, stages = random_cut(rng, len(params.components))
    pipe, update = jl.pipelined(rule, jl.pipeline.mesh(component=devices), stages=stages), jax.jit(rule.update)
    placed = pipe.place(params, batches[0])
    assert all(len(group.stages) == 1 for own in placed.layout.groups for group in own)
    for batch in batches:
        placed, params = pipe.update(placed, batch), update(params, batch)
    assert same(pipe.drain(placed), params), f"{devices} devices, stages of {stages}"
