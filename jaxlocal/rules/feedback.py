"""Feedback alignment and Kolen-Pollack learning: the error goes back through weights of its own."""

from collections.abc import Callable, Collection
from functools import partial

import flax.linen as nn
import jax
import optax

from jaxlocal import checks, transport
from jaxlocal.checks import learning_rule
from jaxlocal.decay import decayed, shrunk
from jaxlocal.descent import Settle
from jaxlocal.locality import everywhere
from jaxlocal.make import make_rule
from jaxlocal.network import Network, Tree
from jaxlocal.parts import init_forward, lesson_of
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Stats, Weights
from jaxlocal.transport import Feedback

Start = Callable[[tuple[Tree, ...], Stats, jax.Array, jax.Array], tuple[Feedback, ...]]  # (weights, stats, x, key)
Teach = Callable[[Component, Batch, jax.Array], Lesson]


@learning_rule
def fa(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Feedback alignment: backpropagation with fixed random weights B in place of the transposed W.

    .. math::
        \delta_l = \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l

    B_l (n_l, n_{l-1}) is stored transposed, in the layout of W_l, for dense layers and convolutions of any kind alike;
    so with the stored B equal to W this is backpropagation. Everything else (activations, batch norm, pooling,
    shortcuts) is differentiated exactly. The first linear map has no B, if nothing that learns lies before it.

    Args:
      net: the network; its blocks may be any Flax modules whose weights are in Flax's own linear modules.
      tx: the optimizer of the forward weights.
      feedback_init: the initialiser of B; by default each linear map's own (Kaiming where W has Kaiming).
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.fa(net, optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), batch)
      >>> jax.tree.map(jnp.shape, params.components[0].weights["feedback"])
      ({}, {'linear': (16, 16)}, {'linear': (16, 10)})

    Reference:
      Lillicrap, Cownden, Tweed, Akerman. Random synaptic feedback weights support error backpropagation for deep
      learning. Nature Communications 7, 2016. Notation: Learning the connections in direct feedback alignment, eq. 5.
    """
    return carried_back(net, {"forward": tx}, frozen, drawn(net, feedback_init), partial(_teach, net))


@learning_rule
def kp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_tx: optax.GradientTransformation | None = None,
    decay: float = 1e-6,
    feedback_decay: float | None = None,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Kolen-Pollack learning: feedback alignment whose B takes the transposed update of W, both with decay.

    .. math::
        \delta_l &= \delta_{l+1} B_{l+1} \odot f'(z_l) \\
        \Delta W_l &= -\eta_W\, a_{l-1}^\top \delta_l - \lambda W_l, \qquad
        \Delta B_l = -\eta_B\, \delta_l^\top a_{l-1} - \lambda B_l

    so that with the same optimizer W - Bᵀ shrinks by 1 - λ a step. B is stored in the layout of W, as in `fa`. The
    decay is the paper's: it is not multiplied by the learning rate, and biases and scales have none. A weight decay
    inside `tx`, as in `optax.adamw`, reaches B as part of W's move, and does not bring the two together.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights, without a weight decay of its own.
      feedback_tx: the optimizer of B; by default B takes the very moves of W, whose gradient it has, so that one
        optimizer state serves both.
      decay: λ of the forward weights.
      feedback_decay: λ of B; by default as `decay`.
      feedback_init: the initialiser of B; by default each linear map's own.
      frozen: numbers of the layers that keep their weights and their B.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.kp(net, optax.adam(1e-3), decay=1e-4)
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Akrout, Wilson, Humphreys, Lillicrap, Tweed. Deep learning without weight transport. NeurIPS 2019.
      Also: Kolen, Pollack. Backpropagation without weight transport. ICNN 1994.
      Notation: Learning the connections in direct feedback alignment, eq. 5 and 6.
    """
    feedback_decay = decay if feedback_decay is None else feedback_decay
    checks.below_one("decay", decay)
    checks.below_one("feedback_decay", feedback_decay)
    start, teach = drawn(net, feedback_init), partial(_teach, net)
    if feedback_tx is not None:
        txs = {"forward": decayed(tx, decay), "feedback": decayed(feedback_tx, feedback_decay)}
        return carried_back(net, txs, frozen, start, teach)

    def settle(weights: Weights, moves: Weights) -> Weights:
        """B moves as its W does; then both decay."""
        feedback_moves = transport.kernels_with_feedback(moves["forward"], weights["feedback"])
        return {
            "forward": shrunk(moves["forward"], weights["forward"], decay),
            "feedback": shrunk(feedback_moves, weights["feedback"], feedback_decay),
        }

    return carried_back(net, {"forward": tx}, frozen, start, teach, settle)


def _teach(net: Network, component: Component, batch: Batch, key: jax.Array) -> Lesson:
    """The error comes back through the B that the component carries. The gradient of B is that of W."""
    feedback = component.weights["feedback"]
    lesson = carried_lesson(net, feedback, component, batch, key)
    grads = transport.kernels_with_feedback(lesson.grads["forward"], feedback)
    return lesson._replace(grads=lesson.grads | {"feedback": grads})


def carried_lesson(
    net: Network, feedback: tuple[Feedback, ...], component: Component, batch: Batch, key: jax.Array
) -> Lesson:
    """Backpropagation, with the error carried back by this feedback through every linear map."""
    x, y = batch

    def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
        scores, stats = transport.apply_with_feedback(net.layers, weights["forward"], feedback, component.stats, x, key)
        return {"task": net.loss.mean(scores, y)}, stats, (scores, y)

    return lesson_of(objective, {"forward": component.weights["forward"]})[0]


def drawn(net: Network, init: nn.initializers.Initializer | None) -> Start:
    """Feedback that is drawn at the start by the setting `feedback_init`, or by each map's own initializer."""
    if init is not None:
        checks.initializer("feedback_init", init)
    return lambda weights, stats, x, key: transport.init_feedback(net.layers, weights, stats, x, key, init)


def carried_back(
    net: Network,
    txs: dict[str, optax.GradientTransformation],
    frozen: Collection[int],
    start: Start,
    teach: Teach,
    settle: Settle | None = None,
) -> Rule:
    """A rule of one component, whose feedback begins as `start` says, and whose lesson is that of `teach`."""

    def init(key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        forward_key, feedback_key = jax.random.split(key)
        weights, stats, output = init_forward(net.layers)(forward_key, message)
        x, _ = message
        return weights | {"feedback": start(weights["forward"], stats, x, feedback_key)}, stats, output

    def teach_all(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        (network,), (key,) = components, keys
        return (teach(network, batch, key),)

    parts = (Part(tuple(range(len(net.layers))), init),)
    locality = {"forward": everywhere(1), "feedback": everywhere(1)}
    return make_rule(net, parts, txs, teach_all, locality=locality, frozen=frozen, settle=settle)
