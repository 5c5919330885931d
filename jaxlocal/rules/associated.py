"""Associated Learning: every component brings its own code of the input and its own code of the target together."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.codes import IMAGE_WIDTH, Coder, Codes, lean, linear, one_layer, spread
from jaxlocal.locality import own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import (
    Loss,
    Masked,
    Network,
    Tree,
    apply_layers,
    are_one_hot,
    has_target,
    key_of,
    mean_where,
    units,
)
from jaxlocal.parts import apply_helper, block_groups, init_forward, init_helper, lesson_of
from jaxlocal.rule import Lesson, Message, Params, Part, Rule, Stats, Weights, forward_weights
from jaxlocal.sequences import masked
from jaxlocal.tokens import by_token, rows


@learning_rule
def al(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    autoencoder_tx: optax.GradientTransformation | None = None,
    components: int | Sequence[int] | None = None,
    codes: Codes = lean,
    width: int | Sequence[int] | None = None,
    bridge: Coder | None = None,
    encoder: Coder | None = None,
    decoder: Coder | None = None,
    readout: Coder | None = None,
    label_loss: Loss | None = None,
    bridge_tx: optax.GradientTransformation | None = None,
    by_class: bool = False,
    average: bool | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Associated Learning: each component makes its code of x predict its code of y, and its code of y decodable.

    With s_0 = x, t_0 = y and s_i, t_i taken as constants outside component i,

    .. math::
        s_i = f_i(s_{i-1}), \qquad t_i = g_i(t_{i-1}), \qquad
        L_i = \mathrm{MSE}(b_i(s_i),\ t_i) + \mathrm{MSE}(h_i(t_i),\ t_{i-1})

    The first term trains the associated function f_i and the bridge b_i, with t_i held constant; the second trains the
    encoder g_i and the decoder h_i. MSE is the mean over the batch *and* the units. Component i needs the message
    (s_{i-1}, t_{i-1}) and nothing else, and the message is computed with the weights before this batch's update. So no
    component waits for an error from another.

    Component i can predict y by h_1 ∘ … ∘ h_i ∘ b_i ∘ f_i ∘ … ∘ f_1. In the paper the last component alone predicts.
    Here the prediction is by default the mean over all components. In our measurements that was more accurate on
    convolutional networks, and about as accurate on dense ones. `average=False` is the paper's; training is the same.
    The network's head is not used.

    By default the codes are lean: 64 units, which for classes lie far apart from the start, a bridge of one layer, and
    images averaged to 8 × 8 cells in front of it. A step then costs about as much as one of backpropagation. For
    classes MSE(h_1(t_1), y) becomes the cross entropy of a linear h_1, as in the paper's successor (ICLR 2022). With
    `codes=jl.codes.paper` the codes are as wide as the layers, each bridge has a hidden layer of five times that width,
    all errors are squared, and the last component predicts, as in the paper.

    If every example of a class has the same target, as with one-hot labels, all codes t_i belong to classes, too. With
    `by_class` they are computed once for each class instead of once for each example, if there are fewer classes than
    examples in the batch. That gives the same gradients to rounding. Soft labels, such as those of mixup, do not allow
    this. They are refused where their values can be seen; inside `jax.jit`, as in `fit`, they make the losses NaN.

    If each token of a sequence has a target, y (B, T, C), the codes are those of the tokens: b_i reads each token of
    s_i, g_i and h_i map each token's target, and MSE is the mean over the tokens and the units. Padded places do not
    count, and for classes neither do tokens whose row of y is all zeros. Scores (B, T, C) are zero at padded places.

    Args:
      net: the network; its blocks, alone or in groups, are the associated functions f_i. Its loss is measured, and not
        learned from, but says whether the targets are classes.
      tx: the optimizer of f, and by default of b.
      autoencoder_tx: the optimizer of g and h; by default `tx` with its moves doubled: the paper's twice the rate.
      components: None for one component per block; a number, to cut the blocks into that many components of about the
        same size; or the number of blocks of each component, such as (1, 3, 3, 3) for ResNet-20. By default as many
        devices as possible can take part; fewer components, such as 2 or 4, are often more accurate.
      codes: the width of the codes, and the modules that lead to them and back; see `jl.codes`.
      width: the units of t_i, one number or one for each component; by default as in `codes`.
      bridge: width -> b_i; by default as in `codes`, like the next three.
      encoder: width -> g_i.
      decoder: width of t_{i-1} -> h_i, for i > 1.
      readout: number of targets -> h_1.
      label_loss: how far h_1(t_1) is from y. By default it is as in `codes` for classes without a `readout` of your
        own, and else the mean squared error. With `jl.cross_entropy` h_1 is linear, and the prediction holds logits.
      bridge_tx: the optimizer of b.
      by_class: whether the codes are computed once for each class.
      average: whether the prediction is the mean over all components, or else that of the last one; by default as in
        `codes`.
      frozen: numbers of the blocks that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.al(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> sorted(info.terms[0]), info.losses.shape
      (['associated', 'autoencoder'], (2,))

    Reference:
      Kao, Chen. Associated Learning: decomposing end-to-end backpropagation based on autoencoders and target
      propagation. Neural Computation 33, 2021. Equations 4.1 to 4.8.
      The cross entropy of lean codes: Wu, Lin, Chen, Chen. Associated Learning: a methodology to decompose end-to-end
      backpropagation on CNN, RNN, and Transformer. ICLR 2022.
    """
    for name, coder in {"bridge": bridge, "encoder": encoder, "decoder": decoder, "readout": readout}.items():
        checks.function(name, coder, "jl.codes.hidden_layer")
    _check_label_loss(label_loss)
    checks.loss_is_not_learned("al", net)
    codes = _with(codes, width=width, bridge=bridge, encoder=encoder, decoder=decoder, readout=readout, average=average)
    codes = completed(codes, label_loss, net.loss.of_classes)
    checks.flag("average", codes.average)
    _check_by_class(by_class, net)
    assert codes.encoder is not None and codes.readout is not None  # they are completed
    groups = block_groups(components, len(net.blocks))
    n = len(groups)
    associations = tuple(
        _Association(
            f=tuple(net.blocks[layer] for layer in layers),
            given_width=given_width,
            bridge=codes.bridge,
            encoder=codes.encoder,
            decoder=codes.decoder if i else codes.readout,
            label_loss=None if i else codes.label_loss,
            of_classes=net.loss.of_classes,
            by_class=by_class,
        )
        for i, (layers, given_width) in enumerate(zip(groups, _widths(codes.width, n), strict=True))
    )
    autoencoder_tx = autoencoder_tx or optax.chain(tx, optax.scale(2.0))
    return make_rule(
        net,
        tuple(Part(layers, each.init, each.teach) for layers, each in zip(groups, associations, strict=True)),
        {"forward": tx, "bridge": bridge_tx or tx, "encoder": autoencoder_tx, "decoder": autoencoder_tx},
        locality={"forward": upward(n), "bridge": own(n), "encoder": upward(n), "decoder": own(n)},
        frozen=frozen,
        effective=partial(_effective, codes.average),
        scores=partial(_scores, associations, codes.average),
    )


def completed(codes: Codes, label_loss: Loss | None, of_classes: bool) -> Codes:
    """The codes with an encoder and a readout in place of None. `label_loss` is that of the readout; None: the MSE."""
    if label_loss is None and of_classes and codes.readout is None:
        label_loss = codes.label_loss
    encoder = codes.encoder or (spread if of_classes else one_layer)
    readout = codes.readout or (codes.decoder if of_classes and label_loss is None else linear)
    return codes._replace(encoder=encoder, readout=readout, label_loss=label_loss)


class _Association(NamedTuple):
    """A component: its associated function, the modules around its code, and what it learns."""

    f: tuple[nn.Module, ...]
    given_width: int | None  # None: that of s_i
    bridge: Coder
    encoder: Coder
    decoder: Coder  # of the first component: the readout
    label_loss: Loss | None  # how far the first component's h_1(t_1) is from y; None: the squared error
    of_classes: bool
    by_class: bool

    def init(self, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        """The weights of f_i, b_i, g_i and h_i."""
        s_below, t_below, y = self.read(message)
        if not isinstance(t_below, Masked):  # for the first component it is y
            checks.at_most_tokens("al", t_below)
        f_key, b_key, g_key, h_key = jax.random.split(key, 4)
        weights, stats, (s, _) = init_forward(self.f)(f_key, (s_below, t_below))
        examples = self.examples(s, t_below)
        b, g, h = self.coders(examples)
        t_shape = (self.width(examples.s),)
        weights["bridge"] = init_helper("bridge", b, b_key, examples.s, t_shape)
        weights["encoder"] = init_helper("encoder", g, g_key, examples.t, t_shape)
        t = apply_helper(g, weights["encoder"], examples.t)
        weights["decoder"] = init_helper("decoder", h, h_key, t, examples.t.shape[1:])
        return weights, stats, self.message(s, examples.handed_on(t), y)

    def teach(self, weights: Weights, stats: Stats, message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        """Equations 4.1 to 4.8: s_i = f_i(s_{i-1}), t_i = g_i(t_{i-1}), and the gradient of L_i."""
        s_below, t_below, y = self.read(message)
        f_key, b_key, g_key, h_key = jax.random.split(key, 4)  # of dropout, where there is any

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            s, new_stats = apply_layers(self.f, weights["forward"], stats, s_below, f_key)
            examples = self.examples(s, t_below)
            targets = each_example(examples) if y is None else each_class(examples, y)
            b, g, h = self.coders(examples)
            codes = apply_helper(g, weights["encoder"], targets.rows, g_key)
            t = targets.of_examples(codes)
            predicted = apply_helper(b, weights["bridge"], examples.s, b_key)
            associated = examples.mean(jnp.square(predicted - stop_gradient(t)))
            decoded = apply_helper(h, weights["decoder"], codes, h_key)
            autoencoder = targets.mean(self.decoding_error(decoded, targets.rows))
            if y is not None:
                autoencoder = autoencoder * _one_where_labels(y)
            losses = {"associated": associated, "autoencoder": autoencoder}
            return losses, new_stats, self.message(s, examples.handed_on(t), y)

        return lesson_of(objective, weights)

    def width(self, s: jax.Array | Masked) -> int:
        """The units of t_i."""
        return self.given_width or (IMAGE_WIDTH if _is_image(s) else units(s))

    def coders(self, examples: "Examples") -> tuple[nn.Module, nn.Module, nn.Module]:
        """b_i, g_i and h_i."""
        width = self.width(examples.s)
        return self.bridge(width), self.encoder(width), self.decoder(units(examples.t))

    def examples(self, s: jax.Array | Masked, t_below: jax.Array | Masked) -> "Examples":
        """What the coders read: s_i and t_{i-1} of each example or, where each token has a target, of each token.

        There t_{i-1} has a mask from the first component on: the tokens that have a target or, for real targets, all.
        """
        if not isinstance(t_below, Masked):
            if not by_token(s, t_below.shape[1:]):
                return Examples(s, t_below)
            mask = masked(s).mask
            t_below = Masked(t_below, mask & has_target(t_below) if self.of_classes else mask)
        return Examples(rows(s), rows(t_below), t_below.mask)

    def decoding_error(self, decoded: jax.Array, t_below: jax.Array) -> jax.Array:
        """How far h_i(t_i) is from t_{i-1}, for each row and unit, or for each row."""
        if self.label_loss is None:
            return jnp.square(decoded - t_below)
        return self.label_loss.value(decoded, t_below)[:, None]

    def read(self, message: Message) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """s_{i-1}, t_{i-1}, and with `by_class` the label y. The first component's message is (x, y): t_0 is y."""
        s, t = message[:2]
        y = message[-1] if self.by_class else None
        if y is not None and len(message) == 2:
            _check_labels(y)
        return s, t, y

    def message(self, s: jax.Array, t: Any, y: jax.Array | None) -> Message:
        """What the next component gets; the label is part of it if that component needs it."""
        return (s, t) if y is None else (s, t, y)


def _scores(
    associations: tuple[_Association, ...], average: bool, params: Params, x: jax.Array, key: jax.Array | None
) -> jax.Array:
    """Up through f_1 … f_N, across the last bridge, and down through h_N … h_1; or the mean over all bridges."""
    targets, n = params.shapes[1], len(params.components)
    weights, stats = zip(*((component.weights, component.stats) for component in params.components), strict=True)
    f_keys, b_keys, _, h_keys = zip(*(_module_keys(key_of(key, i)) for i in range(n)), strict=True)
    s, tops = x, []
    for i, association in enumerate(associations):
        s, _ = apply_layers(association.f, weights[i]["forward"], stats[i], s, f_keys[i])
        tops.append(rows(s) if by_token(s, targets) else s)  # what the bridge reads
    of_tokens = by_token(s, targets)
    widths = [association.width(top) for association, top in zip(associations, tops, strict=True)]  # of t_1 … t_N
    below = [targets[-1] if of_tokens else prod(targets), *widths]  # of t_0 … t_N

    def across(i: int) -> jax.Array:
        return apply_helper(associations[i].bridge(widths[i]), weights[i]["bridge"], tops[i], b_keys[i])

    def down(i: int, t: jax.Array) -> jax.Array:
        return apply_helper(associations[i].decoder(below[i]), weights[i]["decoder"], t, h_keys[i])

    # The last component comes first, so that its layers come before those of the others in `layer_outputs`.
    t = across(n - 1)
    for i in reversed(range(n)):
        t = down(i, t)
    if average and n > 1:
        # Each decoder reads the codes of all components above it at once: it is applied once more, and not N times.
        others = across(n - 2)
        for i in reversed(range(1, n - 1)):
            others = jnp.concatenate([down(i, others), across(i - 1)])
        others = down(0, others)
        t = jnp.mean(jnp.concatenate([t, others]).reshape(n, *t.shape), axis=0)
    return masked(s).clear(t.reshape(-1, *targets)) if of_tokens else t


def _effective(average: bool, params: Params) -> dict[str, Tree]:
    """The weights that the prediction reads: every f, the last bridge or all of them, every decoder."""
    bridges = tuple(component.weights["bridge"] for component in params.components)
    return {
        "forward": forward_weights(params),
        "bridge": bridges if average else bridges[-1],
        "decoders": tuple(component.weights["decoder"] for component in params.components),
    }


def _module_keys(key: jax.Array | None) -> Sequence[jax.Array | None]:
    """Those of f, b, g and h, for dropout."""
    return [None] * 4 if key is None else [*jax.random.split(key, 4)]


def _is_image(s: jax.Array | Masked) -> bool:
    return not isinstance(s, Masked) and s.ndim > 2


class Examples(NamedTuple):
    """What the coders of a component read: s_i and t_{i-1}, each with a row for each example.

    Where each token has a target, an example is a token, and `mask` (B, T) says which tokens count.
    """

    s: Any  # an array, or `jl.Masked`
    t: jax.Array
    mask: jax.Array | None = None

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean over the examples that count and over the units, of values (number of examples, units)."""
        return jnp.mean(values if self.mask is None else self.mean_of_columns(values))

    def mean_of_columns(self, values: jax.Array) -> jax.Array:
        """The mean over the examples that count, for each column."""
        return jnp.mean(values, axis=0) if self.mask is None else mean_where(values, self.mask.reshape(-1))

    def handed_on(self, t: jax.Array) -> jax.Array | Masked:
        """The codes t_i as the next component gets them."""
        return t if self.mask is None else Masked(t.reshape(*self.mask.shape, -1), self.mask)


class Targets(NamedTuple):
    """The targets t_{i-1} of a batch: each row once, however many examples have it."""

    rows: jax.Array
    of_examples: Callable[[jax.Array], jax.Array]  # from a value for each row to one for each example
    mean: Callable[[jax.Array], jax.Array]  # the mean over examples and units of a value for each row and unit


def each_example(examples: Examples) -> Targets:
    """A row for each example."""
    return Targets(examples.t, lambda values: values, examples.mean)


def each_class(examples: Examples, y: jax.Array) -> Targets:
    """A row for each class: that of its first example that counts. Classes without one count nothing.

    If there are no more examples than classes, it is a row for each example.
    """
    label = jnp.argmax(y, axis=-1).reshape(-1)
    if len(label) <= y.shape[-1]:
        return each_example(examples)
    member = jax.nn.one_hot(label, y.shape[-1], dtype=examples.t.dtype)
    if examples.mask is not None:
        member = member * examples.mask.reshape(-1, 1).astype(member.dtype)

    def mean(values: jax.Array) -> jax.Array:
        return jnp.mean(examples.mean_of_columns(member) @ values)

    return Targets(examples.t[jnp.argmax(member, axis=0)], lambda values: values[label], mean)


def _with(codes: Codes, **given: Any) -> Codes:
    """The codes with those settings that the user has given."""
    if not isinstance(codes, Codes):
        raise TypeError(f"codes={checks.show(codes)}: must be a jl.codes.Codes, such as jl.codes.paper")
    return codes._replace(**{name: value for name, value in given.items() if value is not None})


def _check_by_class(by_class: bool, net: Network) -> None:
    checks.flag("by_class", by_class)
    if by_class and not net.loss.of_classes:
        raise ValueError(
            "by_class=True: the network's loss is for real targets, but codes belong to classes only where targets are "
            "labels; leave it out, or use jl.cross_entropy or a jl.Loss with of_classes=True"
        )


def _check_label_loss(label_loss: Loss | None) -> None:
    if not isinstance(label_loss, Loss | None):
        raise TypeError(f"label_loss={checks.show(label_loss)}: must be a jl.Loss, such as jl.cross_entropy")


def _check_labels(y: jax.Array) -> None:
    """Refuse soft labels, where the values can be seen."""
    if isinstance(y, jax.core.Tracer):
        return
    if not _are_labels(np.asarray(y)):
        raise ValueError(
            "by_class=True: y has rows that are not one-hot, so codes do not belong to classes; leave it out"
        )


def _one_where_labels(y: jax.Array) -> jax.Array:
    """1, or NaN if there are soft labels, which a compiled program cannot refuse."""
    return jnp.where(_are_labels(y), 1.0, jnp.nan).astype(y.dtype)


def _are_labels(y: Any) -> Any:
    """Whether all rows are one-hot, but for those of tokens that have no target; of NumPy's arrays or of JAX's."""
    return (are_one_hot(y) | ((y.ndim == 3) & ~has_target(y))).all()


def _widths(width: int | Sequence[int] | None, count: int) -> tuple[int | None, ...]:
    """The width of each component's code, None where it follows that of s."""
    if width is None:
        return (None,) * count
    if isinstance(width, str):
        raise TypeError(f"width={width!r}: must be a whole number, or one for each component")
    widths = tuple(width) if isinstance(width, Sequence) else (width,) * count
    if len(widths) != count:
        raise ValueError(
            f"width={width!r}: names {len(widths)} widths for {count} components; pass one number or {count}"
        )
    for one in widths:
        checks.positive_int("width", one)
    return widths
