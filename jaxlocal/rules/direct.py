"""Direct feedback: DFA, DRTP and DKP send a signal straight from the output to every block.

In all three, block l has the objective ⟨a_l, signal·B_l⟩, with its input a_{l-1} held constant. The gradient of this
objective in the block's weights is the rule's update of W_l, whatever is inside the block. Its gradient in B_l is DKP's
update of B_l. Where a_l is a sequence, the objective takes its mean over the tokens: each token receives the same
signal, divided by their number. Where each token has a target, the objective is the sum over the tokens t of
⟨a_lt, signal_t·B_l⟩: each token receives its own signal, and all of them share B_l.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.decay import decayed
from jaxlocal.layers import flat, he_normal
from jaxlocal.locality import everywhere, own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Loss, Network, Tree, apply_layer, has_target, one_over, units
from jaxlocal.parts import head_lesson, head_part, init_forward
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Stats, Weights
from jaxlocal.tokens import each_target


@learning_rule
def dfa(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer = he_normal(),
    frozen: Collection[int] = (),
) -> Rule:
    r"""Direct feedback alignment: the output's error reaches every block at once, through fixed random weights.

    .. math::
        \delta_l = \delta_k B_l \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l

    Convention: δ_k = ∂L/∂z_k (B, C) is the error of the *mean* loss. It holds the factor 1/B for the blocks and the
    head alike, so DFA with one hidden layer is feedback alignment with the same B. B_l (C, n_l) acts on the flattened
    output of block l (the paper numbers it l+1). Inside the block, the signal is differentiated exactly.

    If each token has a target, y (B, T, C), δ_k is (B, T, C), and the signal of token t is δ_kt B_l.

    Args:
      net: the network; its blocks may be any Flax modules. The head gets its true gradient.
      tx: the optimizer; each block and the head have a state of their own.
      feedback_init: the initialiser of B_lᵀ (n_l, C); by default Kaiming, as for a layer from a_l to the output.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.dfa(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> info.losses.shape
      (3,)

    Reference:
      Nøkland. Direct feedback alignment provides learning in deep neural networks. NeurIPS 2016.
      Notation: Learning the connections in direct feedback alignment, eq. 3 and 4.
    """
    return _direct(net, {"forward": tx}, feedback_init, frozen)


@learning_rule
def dkp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_tx: optax.GradientTransformation | None = None,
    decay: float = 1e-6,
    feedback_decay: float | None = None,
    feedback_init: nn.initializers.Initializer = he_normal(),
    frozen: Collection[int] = (),
) -> Rule:
    r"""Direct Kolen-Pollack: direct feedback alignment whose B_l learns to map the output's error to block l.

    .. math::
        \delta_l &= \delta_k B_l \odot f'(z_l) \\
        \Delta W_l &= -\eta_W\, a_{l-1}^\top \delta_l - \lambda W_l, \qquad
        \Delta B_l = -\eta_B\, \delta_k^\top a_l - \lambda B_l

    Conventions as in `dfa`; the decay is the paper's, not multiplied by the learning rate, none on biases and scales.

    Args:
      net: the network. The paper found batch norm before the activations to be needed on convolutional networks.
      tx: the optimizer of the forward weights; each block and the head have a state of their own.
      feedback_tx: the optimizer of the B_l; by default as `tx`. Too low a rate turns DKP into DFA.
      decay: λ of the forward weights.
      feedback_decay: λ of the B_l; by default as `decay`.
      feedback_init: the initialiser of B_lᵀ (n_l, C); by default Kaiming.
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.dkp(net, optax.sgd(1e-2), feedback_tx=optax.sgd(1e-4))
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Webster, Choi, Ahn. Learning the connections in direct feedback alignment. OpenReview 2021. Equation 8.
    """
    feedback_decay = decay if feedback_decay is None else feedback_decay
    checks.below_one("decay", decay)
    checks.below_one("feedback_decay", feedback_decay)
    txs = {"forward": decayed(tx, decay), "feedback": decayed(feedback_tx or tx, feedback_decay)}
    return _direct(net, txs, feedback_init, frozen)


@learning_rule
def drtp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer = he_normal(),
    frozen: Collection[int] = (),
) -> Rule:
    r"""Direct random target projection: the target itself, not the error, reaches every block; nothing waits.

    .. math::
        \delta_l = \tfrac1B\, y B_l \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l

    y takes the place of δ_k, as in the direct Kolen-Pollack paper, with the same factor 1/B of the mean over the batch.
    (Frenkel et al. use the opposite sign; if B is drawn from a symmetric distribution, that is the same rule.)
    If the network's loss is that of each token, as the cross entropy is where each token has a target, the factor is
    1 / the number of tokens with a target.
    Component l learns from the message (a_{l-1}, y) alone: there is no backward pass.

    Args:
      net: the network; its blocks may be any Flax modules. The head gets its true gradient.
      tx: the optimizer; each block and the head have a state of their own.
      feedback_init: the initialiser of B_lᵀ (n_l, C); by default Kaiming.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.drtp(net, optax.adam(1e-3))
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Frenkel, Lefebvre, Bol. Learning without feedback: fixed random learning signals allow for feedforward training
      of deep neural networks. Frontiers in Neuroscience 15, 2021.
    """

    def teach(
        block: nn.Module, weights: Weights, stats: Stats, message: Message, key: jax.Array
    ) -> tuple[Lesson, Message]:
        below, y = message
        passed = _forward(block, weights, stats, below, y, key)
        return passed.lesson(weights["feedback"], _scaled(net.loss, y)), (passed.a, y)

    *blocks, head = _parts(net, feedback_init)
    teaching = (part._replace(teach=partial(teach, block)) for part, block in zip(blocks, net.blocks, strict=True))
    n = len(net.layers)
    locality = {"forward": upward(n), "feedback": own(n)}
    return make_rule(net, (*teaching, head), {"forward": tx}, locality=locality, frozen=frozen)


def _scaled(loss: Loss, y: jax.Array) -> jax.Array:
    """The target with the factor of the mean loss: over the examples, or over the tokens that have a target."""
    if not loss.is_of_tokens(y):
        return y / y.shape[0]
    return y * one_over(has_target(y).astype(y.dtype))


def _direct(
    net: Network,
    txs: dict[str, optax.GradientTransformation],
    feedback_init: nn.initializers.Initializer,
    frozen: Collection[int],
) -> Rule:
    """DFA; with an optimizer for the role "feedback", DKP."""

    def teach(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        a, y = batch
        *hidden, head = components
        passed = []
        for block, c, key in zip(net.blocks, hidden, keys, strict=False):
            passed.append(_forward(block, c.weights, c.stats, a, y, key))
            a = passed[-1].a
        scores, _ = apply_layer(net.head, head.weights["forward"][0], head.stats[0], a, keys[-1])
        error = net.loss.error(scores, y)  # δ_k
        lessons = (block.lesson(c.weights["feedback"], error) for block, c in zip(passed, hidden, strict=True))
        return *lessons, head_lesson(net, head.weights, head.stats, (a, y), keys[-1])

    n = len(net.layers)
    locality = {"forward": everywhere(n), "feedback": own(n)}
    return make_rule(net, _parts(net, feedback_init), txs, teach, locality=locality, frozen=frozen)


def _parts(net: Network, feedback_init: nn.initializers.Initializer) -> tuple[Part, ...]:
    """A component for each block, with its B_l, and one for the head, without."""
    checks.initializer("feedback_init", feedback_init)

    def init(block: nn.Module, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        forward_key, feedback_key = jax.random.split(key)
        weights, stats, (a, y) = init_forward((block,))(forward_key, message)
        inputs, outputs = map(units, each_target(a, y))
        weights["feedback"] = feedback_init(feedback_key, (inputs, outputs), y.dtype).T
        return weights, stats, (a, y)

    blocks = (Part((i,), partial(init, block)) for i, block in enumerate(net.blocks))
    return *blocks, head_part(net)


class _Passed(NamedTuple):
    """A block after its forward pass: its output a_l, and the way back from a_l to its weights."""

    a: Any  # as the next block gets it
    stats: Tree
    rows: jax.Array  # a_l with a row for each example, or for each token that has a target
    back: Callable[[jax.Array], tuple[Tree]]

    def lesson(self, feedback: jax.Array, signal: jax.Array) -> Lesson:
        """The gradient of ⟨a_l, signal·B_l⟩, for the block's weights and for B_l."""
        signals = flat(each_target(self.a, signal)[1])
        wanted = signals @ feedback
        grads = {"forward": self.back(wanted), "feedback": signals.T @ self.rows}
        return Lesson(grads, (self.stats,), {"projection": jnp.vdot(self.rows, wanted)})


def _forward(
    block: nn.Module, weights: Weights, stats: Stats, below: jax.Array, y: jax.Array, key: jax.Array
) -> _Passed:
    def output(weights: Tree) -> tuple[jax.Array, tuple[Any, Tree]]:
        a, new_stats = apply_layer(block, weights, stats[0], below, key)
        return flat(each_target(a, y)[0]), (a, new_stats)

    rows, back, (a, new_stats) = jax.vjp(output, weights["forward"][0], has_aux=True)
    return _Passed(a, new_stats, rows, back)
