"""Target propagation, Algorithm 1: activities go up, targets come down through inverses, layers learn to hit theirs.

Numbering: h[0] is x, and layer i maps h[i] to h[i + 1]. So h[i] is the papers' h_i, and layer i is their f_{i+1}. Its
inverse, their g_{i+1}, maps h[i + 1] back to h[i]. The last layer is the head.

Reference:
  Bartunov, Santoro, Richards, Marris, Hinton, Lillicrap. Assessing the scalability of biologically-motivated deep
  learning algorithms and architectures. NeurIPS 2018, algorithm 1.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.layers import Transposed, identity
from jaxlocal.make import make_rule
from jaxlocal.network import Masked, Network, Tree, apply_layer, units
from jaxlocal.parts import activities, apply_helper, init_forward, init_helper
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Stats, Weights

Inverse = Callable[[jax.Array], jax.Array]
# (g, h_l, h_{l+1}, target_{l+1}) -> target_l
Propagate = Callable[[Inverse, jax.Array, jax.Array, jax.Array], jax.Array]
Locality = Mapping[str, Callable[[int], np.ndarray]]  # the mask of each role, for a number of components


class Output(NamedTuple):
    """What the inverse of the head reads, given the output distribution o and the head's input h."""

    init: Callable[[jax.Array, jax.Array], Weights]  # (key, h) -> further weights of the head, which do not learn
    read: Callable[[Weights, jax.Array, jax.Array], jax.Array]  # (the head's weights, o, h) -> what the inverse reads


class First(NamedTuple):
    """Where the targets start: the number of the first one, and the function that finds it."""

    number: int
    target: Callable[[Component, list[jax.Array], jax.Array, jax.Array], jax.Array]  # (head, h, y, key) -> target


PLAIN = Output(init=lambda key, h: {}, read=lambda weights, o, h: o)


def target_prop(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    first: First,
    propagate: Propagate,
    locality: Locality,
    output: Output = PLAIN,
    hybrid: float | None = None,
    inverse_tx: optax.GradientTransformation | None,
    noise: float,
    noise_preserving: bool,
    alternate: int | None,
    inverses: Mapping[int, nn.Module] | None,
    frozen: Collection[int],
) -> Rule:
    """A rule of the family: where its targets start, how they come down, and what the head's inverse reads.

    `hybrid` is explained by `dtp`, which alone has it, and the settings after it by `tp`.
    """
    checks.non_negative("noise", noise)
    checks.flag("noise_preserving", noise_preserving)
    inverted = range(1, first.number)  # no target goes below the first layer
    family = _Algorithm(
        net=net,
        first=first,
        propagate=propagate,
        output=output,
        hybrid=hybrid,
        noise=noise,
        noise_preserving=noise_preserving,
        inverted=inverted,
        inverses=_checked(inverses, inverted),
    )
    return make_rule(
        net,
        tuple(Part((i,), partial(family.init, i)) for i in range(len(net.layers))),
        {"forward": tx, "inverse": inverse_tx or tx},
        family.teach,
        locality={role: mask(len(net.layers)) for role, mask in locality.items()},
        frozen=frozen,
        alternate=alternate,
    )


class _Algorithm(NamedTuple):
    """Algorithm 1 of Bartunov et al., with what its variants change."""

    net: Network
    first: First
    propagate: Propagate
    output: Output
    hybrid: float | None
    noise: float
    noise_preserving: bool
    inverted: range  # the layers with an inverse
    inverses: dict[int, nn.Module]  # those that the user gives

    def init(self, i: int, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        """The weights of layer i and of its inverse."""
        forward_key, inverse_key, z_key = jax.random.split(key, 3)
        h, _ = message
        weights, stats, (above, y) = init_forward((self.net.layers[i],))(forward_key, message)
        if isinstance(above, Masked):
            raise ValueError(
                f"net.layers[{i}] is {type(self.net.layers[i]).__name__}, which hands on sequences of different "
                "lengths, and target propagation has no inverse for them; take another rule, such as jl.rules.al or dfa"
            )
        if self._is_head(i):
            if i in self.inverted:
                checks.one_target("target propagation from the output itself", y)
            weights |= self.output.init(z_key, h)
        if i in self.inverted:
            v = self.output.read(weights, self.net.loss.output(above), h) if self._is_head(i) else above
            g = self._inverse(i, h, v)
            weights["inverse"] = init_helper(f"inverses[{i}]", g, inverse_key, v, h.shape[1:])
        return weights, stats, (above, y)

    def teach(self, components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        """Activities go up, targets come down; then every layer and every inverse learns, each by its own loss.

        The last activity is what the head's inverse reads.
        """
        x, y = batch
        forward_keys, noise_keys = zip(*map(jax.random.split, keys), strict=True)
        h, stats = activities(self.net, components, x, forward_keys)
        h[-1] = self.output.read(components[-1].weights, self.net.loss.output(h[-1]), h[-2])
        target = self._targets(components, h, y, forward_keys)
        lessons = []
        for i, component in enumerate(components):
            wanted = y if self._is_head(i) else stop_gradient(target[i + 1])
            losses = {"forward": partial(self._forward_loss, i, component, h[i], wanted, forward_keys[i])}
            if i in self.inverted:
                losses["inverse"] = partial(self._inverse_loss, i, component, h[i], forward_keys[i], noise_keys[i])
            taught = {role: jax.value_and_grad(loss)(component.weights[role]) for role, loss in losses.items()}
            grads = {role: grad for role, (_, grad) in taught.items()}
            lessons.append(Lesson(grads, (stats[i],), {role: loss for role, (loss, _) in taught.items()}))
        return tuple(lessons)

    def _targets(
        self, components: tuple[Component, ...], h: list[jax.Array], y: jax.Array, keys: tuple[jax.Array, ...]
    ) -> dict[int, jax.Array]:
        """ĥ by number, from the first target down."""
        target = {self.first.number: self.first.target(components[-1], h, y, keys[-1])}
        for i in reversed(self.inverted):
            module, weights = self._inverse(i, h[i], h[i + 1]), components[i].weights["inverse"]
            g: Inverse = partial(apply_helper, module, weights)
            if self.hybrid is not None:
                g = self._mixed(self.hybrid, g, i, components[i], h[i], keys[i])
            target[i] = self.propagate(g, h[i], h[i + 1], target[i + 1])
        return target

    def _mixed(
        self, share: float, g_tp: Inverse, i: int, component: Component, h: jax.Array, key: jax.Array
    ) -> Inverse:
        """share · g_bp + (1 - share) · g_tp, where g_bp(v) = (∂h_{i+1}/∂h_i)ᵀ v."""
        _, transposed = jax.vjp(lambda h: self._forward(i, component, h, key), h)

        def g(v: jax.Array) -> jax.Array:
            (g_bp,) = transposed(v)
            return share * g_bp + (1 - share) * g_tp(v)

        return g

    def _forward_loss(
        self, i: int, component: Component, h: jax.Array, wanted: jax.Array, key: jax.Array, weights: tuple[Tree, ...]
    ) -> jax.Array:
        """‖f(h_i) - ĥ_{i+1}‖², and at the head the network's loss.

        The layer is applied once more, now as a function of its weights. The compiler sees that it is the same
        computation as in the forward pass, and does it once.
        """
        a, _ = apply_layer(self.net.layers[i], weights[0], component.stats[0], h, key)
        return self.net.loss.mean(a, wanted) if self._is_head(i) else squared_distance(a, wanted)

    def _inverse_loss(
        self, i: int, component: Component, h: jax.Array, key: jax.Array, noise_key: jax.Array, weights: Tree
    ) -> jax.Array:
        """‖g(f(h_i + ε)) - (h_i + ε)‖², or - h_i where the noise is not preserved."""
        noisy = h + self.noise * jax.random.normal(noise_key, h.shape, h.dtype)
        v = self._forward(i, component, noisy, key)
        again = apply_helper(self._inverse(i, h, v), weights, v)
        return squared_distance(again, noisy if self.noise_preserving else h)

    def _forward(self, i: int, component: Component, h: jax.Array, key: jax.Array) -> jax.Array:
        """The activity above layer i, at the head what its inverse reads."""
        above, _ = apply_layer(self.net.layers[i], component.weights["forward"][0], component.stats[0], h, key)
        return self.output.read(component.weights, self.net.loss.output(above), h) if self._is_head(i) else above

    def _inverse(self, i: int, h: jax.Array, above: jax.Array) -> nn.Module:
        """The module that maps the output of layer i back to its input h, in the range of the layer below."""
        if i in self.inverses:
            return self.inverses[i]
        shape, activation = h.shape[1:], getattr(self.net.layers[i - 1], "activation", identity)
        activation = activation if callable(activation) else identity
        if self._is_head(i):
            return Transposed(glorot_dense(units(above)), shape, activation)
        layer = self.net.layers[i]
        if not hasattr(layer, "inverse"):
            raise ValueError(
                f"net.layers[{i}] is {type(layer).__name__}, whose inverse target propagation needs; build it of "
                f"jl.layers, give it a method inverse(shape, activation), or pass inverses={{{i}: a Flax module}}"
            )
        return layer.inverse(shape, activation)

    def _is_head(self, i: int) -> bool:
        return i == len(self.net.blocks)


def _checked(inverses: Mapping[int, nn.Module] | None, inverted: range) -> dict[int, nn.Module]:
    if not isinstance(inverses, Mapping | None):
        raise TypeError(f"inverses={checks.show(inverses)}: must be a dict, layer number: Flax module")
    for i in inverses or {}:
        if i not in inverted:
            raise ValueError(
                f"inverses={{{i}: …}}: only the layers {list(inverted)} have an inverse; leave the others out"
            )
    return dict(inverses or {})


def squared_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """‖a - b‖², summed over the units and averaged over the batch."""
    return jnp.sum(jnp.square(a - b)) / a.shape[0]


def glorot_dense(features: int) -> nn.Dense:
    """A linear map with Glorot weights, as the paper has everywhere."""
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform())
