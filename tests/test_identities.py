"""Rules that are equal in special cases give the same numbers there, up to rounding."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, drawn, make_batch, slow

import jaxlocal as jl
from jaxlocal.network import apply_layer
from jaxlocal.rule import forward_weights
from jaxlocal.rules.contrastive import Projection
from jaxlocal.rules.target_prop import difference
from jaxlocal.sequences import Embedding, Encoder, Readout, Recurrent
from jaxlocal.targets import squared_distance

SGD = optax.sgd(0.1)
RESNET = jl.Network(
    (jl.layers.conv(4, norm=True), jl.layers.Residual(4), jl.layers.Residual(6, stride=2)),
    jl.layers.Head(3, average=True),
)
# Float32 sums in another order; this allows about twenty roundings.
TOLERANCE = 2e-6


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE), a, b)


def image_batch():
    return jax.random.normal(jax.random.key(2), (8, 6, 6, 2)), make_batch(NETS["conv"])[1]


def with_weights(params, role, weights):
    """The parameters of a rule of one component, with the weights of one role replaced."""
    (component,) = params.components
    return replace(params, components=(replace(component, weights=component.weights | {role: weights}),))


def symmetric(params):
    """The parameters with every feedback weight equal to the weight that it replaces."""
    (component,) = params.components
    kernels = []
    for weights, feedback in zip(component.weights["forward"], component.weights["feedback"], strict=True):
        of_layer = {}
        for path in feedback:
            module = weights
            for name in path.split("/"):
                module = module[name]
            of_layer[path] = module["kernel"]
        kernels.append(of_layer)
    return with_weights(params, "feedback", tuple(kernels))


def run(rule, params, batches):
    step = jax.jit(rule.update)
    for batch in batches:
        params = step(params, batch)
    return params


@pytest.mark.parametrize(
    ("rule", "net"),
    [
        ("fa", "norm dropout"),
        ("fa", "resnet"),
        ("fa", "lstm"),
        slow("fa", "transformer"),
        slow("fa", "conv"),
        slow("kp", "norm dropout"),
        slow("fa", "tagger"),
    ],
)
def test_feedback_through_the_transposed_weights_is_backprop(rule, net):
    """Also on a ResNet, whose shortcuts and batch norm the rules treat like any layer, through time and attention."""
    make, settings = jl.rules.ALL[rule], {"decay": 0.0} if rule == "kp" else {}
    net = RESNET if net == "resnet" else NETS[net]
    batch = image_batch() if net is RESNET else make_batch(net)
    rule, bp = make(net, SGD, **settings), jl.rules.bp(net, SGD)
    params = symmetric(drawn(rule, batch))
    (component,) = params.components
    only_forward = replace(
        component, weights={"forward": component.weights["forward"]}, opt={"forward": component.opt["forward"]}
    )
    theirs = run(bp, replace(params, components=(only_forward,)), [batch])
    assert_close(forward_weights(run(rule, params, [batch])), forward_weights(theirs))


def from_kernels(params, feedback):
    """The parameters with each stored feedback changed by a function of it and of the weight that it stands for."""
    (component,), (exact,) = params.components, symmetric(params).components
    return with_weights(
        params, "feedback", jax.tree.map(feedback, component.weights["feedback"], exact.weights["feedback"])
    )


@pytest.mark.slow
def test_fixed_magnitudes_of_the_weights_with_their_signs_are_backprop():
    """`frsf` with M = -W, on a ResNet."""
    batch = image_batch()
    frsf, bp = jl.rules.frsf(RESNET, SGD), jl.rules.bp(RESNET, SGD)
    params = from_kernels(drawn(frsf, batch), lambda m, w: -w)
    theirs = with_weights(drawn(bp, batch), "forward", forward_weights(params))
    assert_close(forward_weights(run(frsf, params, [batch])), forward_weights(run(bp, theirs, [batch])))


def test_uniform_sign_symmetry_is_backprop_if_all_weights_of_a_kernel_have_the_magnitude():
    net, batch = NETS["conv"], make_batch(NETS["conv"])
    usf, bp = jl.rules.usf(net, SGD), jl.rules.bp(net, SGD)
    params = drawn(usf, batch)
    equal = jax.tree.map(lambda w: 0.3 * jnp.sign(w) if w.ndim > 1 else w, forward_weights(params))
    params = from_kernels(with_weights(params, "forward", equal), lambda m, w: jnp.full_like(m, 0.3))
    theirs = with_weights(drawn(bp, batch), "forward", equal)
    assert_close(forward_weights(run(usf, params, [batch])), forward_weights(run(bp, theirs, [batch])))


def test_uniform_sign_symmetry_is_feedback_alignment_through_the_signs():
    net, batch = NETS["norm dropout"], make_batch(NETS["norm dropout"])
    usf, fa = jl.rules.usf(net, SGD), jl.rules.fa(net, SGD)
    params = jax.jit(usf.init)(jax.random.key(0), batch)
    signs = from_kernels(params, lambda m, w: m * jnp.sign(w))
    assert_close(forward_weights(run(usf, params, [batch])), forward_weights(run(fa, signs, [batch])))


@pytest.mark.slow
def test_magnitudes_that_are_always_drawn_alike_are_fixed_ones():
    """`brsf` with an initialiser that draws nothing, and `usf` with the same; three batches."""
    net, batches = NETS["norm dropout"], [make_batch(NETS["dense"], seed=seed) for seed in range(3)]
    alike = nn.initializers.constant(-0.3)
    rules = [make(net, SGD, feedback_init=alike) for make in (jl.rules.brsf, jl.rules.frsf, jl.rules.usf)]
    batchwise, *others = (
        forward_weights(run(r, jax.jit(r.init)(jax.random.key(0), batches[0]), batches)) for r in rules
    )
    for other in others:
        assert_close(batchwise, other)


def test_a_weight_mirror_that_does_not_learn_is_feedback_alignment():
    net, batches = NETS["dense"], [make_batch(NETS["dense"], seed=seed) for seed in range(3)]
    wm, fa = jl.rules.wm(net, SGD, mirror_rate=0.0), jl.rules.fa(net, SGD)
    params = drawn(wm, batches[0])
    after = run(wm, params, batches).components[0].weights
    (component,) = params.components
    alone = replace(params, components=(replace(component, opt={"forward": component.opt["forward"]}),))
    assert_close(after, run(fa, alone, batches).components[0].weights)


@pytest.mark.parametrize("net", ["dense", "conv", slow("transformer"), slow("lstm")])
def test_a_weight_mirror_shows_the_weights(net):
    """The expected value of what B learns from is W, also where an image ends; here the mean over many examples."""
    net = NETS[net]
    batch = make_batch(net, batch_size=4096)
    wm = jl.rules.wm(net, SGD)
    params = drawn(wm, batch)
    (lesson,) = jax.jit(wm.lessons)(params, batch)
    exact = symmetric(params).components[0].weights["feedback"]
    for mirrored, kernel in zip(*map(jax.tree.leaves, (lesson.grads["feedback"], exact)), strict=True):
        used = mirrored != 0  # a weight of a local layer that meets nothing but padding has no effect
        assert jnp.mean(used) > 0.4
        assert jnp.linalg.norm(jnp.where(used, -mirrored - kernel, 0)) < 0.1 * jnp.linalg.norm(kernel)


def test_kp_with_one_optimizer_for_both_is_kp_with_two_of_the_same():
    """By default B moves as W does; with an optimizer of its own it computes the same moves from the same gradient."""
    net, batches = NETS["dense"], [make_batch(NETS["dense"])] * 3
    decays = {"decay": 1e-3, "feedback_decay": 1e-2, "frozen": {1}}
    one, two = (jl.rules.kp(net, optax.adam(1e-2), **decays, **own) for own in ({}, {"feedback_tx": optax.adam(1e-2)}))
    params = drawn(two, batches[0])
    (start,) = params.components
    alone = drawn(one, batches[0])
    for role in ("forward", "feedback"):
        alone = with_weights(alone, role, start.weights[role])
    assert list(alone.components[0].opt) == ["forward"]
    expected = run(two, params, batches).components[0].weights
    assert_close(run(one, alone, batches).components[0].weights, expected)
    assert_close(expected["feedback"][1], start.weights["feedback"][1])  # frozen


def test_kolen_pollack_from_the_transposed_weights_with_equal_decay_stays_backprop():
    net = NETS["dense"]
    batches = [make_batch(net, seed=seed) for seed in range(10)]
    kp = jl.rules.kp(net, SGD, decay=0.01)
    params = run(kp, symmetric(drawn(kp, batches[0])), batches)
    after = symmetric(params)
    assert_close(params.components[0].weights["feedback"], after.components[0].weights["feedback"])


def test_kolen_pollack_brings_weights_and_feedback_together_by_the_decay():
    """Equation 11: W - B shrinks by the factor 1 - λ in each step, whatever the data."""
    net, decay, steps = NETS["dense"], 0.05, 10
    batches = [make_batch(net, seed=seed) for seed in range(steps)]
    kp = jl.rules.kp(net, SGD, decay=decay)
    before = drawn(kp, batches[0])
    after = run(kp, before, batches)

    def gap(params):
        ours, theirs = (p.components[0].weights["feedback"] for p in (params, symmetric(params)))
        return jax.tree.map(jnp.subtract, ours, theirs)

    assert_close(gap(after), jax.tree.map(lambda d: (1 - decay) ** steps * d, gap(before)))


def test_direct_feedback_with_one_hidden_layer_is_feedback_alignment():
    net = jl.models.mlp((7,), classes=3)
    batch = make_batch(NETS["dense"])
    dfa, fa = jl.rules.dfa(net, SGD), jl.rules.fa(net, SGD)
    direct = drawn(dfa, batch)
    through = drawn(fa, batch)
    through = with_weights(through, "forward", forward_weights(direct))
    through = with_weights(through, "feedback", ({}, {"linear": direct.components[0].weights["feedback"].T}))
    assert_close(forward_weights(run(dfa, direct, [batch])), forward_weights(run(fa, through, [batch])))


@pytest.mark.parametrize("block", ["embedding", "lstm", slow("encoder")])
def test_direct_feedback_of_one_sequence_block_through_the_transposed_head_is_backprop(block):
    """Both send every token the same error, divided by their number, as the readout takes the mean over the tokens."""
    block, of_tokens = {
        "embedding": (Embedding(7, 4), True),
        "lstm": (Recurrent(nn.LSTMCell(3), bidirectional=True), False),
        "encoder": (Encoder(2, 5), False),
    }[block]
    net = jl.Network((block,), Readout(3))
    ids, y = make_batch(NETS["lstm"])
    x = ids if of_tokens else jax.random.normal(jax.random.key(2), (8, 5, 4))
    dfa, bp = jl.rules.dfa(net, SGD), jl.rules.bp(net, SGD)
    direct, params = drawn(dfa, (x, y)), drawn(bp, (x, y))
    first, head = direct.components
    kernel = head.weights["forward"][0]["linear"]["kernel"]
    first = replace(first, weights=first.weights | {"feedback": kernel.T})
    theirs = with_weights(params, "forward", forward_weights(direct))
    ours = run(dfa, replace(direct, components=(first, head)), [(x, y)])
    assert_close(forward_weights(ours), forward_weights(run(bp, theirs, [(x, y)])))


def test_direct_kolen_pollack_with_one_hidden_layer_is_kolen_pollack():
    net = jl.models.mlp((7,), classes=3)
    batches = [make_batch(NETS["dense"], seed=seed) for seed in range(3)]
    dkp, kp = jl.rules.dkp(net, SGD, decay=0.01), jl.rules.kp(net, SGD, decay=0.01)
    direct = drawn(dkp, batches[0])
    through = with_weights(drawn(kp, batches[0]), "forward", forward_weights(direct))
    through = with_weights(through, "feedback", ({}, {"linear": direct.components[0].weights["feedback"].T}))
    direct, through = run(dkp, direct, batches), run(kp, through, batches)
    assert_close(forward_weights(direct), forward_weights(through))
    assert_close(direct.components[0].weights["feedback"].T, through.components[0].weights["feedback"][1]["linear"])


def test_target_propagation_with_the_transposed_jacobian_is_backprop():
    """Bartunov et al., section 5.6: with g(v) = (dh_{l+1}/dh_l)ᵀ v the gradient of ½‖h_l - ĥ_l‖² is the loss's."""
    net, (x, y) = NETS["dense"], make_batch(NETS["dense"])
    params = drawn(jl.rules.bp(net, SGD), (x, y))
    stats, key = jl.rule.forward_stats(params), jax.random.key(0)

    def f(i, w, h):
        return apply_layer(net.layers[i], w, stats[i], h, key)[0]

    @jax.jit
    def local(weights):
        h = [x]
        for i, w in enumerate(weights):
            h.append(f(i, w, h[i]))
        # Targets are per example, without the mean over the batch.
        target = {len(h) - 1: h[-1] - len(x) * net.loss.error(h[-1], y)}
        for i in reversed(range(1, len(weights))):
            _, transposed_jacobian = jax.vjp(lambda below, i=i: f(i, weights[i], below), h[i])
            target[i] = difference(lambda v, g=transposed_jacobian: g(v)[0], h[i], h[i + 1], target[i + 1])
        return tuple(
            jax.grad(lambda w, i=i: squared_distance(f(i, w, h[i]), target[i + 1]) / 2)(w)
            for i, w in enumerate(weights)
        )

    (lesson,) = jax.jit(jl.rules.bp(net, SGD).lessons)(params, (x, y))
    assert_close(local(forward_weights(params)), lesson.grads["forward"])


def test_sdtp_on_a_linear_network_with_transposed_inverses_is_backprop():
    """The same by the rule itself: without activations the transposed Jacobian is the transposed weights."""
    net = jl.models.mlp((7, 6, 5), classes=3, activation=jl.layers.identity, loss=jl.squared_error)
    batch = make_batch(NETS["dense"])
    rule, bp = jl.rules.sdtp(net, SGD, noise=0.0), jl.rules.bp(net, SGD)
    params = drawn(rule, batch)
    transposed = tuple(
        replace(
            c,
            weights=c.weights
            | {"inverse": {**c.weights["inverse"], "kernel": c.weights["forward"][0]["linear"]["kernel"]}},
        )
        for c in params.components[1:]
    )
    params = replace(params, components=(params.components[0], *transposed))
    theirs = with_weights(drawn(bp, batch), "forward", forward_weights(params))
    (expected,) = jax.jit(bp.lessons)(theirs, batch)
    lessons = jax.jit(rule.lessons)(params, batch)
    halves = tuple(jax.tree.map(lambda g: g / 2, lesson.grads["forward"][0]) for lesson in lessons[:-1])
    assert_close(halves, expected.grads["forward"][:-1])
    assert_close(lessons[-1].grads["forward"][0], expected.grads["forward"][-1])


@pytest.mark.parametrize("net", [slow("dense"), "conv"])
def test_hybrid_targets_without_the_learned_inverses_are_backprop(net):
    """The same by the rule itself: g_bp alone. α is a half because the local losses lack the factor 1/2."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax's batch norm mixes float32 and float64
        net, batch = NETS[net], jax.tree.map(lambda leaf: leaf.astype(jnp.float64), make_batch(NETS[net]))
        rule, bp = jl.rules.dtp(net, SGD, alpha=0.5, hybrid=1.0), jl.rules.bp(net, SGD)
        params = drawn(rule, batch)
        theirs = with_weights(drawn(bp, batch), "forward", forward_weights(params))
        (expected,) = jax.jit(bp.lessons)(theirs, batch)
        ours = tuple(lesson.grads["forward"][0] for lesson in jax.jit(rule.lessons)(params, batch))
        close = partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-13)
        jax.tree.map(close, ours, expected.grads["forward"])


def test_hybrid_targets_with_the_learned_inverses_alone_are_those_of_dtp():
    """Bit for bit."""
    net, batches = NETS["conv"], [make_batch(NETS["conv"], seed=seed) for seed in range(3)]
    plain, hybrid = jl.rules.dtp(net, SGD), jl.rules.dtp(net, SGD, hybrid=0.0)
    params = drawn(plain, batches[0])
    after, expected = (forward_weights(run(rule, params, batches)) for rule in (hybrid, plain))
    jax.tree.map(np.testing.assert_array_equal, after, expected)


def test_associated_learning_with_one_component_is_two_separate_problems():
    """f and b fit the code of y, and g and h are an autoencoder of y; here each of the two is trained by itself."""
    net = jl.models.mlp((7,), classes=3)
    x, y = make_batch(NETS["dense"])
    rule = jl.rules.al(net, SGD, autoencoder_tx=optax.sgd(0.3), codes=jl.codes.paper, width=6)
    params = drawn(rule, (x, y))
    after = run(rule, params, [(x, y)])
    weights = params.components[0].weights
    code, bridge = jl.codes.one_layer, jl.codes.hidden_layer

    def coder(module, w, v):
        return apply_layer(module, w, {}, v)[0]

    def fit(w):
        s = coder(net.blocks[0], w["forward"][0], x)
        return jnp.mean((coder(bridge(6), w["bridge"], s) - coder(code(6), weights["encoder"], y)) ** 2)

    def autoencode(w):
        return jnp.mean((coder(code(3), w["decoder"], coder(code(6), w["encoder"], y)) - y) ** 2)

    first = {role: weights[role] for role in ("forward", "bridge")}
    second = {role: weights[role] for role in ("encoder", "decoder")}
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, first, jax.jit(jax.grad(fit))(first))
    expected |= jax.tree.map(lambda w, g: w - 0.3 * g, second, jax.jit(jax.grad(autoencode))(second))
    assert_close(dict(after.components[0].weights), expected)


def test_the_prediction_loss_of_a_single_block_is_backprop_through_its_head():
    """With β = 0, the block and its own head learn as a network of the two; the network's head learns beside them."""
    net, batches = jl.models.mlp((7,), classes=3), [make_batch(NETS["dense"], seed=seed) for seed in range(3)]
    pred, bp = jl.rules.predsim(net, SGD, beta=0.0), jl.rules.bp(net, SGD)
    params = drawn(pred, batches[0])
    assert params.components[0].weights.keys() == {"forward", "prediction"}

    def alone(params):
        return *params.components[0].weights["forward"], params.components[0].weights["prediction"]

    theirs = with_weights(drawn(bp, batches[0]), "forward", alone(params))
    assert_close(alone(run(pred, params, batches)), forward_weights(run(bp, theirs, batches)))


def test_the_local_losses_of_a_block_add_up():
    """What a block learns from both is (1 - β) of what it learns by β = 0, and β of what it learns by β = 1."""
    first, _, last = NETS["conv"].blocks
    net, batch = NETS["conv"]._replace(blocks=(first, last)), make_batch(NETS["conv"])
    both, pred, sim = (jl.rules.predsim(net, SGD, beta=beta) for beta in (0.3, 0.0, 1.0))
    params = drawn(both, batch)

    def lessons(rule, *roles):
        components = (
            replace(c, weights={role: c.weights[role] for role in roles}, opt={role: c.opt[role] for role in roles})
            for c in params.components[:-1]
        )
        found = jax.jit(rule.lessons)(replace(params, components=(*components, params.components[-1])), batch)
        return [lesson.grads for lesson in found[:-1]]

    by_pred, by_sim = lessons(pred, "forward", "prediction"), lessons(sim, "forward", "similarity")
    for grads, p, s in zip(lessons(both, "forward", "prediction", "similarity"), by_pred, by_sim, strict=True):
        assert_close(grads["forward"], jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, p["forward"], s["forward"]))
        assert_close(grads["prediction"], jax.tree.map(lambda a: 0.7 * a, p["prediction"]))
        assert_close(grads["similarity"], jax.tree.map(lambda a: 0.3 * a, s["similarity"]))


@pytest.mark.parametrize("net", ["dense", slow("conv")])
def test_decoupled_greedy_learning_in_one_component_is_backprop(net):
    batches = [make_batch(NETS[net], seed=seed) for seed in range(3)]
    dgl, bp = jl.rules.dgl(NETS[net], SGD, components=1), jl.rules.bp(NETS[net], SGD)
    params = drawn(dgl, batches[0])
    theirs = with_weights(drawn(bp, batches[0]), "forward", forward_weights(params))
    assert_close(forward_weights(run(dgl, params, batches)), forward_weights(run(bp, theirs, batches)))


class Goodness(nn.Module):
    """A block that reads a labelled input, and how far its goodness is above the threshold."""

    block: nn.Module

    @nn.compact
    def __call__(self, a):
        a = self.block(a / jnp.sqrt(jnp.mean(jnp.square(a), 1, keepdims=True)))
        return jnp.sum(jnp.square(a), 1, keepdims=True) - 0.5 * a.shape[1]


def test_a_block_of_forward_forward_is_logistic_regression_on_its_goodness():
    """With two classes, the wrong label is the other one; backpropagation trains the same block on both streams."""
    block, (x, y) = jl.layers.dense(7), make_batch(NETS["dense"])
    y = jnp.stack([y[:, 0], 1 - y[:, 0]], 1)
    logistic = jl.Loss(lambda scores, right: 2 * jnp.log1p(jnp.exp(-scores * right))[:, 0], lambda scores: scores)
    bp = jl.rules.bp(jl.Network((), Goodness(block), logistic), SGD)
    ff = jl.rules.ff(jl.Network((block,), jl.layers.Head(2)), SGD)
    both = jnp.concatenate([jnp.concatenate([label, x], 1) for label in (y, 1 - y)])
    batch = both, jnp.repeat(jnp.array([1.0, -1.0]), len(x))[:, None]
    params = drawn(ff, (x, y))
    (weights,) = forward_weights(params)
    theirs = with_weights(drawn(bp, batch), "forward", ({"block": weights},))
    (learned,) = forward_weights(run(bp, theirs, [batch] * 3))
    assert_close(forward_weights(run(ff, params, [(x, y)] * 3)), (learned["block"],))


def test_without_feedback_pepita_trains_the_head_alone():
    """Nothing changes in the second pass, so the blocks do not learn, and the head learns as in backpropagation."""
    net, batches = NETS["conv"], [make_batch(NETS["conv"], seed=seed) for seed in range(3)]
    rule, bp = jl.rules.pepita(net, SGD), jl.rules.bp(net, SGD, frozen=range(3))
    params = drawn(rule, batches[0])
    first, *others = params.components
    silent = replace(first, weights=first.weights | {"feedback": np.zeros_like(first.weights["feedback"])})
    params = replace(params, components=(silent, *others))
    theirs = with_weights(drawn(bp, batches[0]), "forward", forward_weights(params))
    assert_close(forward_weights(run(rule, params, batches)), forward_weights(run(bp, theirs, batches)))


@pytest.mark.parametrize("net", ["dense", slow("conv")])
def test_contrastive_learning_in_one_component_is_backprop_of_the_contrast(net):
    """The projection is the head of a network whose loss, of each example, compares it with all of the batch."""

    def contrast(codes, y):
        v = codes / jnp.linalg.norm(codes, axis=1, keepdims=True)
        others, alike = 1 - jnp.eye(len(v)), y @ y.T
        strength = jnp.exp(v @ v.T / 0.5)
        share = strength / jnp.sum(strength * others, axis=1, keepdims=True)
        return -jnp.sum(alike * others * jnp.log(share), axis=1) / jnp.sum(alike, axis=1)

    batches = [make_batch(NETS[net], seed=seed) for seed in range(3)]
    scpl = jl.rules.scpl(NETS[net], SGD, components=1, temperature=0.5, hidden=6, width=3)
    bp = jl.rules.bp(jl.Network(NETS[net].blocks, Projection(6, 3), jl.Loss(contrast, lambda codes: codes)), SGD)
    params = drawn(scpl, batches[0])

    def learned(params):
        return *params.components[0].weights["forward"], params.components[0].weights["projection"]

    theirs = with_weights(drawn(bp, batches[0]), "forward", learned(params))
    assert_close(learned(run(scpl, params, batches)), forward_weights(run(bp, theirs, batches)))
