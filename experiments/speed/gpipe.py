"""Backpropagation as in GPipe: the layers divided over the devices, and each batch into micro-batches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxlocal as jl
from experiments.speed.batch import make_batch
from experiments.speed.shared import ADAM, Batch, Timed, timed

MICRO = 8  # the number of micro-batches

Layers = list[tuple[jax.Array, ...]]  # bias and kernel of each


def backpropagation(width: int, batch_size: int, tx: optax.GradientTransformation = ADAM) -> tuple[jl.Rule, Batch]:
    """Backpropagation through four dense layers of the same shape, of which each of two devices has two."""
    net = jl.models.mlp((width,) * 3, classes=width)
    return jl.rules.bp(net, tx), make_batch(batch_size, (width,), width)


def gpipe(width: int, batch_size: int, steps: int) -> Timed:
    """`backpropagation` as in GPipe over all devices of the process, after its gradients have been checked."""
    rule, batch = backpropagation(width, batch_size, optax.sgd(1.0))  # whose step is the gradient
    devices = jl.pipeline.mesh(stage=len(jax.devices()))
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    weights, after = (divide(one, len(jax.devices())) for one in (params, jax.jit(rule.update)(params, batch)))
    gradients = jax.jit(partial(gpipe_gradients, devices, MICRO))(weights, batch)
    for before, then, found in zip(*map(jax.tree.leaves, (weights, after, gradients)), strict=True):
        expected = np.asarray(before - then)
        if (worst := np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()) > 1e-5:
            raise RuntimeError(f"GPipe's gradients differ from those of bp by {worst:.1e} of the largest")

    def on_devices(leaf: jax.Array) -> NamedSharding:
        return NamedSharding(devices, P("stage") if leaf.ndim else P())

    def init(key: jax.Array, batch: Batch) -> Any:
        state = weights, ADAM.init(weights)
        return jax.device_put(state, jax.tree.map(on_devices, state))

    def step(state: Any, batch: Batch) -> tuple[Any, None]:
        weights, memory = state
        updates, memory = ADAM.update(gpipe_gradients(devices, MICRO, weights, batch), memory, weights)
        state = optax.apply_updates(weights, updates), memory
        return lax.with_sharding_constraint(state, jax.tree.map(on_devices, state)), None

    return timed(lambda state, batches: lax.scan(step, state, batches), init, batch, steps)


def divide(params: jl.Params, stages: int) -> Layers:
    """The layers of `backpropagation`; those at the same place in each stage are one array.

    The layers of the stages lie along the first axis. When it is sharded, the shard of a device is a kernel as it is.
    """
    layers = [jax.tree.leaves(layer) for layer in params.components[0].weights["forward"]]  # (bias, kernel)
    each = len(layers) // stages
    return [tuple(map(jnp.concatenate, zip(*layers[place::each], strict=True))) for place in range(each)]


def gpipe_gradients(devices: Mesh, micro: int, weights: Layers, batch: Batch) -> Layers:
    """The gradients of the whole batch; each device has those of its own layers.

    The micro-batches go through the stages in lockstep: ppermute sends their activations to the next stage, and the
    activations are kept for the backward pass. JAX transposes this program, so that in the backward pass the errors go
    from the last stage to the first, and each tick adds to the gradients. In (stages - 1) of (micro + stages - 1)
    ticks a device does nothing useful: this is the bubble.
    """
    stages = devices.shape["stage"]

    def loss(weights: Layers, x: jax.Array, y: jax.Array) -> jax.Array:
        stage = lax.axis_index("stage")
        is_last = stage == stages - 1

        def tick(arriving: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            a = jnp.where(stage == 0, x[jnp.minimum(t, micro - 1)], arriving)
            for layer, (bias, kernel) in enumerate(weights):
                z = a @ kernel + bias[None]
                a = jnp.tanh(z) if layer < len(weights) - 1 else jnp.where(is_last, z, jnp.tanh(z))
            return lax.ppermute(a, "stage", [(j, j + 1) for j in range(stages - 1)]), a

        _, out = lax.scan(tick, jnp.zeros_like(x[0]), jnp.arange(micro + stages - 1))
        scores = out[stages - 1 :].reshape(y.shape)
        return jnp.where(is_last, jl.cross_entropy.mean(scores, y), 0.0)

    def here(weights: Layers, x: jax.Array, y: jax.Array) -> Layers:
        return jax.grad(loss)(weights, x.reshape(micro, -1, x.shape[-1]), y)

    specs = P("stage"), P(), P()
    return jax.shard_map(here, mesh=devices, in_specs=specs, out_specs=P("stage"), check_vma=False)(weights, *batch)
