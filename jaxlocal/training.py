"""Training: an epoch as one compiled program."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxlocal import checks
from jaxlocal.rule import Batch, Info, Params, Rule


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=1)
def epoch(rule: Rule, params: Params, data: Batch, key: jax.Array, batch_size: int) -> tuple[Params, Info]:
    """One pass over the data in random order, `batch_size` examples a step; what is left over is passed over.

    The infos of the steps come back stacked along a first axis. `params` is donated. Convolutions other than those of
    `jl.layers` are slow inside a scan on a CPU: give Flax's own `conv_general_dilated=jl.layers.convolve`.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> train = jl.data.digits().train
      >>> params = rule.init(jax.random.key(0), train)
      >>> params, info = jl.training.epoch(rule, params, train, jax.random.key(1), 32)
      >>> info.losses.shape
      (34, 2)
    """
    x, y = data
    if not 0 < batch_size <= len(x):
        raise ValueError(f"batch_size={batch_size}: the data has {len(x)} examples; take 1 to {len(x)}")
    order = jax.random.permutation(key, x.shape[0])
    order = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    return jax.lax.scan(lambda params, rows: rule.step(params, (x[rows], y[rows])), params, order)


@partial(jax.jit, static_argnums=0)
def accuracy(rule: Rule, params: Params, data: Batch) -> jax.Array:
    """The share of examples whose highest score is at the right class."""
    checks.batch(data)
    x, y = data
    return jnp.mean(jnp.argmax(rule.predict(params, x), -1) == jnp.argmax(y, -1))
