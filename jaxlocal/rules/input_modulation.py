"""Error-driven input modulation: a second forward pass, whose input the output's error has changed."""

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.locality import everywhere, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Network, Tree, apply_layer, units, vocabulary
from jaxlocal.parts import activities, head_part, init_forward
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Stats, Weights
from jaxlocal.transport import is_linear_map

SMALL = nn.initializers.variance_scaling(0.005, "fan_in", "uniform")  # 0.05 times Kaiming's


@learning_rule
def pepita(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer = SMALL,
    frozen: Collection[int] = (),
) -> Rule:
    r"""PEPITA: the output's error is added to the input, and each layer learns from how its activities change.

    With a_0 = x, the output's error e, and a second pass from a'_0 = x + e F,

    .. math::
        a_l = f(a_{l-1} W_l), \qquad
        a'_l = f(a'_{l-1} W_l), \qquad
        \Delta W_l = -\frac{\eta}{B}\, {a'}_{l-1}^\top (a_l - a'_l), \qquad
        \Delta W_L = -\frac{\eta}{B}\, {a'}_{L-1}^\top e

    e is the output minus y. F (C, n_0) is random and fixed. The changes are taken at the output of a block, and teach
    the linear map in it without a derivative of the activation: the objective of block l is ⟨a'_{l-1} W_l, a_l - a'_l⟩,
    its difference and its input held constant. Both passes have the same dropout masks. The paper has no biases; here
    a bias has the gradient of this objective. The scale and the bias of batch norm do not learn, and its running
    statistics are those of the first pass. The authors' code takes e in ΔW_L from the second pass, and the paper from
    the first, as here. No block can learn before the error of the first pass is there, so the rule has no pipeline.

    Args:
      net: the network. Each block has one linear map, and an output of the same shape. The input holds real numbers.
      tx: the optimizer; each block and the head have a state of their own. The paper has SGD with momentum.
        Adam's moves do not shrink with the changes, so that with it weights can grow without bound.
      feedback_init: the initialiser of Fᵀ (n_0, C); by default uniform with the paper's limit, 0.05 √(6/n_0).
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.pepita(net, optax.sgd(0.1, momentum=0.9))
      >>> params = rule.init(jax.random.key(0), batch)
      >>> params.components[0].weights["feedback"].shape
      (10, 64)

    Reference:
      Dellaferrera, Kreiman. Error-driven input modulation: solving the credit assignment problem without a backward
      pass. ICML 2022.
    """
    checks.initializer("feedback_init", feedback_init)
    if vocabulary(net) is not None:
        raise ValueError(
            "net takes token ids, to which pepita can add no error; take a network for real inputs, or another rule, "
            "such as jl.rules.dfa"
        )

    def teach(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        x, y = batch
        first, stats = activities(net, components, x, keys)
        error = stop_gradient(net.loss.error(first[-1], y))  # e / B
        modulation = len(x) * error @ components[0].weights["feedback"]
        second, _ = activities(net, components, x + modulation.reshape(x.shape), keys)
        *changes, _ = jax.tree.map(lambda a, changed: (a - changed) / len(x), first[1:], second[1:])

        def objective(weights: Weights, i: int) -> jax.Array:
            """⟨a'_{l-1} W_l, a_l - a'_l⟩ / B; for the head ⟨a'_{L-1} W_L, e⟩ / B."""
            arguments = weights["forward"][0], components[i].stats[0], second[i], keys[i]
            if i == len(net.blocks):
                return jnp.vdot(apply_layer(net.head, *arguments)[0], error)
            (linear,) = _linear_maps(net.blocks[i], *arguments)
            return jnp.vdot(linear.astype(x.dtype), changes[i])

        lessons = []
        for i, component in enumerate(components):
            loss, grads = jax.value_and_grad(objective)(component.weights, i)
            lessons.append(Lesson(grads, (stats[i],), {"projection": loss}))
        task = net.loss.mean(first[-1], y)
        return *lessons[:-1], lessons[-1]._replace(losses={"task": task})

    n = len(net.layers)
    blocks = (Part((i,), partial(_init, net, feedback_init, i)) for i in range(n - 1))
    locality = {"forward": everywhere(n), "feedback": upward(n)}
    return make_rule(net, (*blocks, head_part(net)), {"forward": tx}, teach, locality=locality, frozen=frozen)


def _init(
    net: Network, feedback_init: nn.initializers.Initializer, i: int, key: jax.Array, message: Message
) -> tuple[Weights, Stats, Message]:
    """The weights of a block; the first has F, which leads to its input."""
    forward_key, feedback_key = jax.random.split(key)
    x, y = message
    checks.one_target("pepita", y)
    weights, stats, (a, _) = init_forward((net.blocks[i],))(forward_key, message)
    _check_one_map(net, i, weights, stats, x, a)
    if i == 0:
        weights["feedback"] = feedback_init(feedback_key, (units(x), units(y)), y.dtype).T
    return weights, stats, (a, y)


def _linear_maps(
    block: nn.Module, weights: Tree, stats: Tree, x: jax.Array, key: jax.Array | None = None
) -> list[jax.Array]:
    """The outputs of the linear modules in a block."""
    found = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if is_linear_map(context):
            found.append(output)
        return output

    with nn.intercept_methods(note):
        apply_layer(block, weights, stats, x, key)
    return found


def _check_one_map(net: Network, i: int, weights: Weights, stats: Stats, x: jax.Array, a: jax.Array) -> None:
    """Refuse a block whose change cannot be that of its one linear map."""
    shapes: list[tuple[int, ...]] = []

    def note(weights: Tree) -> None:
        shapes.extend(z.shape for z in _linear_maps(net.blocks[i], weights, stats[0], x))

    jax.eval_shape(note, weights["forward"][0])
    if shapes != [getattr(a, "shape", None)]:
        raise ValueError(
            f"net.layers[{i}] is {type(net.blocks[i]).__name__} with linear maps of the output shapes {shapes}, but "
            "pepita needs blocks of one linear map with the shape of the block's output: use jl.layers.dense and "
            "jl.layers.conv, with pool_input in place of pool, or another rule, such as jl.rules.dfa"
        )
