"""Every rule agrees with a NumPy reference of its paper's equations, after one step and after ten.

The reference (reference.py) was written from the papers alone. All that a rule keeps is compared: weights, feedback,
inverses, local losses. The values are of about one. The tolerance is 1e-10 in float64, far above rounding and far below
any real difference, and 1e-5 in float32, about a hundred roundings.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import reference_local
from helpers import FAMILIES, drawn, slow

import jaxlocal as jl
from jaxlocal.layers import Head, conv, dense, identity
from jaxlocal.network import apply_layer, apply_layers
from jaxlocal.rule import forward_stats, forward_weights

RATE, SECOND_RATE, DECAY, ALPHA, NOISE, Z_UNITS = 0.1, 0.04, 0.01, 0.3, 0.2, 9
BETA, INPUTS, THRESHOLD, TEMPERATURE = 0.7, 20, 0.6, 0.4
CLASSES, BATCH = 3, 8
PROJECTION = {"hidden": nn.relu, "linear": identity}
ACTIVATIONS = {jnp.tanh: "tanh", nn.relu: "relu", nn.elu: "elu", nn.sigmoid: "sigmoid", identity: "linear"}


def dense_net(activation, loss=jl.cross_entropy, **options):
    blocks = dense(7, activation, **options), dense(6, activation, **options), dense(5, activation)
    return jl.Network(blocks, Head(CLASSES), loss)


def conv_net(activation, pool_input=1, **options):
    """A convolution with a stride if nothing is pooled: target propagation has no inverse of pooling."""
    blocks = (
        conv(3, 3, 1 if "pool" in options else 2, activation, **options),
        conv(4, 3, 1, activation),
        dense(5, activation, pool_input=pool_input),
    )
    return jl.Network(blocks, Head(CLASSES))


NETS = {
    "dense tanh": (dense_net(jnp.tanh), (4,)),
    "dense norm": (dense_net(nn.relu, norm=True), (4,)),
    "dense real": (dense_net(nn.elu, jl.squared_error), (4,)),
    "conv strided": (conv_net(jnp.tanh, norm=True), (6, 6, 2)),
    "conv pooled": (conv_net(nn.relu, norm=True, pool=2, pool_input=2), (8, 8, 2)),
}


def as_layer(layer, weights):
    """A layer of the library in the form that the reference takes."""
    linear = getattr(layer, "linear", None)
    view = {"kind": "dense", "W": weights["linear"]["kernel"], "b": weights["linear"]["bias"]}
    if isinstance(linear, nn.Conv):
        view |= {"kind": "conv", "stride": linear.strides}
    if "norm" in weights:
        view |= {"gamma": weights["norm"]["scale"], "beta": weights["norm"]["bias"]}
    view |= {name: size for name in ("pool", "pool_input") if (size := getattr(layer, name, 1)) > 1}
    return view | {"act": ACTIVATIONS[getattr(layer, "activation", identity)]}


def as_net(net, params, x):
    return {"net": [as_layer(*pair) for pair in zip(net.layers, forward_weights(params), strict=True)]}


def as_feedback_through(net, params, x):
    """FA and its relatives: for each layer but the first a B of the shape of W, or one magnitude."""
    feedback = [of_layer.get("linear") for of_layer in params.components[0].weights["feedback"]]
    return as_net(net, params, x) | {"feedback": feedback}


def as_feedback_direct(net, params, x):
    """DFA, DRTP and DKP: for each block a B from the output to it."""
    return as_net(net, params, x) | {"feedback": [c.weights["feedback"] for c in params.components[:-1]]}


def as_modulated(net, params, x):
    """PEPITA: the feedback from the output to the input."""
    return as_net(net, params, x) | {"feedback": params.components[0].weights["feedback"]}


def inputs_of_layers(net, params, x):
    h = [x]
    for layer, c in zip(net.blocks, params.components, strict=False):
        h.append(apply_layer(layer, c.weights["forward"][0], c.stats[0], h[-1])[0])
    return h


def as_inverses(net, params, x):
    """Target propagation: an inverse of each layer but the first, and the fixed features of AO-SDTP."""
    inverses = []
    inputs = jax.eval_shape(partial(inputs_of_layers, net), params, x)
    for i, (h, c) in enumerate(zip(inputs, params.components, strict=True)):
        inverses.append(None)
        if weights := c.weights.get("inverse"):
            act = ACTIVATIONS[net.layers[i - 1].activation]
            inverses[-1] = {"W": weights["kernel"], "b": weights["bias"], "act": act, "in_shape": h.shape[1:]}
            if weights["kernel"].ndim == 4:
                inverses[-1]["stride"] = net.layers[i].linear.strides
            elif h.ndim == 2:
                del inverses[-1]["in_shape"]
    view = as_net(net, params, x) | {"inverses": inverses}
    if z := params.components[-1].weights.get("auxiliary"):
        view["aux"] = {"W": z["kernel"], "b": z["bias"], "act": "tanh"}
    return view


def as_components(net, params, x):
    """AL: f, b, g and h of each component."""

    def coder(weights):
        layers = [weights[name] for name in sorted(weights) if "layers" in name] or [weights]
        return [as_layer(dense(1, nn.sigmoid), layer) for layer in layers]

    components, blocks = [], iter(net.blocks)
    for c in params.components:
        f = [as_layer(next(blocks), weights) for weights in c.weights["forward"]]
        b, g, h = (coder(c.weights[role]) for role in ("bridge", "encoder", "decoder"))
        if net.loss is jl.squared_error and not components:
            h[-1]["act"] = "linear"
        components.append({"f": f, "b": b, "g": g, "h": h})
    return {"components": components}


def as_local_losses(net, params, x):
    """Local losses: a head and a map for each block."""
    heads, maps = [], []
    for c in params.components[:-1]:
        heads.append(as_layer(net.head, c.weights["prediction"]))
        kernel = c.weights["similarity"]["kernel"]
        linear = {"kind": "conv", "stride": 1} if kernel.ndim == 4 else {"kind": "dense"}
        maps.append(linear | {"W": kernel, "b": np.zeros(kernel.shape[-1]), "act": "linear"})
    return as_net(net, params, x) | {"heads": heads, "maps": maps}


def as_decoupled(net, params, x):
    """Decoupled greedy learning: the layers of each component, and its classifier."""
    layers = iter(net.layers)
    components = [[as_layer(next(layers), w) for w in c.weights["forward"]] for c in params.components]
    classifiers = [
        [as_layer(dense(1, nn.relu if "hidden" in name else identity), {"linear": w}) for name, w in sorted(c.items())]
        for c in (component.weights["classifier"] for component in params.components[:-1])
    ]
    return {"components": components, "classifiers": classifiers}


def as_projected(net, params, x):
    """Contrastive learning: the layers of each component, and its projection; the head has none."""
    layers = iter(net.layers)
    components = [[as_layer(next(layers), w) for w in c.weights["forward"]] for c in params.components]
    projections = [
        [as_layer(dense(1, act), {"linear": c.weights["projection"][name]}) for name, act in PROJECTION.items()]
        for c in params.components[:-1]
    ]
    return {"components": components, "projections": projections}


def as_blocks(net, params, x):
    """Forward-Forward: the blocks, without a head."""
    return {"net": [as_layer(*pair) for pair in zip(net.blocks, forward_weights(params), strict=True)]}


# The reference's step of each rule: (state, x, y, loss, noise) -> (state, local losses in the order of components).


def step_bp(s, x, y, loss, noise):
    net, value = reference.bp_step(s["net"], x, y, RATE, loss)
    return {"net": net}, [value]


def step_fa(s, x, y, loss, noise):
    net, value = reference.fa_step(s["net"], s["feedback"], x, y, RATE, loss)
    return s | {"net": net}, [value]


def step_kp(s, x, y, loss, noise):
    net, feedback, value = reference.kp_step(s["net"], s["feedback"], x, y, RATE, SECOND_RATE, DECAY, loss)
    return {"net": net, "feedback": [None, *feedback[1:]]}, [value]


def step_sign_symmetry(s, x, y, loss, magnitudes):
    """The magnitudes are drawn for the batch, or else are those of the state."""
    net, value = reference.sign_symmetry_step(s["net"], magnitudes or s["feedback"], x, y, RATE, loss)
    return s | {"net": net}, [value]


def step_wm(s, x, y, loss, noise):
    net, feedback, value = reference.wm_step(s["net"], s["feedback"], noise, x, y, RATE, SECOND_RATE, DECAY, loss)
    return {"net": net, "feedback": feedback}, [value]


def step_dfa(s, x, y, loss, noise):
    net, value = reference.dfa_step(s["net"], s["feedback"], x, y, RATE, loss)
    return s | {"net": net}, [value]


def step_drtp(s, x, y, loss, noise):
    net, value = reference.drtp_step(s["net"], s["feedback"], x, y, RATE, loss)
    return s | {"net": net}, [value]


def step_pepita(s, x, y, loss, noise):
    net, value = reference.pepita_step(s["net"], s["feedback"], x, y, RATE, loss)
    return s | {"net": net}, [value]


def step_dkp(s, x, y, loss, noise):
    net, feedback, value = reference.dkp_step(s["net"], s["feedback"], x, y, RATE, SECOND_RATE, DECAY, loss)
    return {"net": net, "feedback": feedback}, [value]


def targets(step, *settings, **options):
    def advance(s, x, y, loss, noise):
        aux = [s["aux"]] if "aux" in s else []
        arguments = s["net"], s["inverses"], x, y, RATE, SECOND_RATE, noise, *settings, *aux
        net, inverses, losses = step(*arguments, loss=loss, **options)
        terms = zip(losses["forward"], losses["inverse"], strict=True)
        return s | {"net": net, "inverses": inverses}, [f + (i or 0) for f, i in terms]

    return advance


def step_al(s, x, y, loss, noise, cells=None, label_loss=None):
    if label_loss == "ce":
        s["components"][0]["h"][-1]["act"] = "linear"  # it gives logits
    components, losses = reference.al_step(s["components"], x, y, RATE, SECOND_RATE, cells, label_loss)
    return {"components": components}, [sum(pair) for pair in losses]


def step_predsim(s, x, y, loss, noise):
    arguments = s["net"], s["heads"], s["maps"], x, y, RATE, BETA, INPUTS, loss
    net, heads, maps, losses = reference_local.predsim_step(*arguments)
    return {"net": net, "heads": heads, "maps": maps}, losses


def step_dgl(s, x, y, loss, noise):
    components, classifiers, losses = reference_local.dgl_step(s["components"], s["classifiers"], x, y, RATE, loss)
    return {"components": components, "classifiers": classifiers}, losses


def step_scpl(s, x, y, loss, noise):
    arguments = s["components"], s["projections"], x, y, RATE, TEMPERATURE
    components, projections, losses = reference_local.scpl_step(*arguments)
    return {"components": components, "projections": projections}, losses


def step_ff(s, x, y, loss, shifts):
    wrong = np.array([np.roll(label, int(shift)) for label, shift in zip(y, shifts, strict=True)])
    net, losses = reference_local.ff_step(s["net"], x, y, wrong, RATE, THRESHOLD)
    return {"net": net}, losses


TARGET_PROP = ("tp", "dtp", "sdtp", "ao_sdtp")
INVERSE = {"inverse_tx": optax.sgd(SECOND_RATE), "noise": NOISE}
MAGNITUDES = nn.initializers.normal(0.5)
LEARNT = {"feedback_tx": optax.sgd(SECOND_RATE), "decay": DECAY}
CASES = {  # rule -> settings, view of our parameters, step of the reference
    "bp": ({}, as_net, step_bp),
    "al": ({"autoencoder_tx": optax.sgd(SECOND_RATE), "codes": jl.codes.paper, "width": 6}, as_components, step_al),
    "tp": (INVERSE, as_inverses, targets(reference.tp_step, noise_preserving=True)),
    "dtp": (INVERSE | {"alpha": ALPHA}, as_inverses, targets(reference.dtp_step, ALPHA)),
    "sdtp": (INVERSE, as_inverses, targets(reference.sdtp_step)),
    "ao_sdtp": (INVERSE | {"auxiliary": Z_UNITS}, as_inverses, targets(reference.ao_sdtp_step)),
    "fa": ({}, as_feedback_through, step_fa),
    "kp": (LEARNT, as_feedback_through, step_kp),
    "usf": ({}, as_feedback_through, step_sign_symmetry),
    "brsf": ({"feedback_init": MAGNITUDES}, as_net, step_sign_symmetry),
    "frsf": ({}, as_feedback_through, step_sign_symmetry),
    "wm": ({"mirror_rate": SECOND_RATE, "mirror_decay": DECAY}, as_feedback_through, step_wm),
    "dfa": ({}, as_feedback_direct, step_dfa),
    "drtp": ({}, as_feedback_direct, step_drtp),
    "dkp": (LEARNT, as_feedback_direct, step_dkp),
    "pepita": ({}, as_modulated, step_pepita),
    "predsim": ({"beta": BETA, "inputs": INPUTS}, as_local_losses, step_predsim),
    "dgl": ({"components": 2, "hidden": 2}, as_decoupled, step_dgl),
    "scpl": (
        {"components": 2, "temperature": TEMPERATURE, "hidden": 9, "width": 6},
        as_projected,
        step_scpl,
    ),
    "ff": ({"threshold": THRESHOLD}, as_blocks, step_ff),
}


def batches(net, shape, dtype, steps=10):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x, labels, real = (
            rng.normal(size=(BATCH, *shape)),
            rng.integers(CLASSES, size=BATCH),
            rng.normal(size=(BATCH, CLASSES)),
        )
        y = real if net.loss is jl.squared_error else np.eye(CLASSES)[labels]
        yield jax.device_put((x.astype(dtype), y.astype(dtype)))


def cast(params, dtype):
    """The real numbers in this type, by NumPy: JAX would compile a program for each shape."""

    def one(a):
        return jax.device_put(np.asarray(a, dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(one, params)


def arrays(view):
    """The arrays of a view in float64 by path, without its settings."""
    leaves = jax.tree_util.tree_leaves_with_path(view)
    return {jax.tree_util.keystr(path): np.asarray(a, np.float64) for path, a in leaves if hasattr(a, "dtype")}


def in_numpy(view):
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if hasattr(a, "dtype") else a, view)


def assert_agree(ours, theirs, tolerance):
    ours, theirs = arrays(ours), arrays(theirs)
    assert ours.keys() == theirs.keys()
    for path, a in ours.items():
        np.testing.assert_allclose(a, theirs[path], rtol=tolerance, atol=tolerance, err_msg=path)


def run_beside_reference(name, net, shape, dtype, tolerance, settings=None, advance=None):
    given, view, reference_step = CASES[name]
    rule = jl.rules.ALL[name](net, optax.sgd(RATE), **given | (settings or {}))
    loss = "mse" if net.loss is jl.squared_error else "ce"
    first, *_ = batches(net, shape, jnp.float32, 1)
    params = cast(drawn(rule, first), dtype)
    state = in_numpy(view(net, params, first[0].astype(dtype)))
    step = jax.jit(rule.step)
    for x, y in batches(net, shape, dtype):
        noise = DRAWN[name](net, params, x) if name in DRAWN else None
        params, info = step(params, (x, y))
        state, losses = (advance or reference_step)(state, *in_numpy((x, y)), loss, in_numpy(noise))
        if params.components[0].count in (1, 10):
            assert_agree(view(net, params, x), state, tolerance)
        # For rules with feedback the reference has the loss of the task only.
        np.testing.assert_allclose(info.losses[-len(losses) :], losses, rtol=tolerance, atol=tolerance)


@partial(jax.jit, static_argnums=0)
def noise_of(net, params, x):
    """The noise on the input of each layer, drawn with the second half of its component's key for this batch."""
    keys = [jax.random.split(jax.random.fold_in(c.key, c.count))[1] for c in params.components]
    h = inputs_of_layers(net, params, x)
    return [NOISE * jax.random.normal(key, a.shape, a.dtype) for key, a in zip(keys, h, strict=True)]


def for_each_kernel(net, params, draw):
    """`draw(number, kernel, key)` for all layers but the first, with the keys of the rules that draw for each B."""
    (component,) = params.components
    key = jax.random.fold_in(jax.random.fold_in(component.key, component.count), len(net.layers))
    kernels = [weights["linear"]["kernel"] for weights in forward_weights(params)[1:]]
    keys = jax.random.split(key, len(kernels))
    return [None, *(draw(i, *pair) for i, pair in enumerate(zip(kernels, keys, strict=True), 1))]


@partial(jax.jit, static_argnums=0)
def magnitudes_of(net, params, x):
    """The magnitudes that are drawn for a batch."""
    return for_each_kernel(net, params, lambda i, kernel, key: MAGNITUDES(key, kernel.shape, kernel.dtype))


@partial(jax.jit, static_argnums=0)
def mirror_noise_of(net, params, x):
    """The noise that takes the place of the input of each linear map. Dense maps have vectors."""

    def draw(i, kernel, key):
        below, _ = apply_layers(net.layers[:i], forward_weights(params)[:i], forward_stats(params)[:i], x)
        shape = below.shape if kernel.ndim == 4 else (len(x), len(kernel))
        return jax.random.normal(key, shape, kernel.dtype)

    return for_each_kernel(net, params, draw)


@partial(jax.jit, static_argnums=0)
def label_shifts_of(net, params, x):
    """By how much the number of each example's wrong class is larger than that of its right one, modulo all classes."""
    component = params.components[0]
    key = jax.random.fold_in(jax.random.fold_in(component.key, component.count), len(net.layers))
    return jax.random.randint(key, (len(x),), 1, CLASSES)


DRAWN = dict.fromkeys(TARGET_PROP, noise_of)
DRAWN |= {"brsf": magnitudes_of, "wm": mirror_noise_of, "ff": label_shifts_of}
BESIDE_FA = ("usf", "brsf", "frsf", "wm")  # they change B and nothing else, so that two nets suffice
# Which rules are asked on a net of which kind; the others take it by code that they share with one of these.
ON_NETS = {
    "dense tanh": tuple(CASES),
    "dense norm": ("bp", "predsim", "scpl", "ff", "pepita"),
    "dense real": ("bp", "al", "tp", "sdtp", "drtp", "dkp", "predsim", "dgl"),
    "conv pooled": tuple(name for name in CASES if name not in (*TARGET_PROP, *BESIDE_FA, "pepita", "dfa", "drtp")),
    "conv strided": tuple(CASES),
}
CASES_BY_NET = [(name, net) for net in NETS for name in ON_NETS[net]]


# Quick are every rule on a dense net, and one rule of each kind on images: with pooling where it can, and batch norm.
ON_IMAGES = "bp", "al", "kp", "dkp"
OTHERS = ("dtp", "conv strided"), ("dkp", "dense real")


def quick(name, net):
    return net == "dense tanh" or (net == "conv pooled" and name in ON_IMAGES) or (name, net) in OTHERS


@pytest.mark.parametrize(("name", "net"), [case if quick(*case) else slow(*case) for case in CASES_BY_NET])
def test_float64(name, net):
    has_norm = any(block.norm for block in NETS[net][0].blocks)
    promotion = "standard" if has_norm else "strict"  # Flax's batch norm mixes float32 and float64
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        run_beside_reference(name, *NETS[net], jnp.float64, 1e-10)


# The equations are those of float64. What can differ are casts, alike in the rules of a file, and the convolutions that
# are written for speed.
IN_FLOAT32 = [
    *((name, "dense tanh") for name in FAMILIES if name in CASES),
    *((name, "conv pooled") for name in ("bp", "al", "kp")),
    ("dtp", "conv strided"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "net"), IN_FLOAT32)
def test_float32(name, net):
    run_beside_reference(name, *NETS[net], jnp.float32, 1e-5)


SQUARED = jl.codes.lean._replace(label_loss=None)
LEAN = {"codes": SQUARED, "width": 6, "bridge": jl.codes.pooled(jl.codes.one_layer, 2)}


OTHER_CODES = {
    "lean, squared": ("dense tanh", {"codes": SQUARED}),
    "lean conv": ("conv pooled", LEAN | {"codes": jl.codes.lean}),
    "lean conv, squared": ("conv strided", LEAN),
    "lean conv, two components, squared": ("conv pooled", LEAN | {"components": 2}),
    "by class": ("dense tanh", {"by_class": True}),
    "lean conv, by class": ("conv strided", LEAN | {"by_class": True}),
    "labels": ("dense tanh", {"label_loss": jl.cross_entropy}),
    "labels, by class": ("dense tanh", {"label_loss": jl.cross_entropy, "by_class": True}),
}
# Each choice is in one of the quick ones; the others are two choices at once.
SLOW_CODES = "lean, squared", "lean conv, squared", "lean conv, by class", "labels, by class"


@pytest.mark.parametrize("case", [slow(case) if case in SLOW_CODES else case for case in OTHER_CODES])
def test_other_codes_of_associated_learning(case):
    """The same reference, example by example, for lean codes, and for codes that are computed once for each class."""
    net, settings = OTHER_CODES[case]
    cells = 2 if "bridge" in settings else None
    promotion = "standard" if net.startswith("conv") else "strict"  # Flax's batch norm mixes float32 and float64
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        of_labels = "label_loss" in settings or settings.get("codes") == jl.codes.lean
        step = partial(step_al, cells=cells, label_loss="ce" if of_labels else None)
        run_beside_reference("al", *NETS[net], jnp.float64, 1e-10, settings, step)


@pytest.mark.parametrize("name", ["tp", "dtp", slow("sdtp"), slow("ao_sdtp")])
def test_the_other_inverse_loss(name):
    """Each rule with the inverse loss that is not its default: denoising or noise-preserving."""
    other = name in ("sdtp", "ao_sdtp")
    settings = (ALPHA,) if name == "dtp" else ()
    advance = targets(getattr(reference, f"{name}_step"), *settings, noise_preserving=other)
    with jax.enable_x64(True):
        run_beside_reference(name, *NETS["dense tanh"], jnp.float64, 1e-10, {"noise_preserving": other}, advance)


@pytest.mark.parametrize("net", ["dense tanh", slow("conv strided")])
def test_hybrid_targets(net):
    """Bartunov et al., section 5.6: through the learned inverse and the transposed derivative of a layer, mixed."""
    promotion = "standard" if net.startswith("conv") else "strict"  # Flax's batch norm mixes float32 and float64
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        advance = targets(reference.dtp_step, ALPHA, 0.3)
        run_beside_reference("dtp", *NETS[net], jnp.float64, 1e-10, {"hybrid": 0.3}, advance)


@pytest.mark.parametrize("name", ["dtp", slow("tp"), slow("sdtp"), slow("ao_sdtp")])
def test_inverses_and_layers_take_turns(name):
    """Three steps train the inverses, the next three the layers, and so on."""
    reference_step = getattr(reference, f"{name}_step")
    settings = (ALPHA,) if name == "dtp" else ()
    preserving = {"noise_preserving": True} if name == "tp" else {}
    count = 0

    def advance(*arguments):
        nonlocal count
        inverse_turn = count // 3 % 2 == 0
        count += 1
        turn = targets(
            reference_step, *settings, **preserving, train_inverse=inverse_turn, train_forward=not inverse_turn
        )
        return turn(*arguments)

    with jax.enable_x64(True):
        run_beside_reference(name, *NETS["dense tanh"], jnp.float64, 1e-10, {"alternate": 3}, advance)
