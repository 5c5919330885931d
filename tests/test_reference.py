"""The NumPy reference against central differences (float64), brute-force loops and the papers' identities."""

import copy
import functools
import itertools

import numpy as np
import pytest
import reference as ref

ACTS = ["tanh", "relu", "elu", "sigmoid", "linear"]
B, C = 5, 3


# ------------------------------------------------------------------------------------------------- helpers
def rand(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def one_hot(seed=3):
    return np.eye(C)[np.random.default_rng(seed).integers(0, C, B)]


def dense(seed, n_in, n_out, act="tanh", bn=False):
    layer = {"kind": "dense", "W": rand(seed, n_in, n_out) / np.sqrt(n_in), "b": 0.1 * rand(seed + 1, n_out)}
    return {**layer, "act": act, **(bn_keys(seed, n_out) if bn else {})}


def conv(seed, cin, cout, k=(3, 3), stride=1, act="tanh", bn=False, pool=None):
    W = rand(seed, *k, cin, cout) / np.sqrt(k[0] * k[1] * cin)
    layer = {"kind": "conv", "W": W, "b": 0.1 * rand(seed + 1, cout), "stride": stride, "act": act}
    return {**layer, **(bn_keys(seed, cout) if bn else {}), **({"pool": pool} if pool else {})}


def bn_keys(seed, n):
    return {"gamma": 1 + 0.3 * rand(seed + 2, n), "beta": 0.3 * rand(seed + 3, n)}


def numeric(f, p, h=1e-6):
    """Central differences of the scalar f by every entry of p."""
    p, g = p.copy(), np.zeros_like(p)
    for i in np.ndindex(p.shape):
        old = p[i]
        p[i] = old + h
        up = f(p)
        p[i] = old - h
        g[i] = (up - f(p)) / (2 * h)
        p[i] = old
    return g


def slopes(value, array, h=1e-6):
    """Unit vectors in random directions, and the slope of value(array) along each: any wrong entry shows in all."""
    found = []
    for direction in np.random.default_rng(7).normal(size=(3, *array.shape)):
        direction = direction / np.linalg.norm(direction)
        ends = value(array + h * direction), value(array - h * direction)
        found.append((direction, (ends[0] - ends[1]) / (2 * h)))
    return found


def close(a, b, tol=2e-7):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=tol)


def params(layer):
    return [k for k in ("W", "b", "gamma", "beta") if k in layer]


def check_layer(old, new, objective, rate=1.0):
    """(old - new) / rate is the derivative of objective(layer) by each of the layer's parameters."""
    for k in params(old):
        for direction, slope in slopes(lambda p, k=k: objective({**old, k: p}), old[k]):
            close(np.vdot((old[k] - new[k]) / rate, direction), slope)


def check_stacks(old, new, objective, rate):
    """The same for every layer of a list, objective(list)."""
    for i, layer in enumerate(old):
        check_layer(layer, new[i], lambda f, i=i: objective([*old[:i], f, *old[i + 1 :]]), rate)


def out(layer, x):
    return ref.layer_forward(layer, x)[0]


def same(a, b):
    """Exact equality of nested lists, dicts and arrays."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(i, j) for i, j in zip(a, b, strict=True))
    return np.array_equal(a, b)


def mlp(act="tanh", bn=False):
    net = [
        dense(10, 6, 5, act, bn),
        dense(20, 5, 4, act, bn),
        dense(30, 4, 4, act, bn),
        dense(40, 4, C, "linear"),
    ]
    return net, rand(1, B, 6)


def cnn(act="tanh", bn=True, pool=2):
    net = [
        conv(10, 2, 3, act=act, bn=bn, pool=pool),
        conv(20, 3, 2, act=act, bn=bn, stride=2),
        dense(30, (2 if pool else 8) * 2, 4, act, bn),
        dense(40, 4, C, "linear"),
    ]
    return net, rand(1, B, 4, 8, 2)


NETS = {
    "mlp": lambda: mlp("elu"),
    "mlp_bn": lambda: mlp("relu", True),
    "cnn": cnn,
    "cnn_relu": lambda: cnn("relu"),
}


@pytest.fixture(params=NETS)
def case(request):
    net, x = NETS[request.param]()
    return net, x, one_hot()


# -------------------------------------------------------------------------------------- pieces of the layer
@pytest.mark.parametrize("act", ACTS)
def test_activation_values_and_derivatives(act):
    a = np.concatenate([rand(0, 50) * 3, [-700.0, 700.0]])
    want = {
        "tanh": np.tanh(a),
        "relu": np.where(a > 0, a, 0),
        "elu": np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1),
        "sigmoid": 1 / (1 + np.exp(-a)),
        "linear": a,
    }[act]
    np.testing.assert_allclose(ref.activate(act, a), want, atol=1e-12)
    a = a[:-2]
    close(ref.activate_prime(act, a), numeric(lambda p: ref.activate(act, p).sum(), a))


def brute_force_conv(x, W, s):
    kh, kw, _, cout = W.shape
    (b, height, width, _), oh, ow = x.shape, -(-x.shape[1] // s), -(-x.shape[2] // s)
    top = max((oh - 1) * s + kh - height, 0) // 2
    left = max((ow - 1) * s + kw - width, 0) // 2
    u = np.zeros((b, oh, ow, cout))
    for p, q, i, j in np.ndindex(oh, ow, kh, kw):
        row, col = p * s + i - top, q * s + j - left
        if 0 <= row < height and 0 <= col < width:
            u[:, p, q] += np.einsum("bc,cd->bd", x[:, row, col], W[i, j])
    return u


GEOMETRIES = [
    ((4, 6), (3, 3), 1),
    ((4, 6), (3, 3), 2),
    ((5, 4), (2, 3), 2),
    ((7, 5), (5, 2), 3),
    ((5, 5), (1, 1), 2),
]


@pytest.mark.parametrize(("size", "k", "s"), GEOMETRIES)
def test_convolution_and_its_adjoints(size, k, s):
    x, W = rand(0, 2, *size, 2), rand(1, *k, 2, 3)
    u = ref.conv(x, W, s)
    np.testing.assert_allclose(u, brute_force_conv(x, W, s), atol=1e-12)
    v = rand(2, *u.shape)
    close(ref.conv_transpose(v, W, s, x.shape[1:]), numeric(lambda p: (ref.conv(p, W, s) * v).sum(), x))
    close(ref.conv_weight_gradient(x, v, W.shape, s), numeric(lambda p: (ref.conv(x, p, s) * v).sum(), W))


def test_same_padding_of_a_stride_puts_the_odd_row_at_the_end():
    x = np.arange(1.0, 5).reshape(1, 4, 1, 1)
    W = np.array([1.0, 10, 100]).reshape(3, 1, 1, 1)
    assert ref.conv(x, W, 2).ravel().tolist() == [321, 43]


def test_batch_norm_and_pooling_values():
    u, gamma, beta = 2 + 3 * rand(0, 3, 4, 6, 2), rand(1, 2), rand(2, 2)
    want = np.stack([(u[..., c] - u[..., c].mean()) / np.sqrt(u[..., c].var() + 1e-5) for c in (0, 1)], -1)
    np.testing.assert_allclose(ref.batch_norm(u, gamma, beta)[0], gamma * want + beta, atol=1e-12)
    pooled = ref.max_pool(u)
    for b, p, q, c in np.ndindex(pooled.shape):
        assert pooled[b, p, q, c] == u[b, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2, c].max()
    v = rand(3, *pooled.shape)
    close(ref.max_pool_backward(v, u), numeric(lambda p: (ref.max_pool(p) * v).sum(), u))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ["dense", "dense_bn", "dense_image", "conv", "conv_bn", "conv_bn_stride", "conv_pool"])
def test_layer_backward(kind, act):
    bn = "bn" in kind
    if kind.startswith("dense"):
        x = rand(0, B, 2, 3, 1) if kind == "dense_image" else rand(0, B, 6)
        layer = dense(5, 6, 4, act, bn)
    else:
        x = rand(0, 2, 4, 6, 2)
        layer = conv(
            5,
            2,
            3,
            (3, 2),
            2 if "stride" in kind else 1,
            act,
            bn or "pool" in kind,
            2 if "pool" in kind else None,
        )
    h, cache = ref.layer_forward(layer, x)
    v = rand(9, *h.shape)
    dx, grads = ref.layer_backward(layer, cache, v)
    close(dx, numeric(lambda p: (out(layer, p) * v).sum(), x))
    assert set(grads) == set(params(layer))
    check_layer(layer, ref.sgd(layer, grads, 1.0), lambda f: (out(f, x) * v).sum())


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_losses(loss):
    s, y = 3 * rand(0, B, C), one_hot()
    value, o, delta = ref.task_loss(s, y, loss)
    if loss == "ce":
        np.testing.assert_allclose(o, np.exp(s) / np.exp(s).sum(1, keepdims=True), atol=1e-14)
        np.testing.assert_allclose(value, -np.log(o[y == 1]).mean(), atol=1e-14)
        assert np.isfinite(ref.task_loss(1000 * s, y, loss)[0])
    else:
        np.testing.assert_allclose([value, *o.ravel()], [((s - y) ** 2).sum() / (2 * B), *s.ravel()])
    close(delta, numeric(lambda p: ref.task_loss(p, y, loss)[0], s))


@pytest.mark.parametrize("error", [ref.squared_error, ref.mse])
def test_squared_errors(error):
    p, t = rand(0, B, 2, 3), rand(1, B, 2, 3)
    np.testing.assert_allclose(error(p, t)[0], ((p - t) ** 2).sum() / (B if error is ref.squared_error else p.size))
    close(error(p, t)[1], numeric(lambda q: error(q, t)[0], p))


# ---------------------------------------------------------------------------------------------- BP, FA, KP
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_bp_is_the_gradient_of_the_loss(case, loss):
    net, x, y = case
    new, value = ref.bp_step(net, x, y, 0.5, loss)
    assert value == ref.task_loss(ref.forward(net, x), y, loss)[0]
    check_stacks(net, new, lambda n: ref.task_loss(ref.forward(n, x), y, loss)[0], 0.5)


def sequential_feedback(net):
    return [None] + [rand(70 + i, *layer["W"].shape) for i, layer in enumerate(net[1:])]


def fa_errors(net, feedback, x, y):
    """e_l at each layer's output by finite differences through the layer whose W (for x only) became B."""
    hs, _ = ref.stack_forward(net, x)
    e = numeric(lambda s: ref.task_loss(s, y)[0], hs[-1])
    errors = [e]
    for ell in range(len(net) - 1, 0, -1):
        layer, h, M = net[ell], hs[ell], feedback[ell]
        bare = {k: v for k, v in layer.items() if k not in ("gamma", "beta", "pool")} | {"act": "linear"}
        u0, Bh = out(bare, h), out({**bare, "W": M, "b": 0}, h)
        swapped = {**layer, "W": M, "b": u0 - Bh}  # W h + b + B (v - h): right value, wrong Jacobian
        e = numeric(lambda v, f=swapped, e=e: (out(f, v) * e).sum(), h)
        errors.insert(0, e)
    return hs, errors


def test_fa_carries_the_error_by_the_feedback(case):
    net, x, y = case
    feedback = sequential_feedback(net)
    new, value = ref.fa_step(net, feedback, x, y, 0.5)
    hs, errors = fa_errors(net, feedback, x, y)
    assert value == ref.bp_step(net, x, y, 0.5)[1]
    for ell, layer in enumerate(net):
        check_layer(layer, new[ell], lambda f, ell=ell: (out(f, hs[ell]) * errors[ell]).sum(), 0.5)


def test_fa_with_the_weights_is_bp(case):
    net, x, y = case
    feedback = [None] + [layer["W"] for layer in net[1:]]
    assert same(ref.fa_step(net, feedback, x, y, 0.1), ref.bp_step(net, x, y, 0.1))
    with pytest.raises((AssertionError, AttributeError)):
        ref.fa_step(net, [None] * len(net), x, y, 0.1)


def test_kp(case):
    net, x, y = case
    feedback, lr, lr_b, lam = sequential_feedback(net), 0.5, 0.2, 0.03
    new, new_b, value = ref.kp_step(net, feedback, x, y, lr, lr_b, lam)
    fa, fa_value = ref.fa_step(net, feedback, x, y, 1.0)
    assert value == fa_value and new_b[0] is None
    for ell, layer in enumerate(net):
        grad = {k: layer[k] - fa[ell][k] for k in params(layer)}
        close(new[ell]["W"], (1 - lam) * layer["W"] - lr * grad["W"])
        for k in params(layer)[1:]:
            close(new[ell][k], layer[k] - lr * grad[k])
        if ell:
            close(new_b[ell], (1 - lam) * feedback[ell] - lr_b * grad["W"])
    new, new_b, _ = ref.kp_step(net, feedback, x, y, lr, lr, lam)  # eq. 11: W - B shrinks by 1 - lambda
    for ell in range(1, len(net)):
        close(new[ell]["W"] - new_b[ell], (1 - lam) * (net[ell]["W"] - feedback[ell]))


@pytest.mark.parametrize("uniform", [True, False])
def test_sign_symmetry_is_fa_through_the_signs(case, uniform):
    net, x, y = case
    magnitudes = [None, *(-0.7 if uniform else rand(60 + i, *f["W"].shape) for i, f in enumerate(net[1:]))]
    concordant = [None, *(np.where(f["W"] < 0, -abs(M), abs(M)) for M, f in zip(magnitudes[1:], net[1:], strict=True))]
    assert same(ref.sign_symmetry_step(net, magnitudes, x, y, 0.1), ref.fa_step(net, concordant, x, y, 0.1))
    exact = ref.sign_symmetry_step(net, [None, *(f["W"] for f in net[1:])], x, y, 0.1)
    assert same(exact, ref.bp_step(net, x, y, 0.1))


def test_the_mirror_is_an_estimate_of_the_weights():
    """With noise of one example that is 1 in one place and 0 elsewhere, summed over all places, it is W / N exactly."""
    layer = conv(3, 2, 3, stride=2)
    units = np.eye(4 * 5 * 2).reshape(-1, 4, 5, 2)
    counts = ref.conv_weight_gradient(np.ones_like(units[:1]), np.ones((1, 2, 3, 3)), layer["W"].shape, 2)
    close(ref.mirror(layer, units) * len(units), layer["W"] * (counts > 0))
    layer = dense(3, 4, 5)
    close(ref.mirror(layer, np.eye(4)) * 4, layer["W"])


def test_wm(case):
    net, x, y = case
    feedback, noise = (
        sequential_feedback(net),
        [rand(90 + i, *h.shape) for i, h in enumerate(ref.stack_forward(net, x)[0][:-1])],
    )
    noise = [ref.flatten(xi) if f["kind"] == "dense" else xi for xi, f in zip(noise, net, strict=True)]
    new, new_b, value = ref.wm_step(net, feedback, noise, x, y, 0.5, 0.2, 0.03)
    assert same([new, value], list(ref.fa_step(net, feedback, x, y, 0.5))) and new_b[0] is None
    for f, old, b, xi in zip(net[1:], feedback[1:], new_b[1:], noise[1:], strict=True):
        close(b, 0.97 * old + 0.2 * ref.mirror(f, xi))


# ------------------------------------------------------------------------------------------- DFA, DRTP, DKP
def direct_feedback(net, x):
    hs, _ = ref.stack_forward(net, x)
    return hs, [rand(80 + i, C, h[0].size) for i, h in enumerate(hs[1:-1])]


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("step", [ref.dfa_step, ref.drtp_step])
def test_dfa_and_drtp_are_local_gradients(case, step, loss):
    net, x, y = case
    hs, feedback = direct_feedback(net, x)
    new, value = step(net, feedback, x, y, 0.5, loss)
    assert value == ref.bp_step(net, x, y, 0.5, loss)[1]
    delta = numeric(lambda s: ref.task_loss(s, y, loss)[0], hs[-1])
    signal = delta if step is ref.dfa_step else y / B
    for ell, layer in enumerate(net[:-1]):
        e = (signal @ feedback[ell]).reshape(hs[ell + 1].shape)
        check_layer(layer, new[ell], lambda f, ell=ell, e=e: (out(f, hs[ell]) * e).sum(), 0.5)
    assert same(new[-1], ref.bp_step(net, x, y, 0.5, loss)[0][-1])


def test_dfa_of_one_hidden_layer_is_fa():
    net, x, y = [dense(1, 6, 5, bn=True), dense(2, 5, C, "linear")], rand(0, B, 6), one_hot()
    M = rand(7, 5, C)
    dfa, fa = ref.dfa_step(net, [M.T], x, y, 0.1), ref.fa_step(net, [None, M], x, y, 0.1)
    for a, b in zip(dfa[0], fa[0], strict=True):
        for k in params(a):
            np.testing.assert_allclose(a[k], b[k], atol=1e-15)


def test_dkp(case):
    net, x, y = case
    hs, feedback = direct_feedback(net, x)
    lr, lr_b, lam = 0.5, 0.2, 0.03
    new, new_b, value = ref.dkp_step(net, feedback, x, y, lr, lr_b, lam)
    dfa, dfa_value = ref.dfa_step(net, feedback, x, y, lr)
    assert value == dfa_value and len(new_b) == len(net) - 1
    o = ref.softmax(hs[-1])
    for ell, layer in enumerate(net):
        close(new[ell]["W"], dfa[ell]["W"] - lam * layer["W"])
        assert all(same(new[ell][k], dfa[ell][k]) for k in params(layer)[1:])
    for ell, M in enumerate(feedback):
        outer = sum(np.outer((o - y)[b] / B, hs[ell + 1][b].ravel()) for b in range(B))
        close(new_b[ell], (1 - lam) * M - lr_b * outer)


def test_dkp_mirrors_the_head_as_kp_does():
    """Sec. 2.5: only the last hidden layer's B has W's shape; there W_k - B^T shrinks by 1 - lambda."""
    net, x = mlp()
    _, feedback = direct_feedback(net, x)
    new, new_b, _ = ref.dkp_step(net, feedback, x, one_hot(), 0.3, 0.3, 0.1)
    close(new[-1]["W"] - new_b[-1].T, 0.9 * (net[-1]["W"] - feedback[-1].T))


# --------------------------------------------------------------------------------------- target propagation
def tp_case(name):
    """Net, inverses (the head's included), x, y, noise, aux."""
    if name == "mlp":
        net, x = mlp(bn=False)
    elif name == "mlp_bn":
        net, x = mlp(bn=True)
    else:
        net, x = cnn(bn=False, pool=None)
    hs, _ = ref.stack_forward(net, x)
    inverses = [None]
    for ell in range(1, len(net)):
        shape, W = hs[ell].shape[1:], rand(50 + ell, *net[ell]["W"].shape) / 2
        g = {"W": W, "b": 0.1 * rand(60 + ell, *shape), "act": "tanh"}
        if net[ell]["kind"] == "conv":
            g |= {"b": 0.1 * rand(60 + ell, shape[-1]), "stride": net[ell]["stride"], "in_shape": shape}
        elif len(shape) == 3:
            g |= {"in_shape": shape}
        inverses.append(g)
    eps = [None] + [0.3 * rand(90 + ell, *hs[ell].shape) for ell in range(1, len(net))]
    aux = {"W": rand(97, hs[-2][0].size, 6), "b": rand(98, 6), "act": "tanh"}
    return net, inverses, x, one_hot(), eps, aux


def invert(g, v):
    """g(v) written a second time, through the matrix of the convolution."""
    if g["W"].ndim == 4:
        n = int(np.prod(g["in_shape"]))
        units = np.eye(n).reshape(n, *g["in_shape"])
        matrix = brute_force_conv(units, g["W"], g["stride"]).reshape(n, -1)
        return np.tanh((v.reshape(len(v), -1) @ matrix.T).reshape(len(v), *g["in_shape"]) + g["b"])
    return np.tanh((v @ g["W"].T).reshape(len(v), *g["b"].shape) + g["b"])


def test_pepita_multiplies_changes_and_changed_inputs_example_by_example():
    net, x = mlp("relu")
    y, feedback = one_hot(), rand(7, C, 6)
    new, value = ref.pepita_step(net, feedback, x, y, 0.5)
    scores = ref.forward(net, x)
    error = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - y
    np.testing.assert_allclose(value, ref.task_loss(scores, y)[0])
    a, changed = x, x + error @ feedback
    for i, layer in enumerate(net):
        below, a, changed = changed, out(layer, a), out(layer, changed)
        change = a - changed if i < 3 else error
        outer = [np.outer(b, c) for b, c in zip(below, change, strict=True)]
        close((layer["W"] - new[i]["W"]) / 0.5, np.mean(outer, 0))
        close((layer["b"] - new[i]["b"]) / 0.5, change.mean(0))


@pytest.mark.parametrize("bn", [False, True])
def test_pepita_descends_the_product_of_a_convolution_and_its_change(bn):
    net, x = cnn("relu", bn, pool=None)
    y, feedback = one_hot(), rand(7, C, 64)
    new, _ = ref.pepita_step(net, feedback, x, y, 0.5)
    a, _ = ref.stack_forward(net, x)
    changed, _ = ref.stack_forward(net, x + ((ref.softmax(a[-1]) - y) @ feedback).reshape(x.shape))
    for i, layer in enumerate(net[:-1]):
        bare = {k: v for k, v in layer.items() if k not in ("gamma", "beta")} | {"act": "linear"}
        signal = (a[i + 1] - changed[i + 1]) / B
        check_layer(bare, new[i], lambda f, i=i, d=signal: np.sum(out(f, changed[i]) * d), 0.5)


RULES = ["tp", "dtp", "sdtp", "ao_sdtp"]


def run_rule(rule, net, inverses, x, y, eps, aux, loss, lr=0.5, inverse_lr=0.25, **flags):
    """The step, and the inverses as that rule wants them."""
    inverses = list(inverses)
    if rule == "dtp":
        inverses[-1] = None
    if rule == "ao_sdtp":
        n = net[-1]["W"].shape[0]
        inverses[-1] = {**inverses[-1], "W": rand(55, n, C + 6) / 2}
    extra = {"dtp": [0.7], "ao_sdtp": [aux]}.get(rule, [])
    step = getattr(ref, f"{rule}_step")
    return inverses, step(net, inverses, x, y, lr, inverse_lr, eps, *extra, loss=loss, **flags)


def expected_targets(rule, net, inverses, hs, o, y, aux, loss):
    """hat h_l for each hidden layer, from the papers, all at h_l itself."""
    h, L = [*hs[:-1], o], len(net)
    t = [None] * L + [y]
    if rule == "tp":
        for ell in range(L - 1, 0, -1):
            t[ell] = invert(inverses[ell], t[ell + 1])
        return t
    if rule == "dtp":

        def own_losses(v):  # their sum: B times the batch mean, no BN in the head
            return B * ref.task_loss(out(net[-1], v), y, loss)[0]

        t[L - 1] = h[L - 1] - 0.7 * numeric(own_losses, h[L - 1])
    else:
        z = np.tanh(h[L - 1].reshape(B, -1) @ aux["W"] + aux["b"]) if rule == "ao_sdtp" else np.zeros((B, 0))
        reached, wanted = np.hstack([o, z]), np.hstack([y, z])
        t[L - 1] = h[L - 1] - invert(inverses[-1], reached) + invert(inverses[-1], wanted)
    for ell in range(L - 2, 0, -1):
        t[ell] = h[ell] - invert(inverses[ell], h[ell + 1]) + invert(inverses[ell], t[ell + 1])
    return t


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("name", ["mlp", "mlp_bn", "cnn"])
@pytest.mark.parametrize("rule", RULES)
def test_target_propagation_follows_both_local_losses(rule, name, loss):
    net, inverses, x, y, eps, aux = tp_case(name)
    inverses, (new, new_inverses, losses) = run_rule(rule, net, inverses, x, y, eps, aux, loss)
    hs, _ = ref.stack_forward(net, x)
    o = np.exp(hs[-1]) / np.exp(hs[-1]).sum(1, keepdims=True) if loss == "ce" else hs[-1]
    targets = expected_targets(rule, net, inverses, hs, o, y, aux, loss)
    last = len(net) - 1
    for ell, layer in enumerate(net):

        def forward_loss(f, ell=ell):
            h = out(f, hs[ell])
            return ref.task_loss(h, y, loss)[0] if ell == last else ((h - targets[ell + 1]) ** 2).sum() / B

        np.testing.assert_allclose(losses["forward"][ell], forward_loss(layer))
        check_layer(layer, new[ell], forward_loss, 0.5)

        if inverses[ell] is None:
            assert new_inverses[ell] is None and losses["inverse"][ell] is None
            assert ell == 0 or (rule == "dtp" and ell == last)
            continue
        noisy = hs[ell] + eps[ell]
        v = out(layer, noisy)
        if ell == last:
            v = np.exp(v) / np.exp(v).sum(1, keepdims=True) if loss == "ce" else v
            if rule == "ao_sdtp":
                v = np.hstack([v, np.tanh(noisy.reshape(B, -1) @ aux["W"] + aux["b"])])
        wanted = noisy if rule == "dtp" else hs[ell]

        def inverse_loss(g, v=v, wanted=wanted):
            return ((invert(g, v) - wanted) ** 2).sum() / B

        np.testing.assert_allclose(losses["inverse"][ell], inverse_loss(inverses[ell]))
        check_layer(inverses[ell], new_inverses[ell], inverse_loss, 0.25)


@pytest.mark.parametrize("rule", RULES)
def test_alternation_and_the_choice_of_the_inverse_loss(rule):
    arguments = (*tp_case("mlp"), "ce")
    inverses, both = run_rule(rule, *arguments)
    _, only_forward = run_rule(rule, *arguments, train_inverse=False)
    _, only_inverse = run_rule(rule, *arguments, train_forward=False)
    assert same(only_forward, (both[0], inverses, both[2]))
    assert same(only_inverse, (arguments[0], both[1], both[2]))
    _, other = run_rule(rule, *arguments, noise_preserving=rule != "dtp")
    assert same(other[0], both[0]) and not same(other[1], both[1])


def test_dtp_through_transposes_is_bp():
    """Bartunov 5.6: with g(v) = (dh_{l+1}/dh_l)^T v each local step is 2 alpha times the BP step."""
    net, x, y, alpha = [{**f, "act": "linear"} for f in mlp()[0]], mlp()[1], one_hot(), 0.3
    inverses = [None] + [{"W": f["W"], "b": np.zeros(f["W"].shape[0]), "act": "linear"} for f in net[1:-1]] + [None]
    eps = [np.zeros_like(h) for h in ref.stack_forward(net, x)[0][:-1]]
    dtp, _, _ = ref.dtp_step(net, inverses, x, y, 0.1, 0.1, eps, alpha)
    bp, _ = ref.bp_step(net, x, y, 0.1 * 2 * alpha)
    for a, b in zip(dtp[:-1], bp[:-1], strict=True):
        close(a["W"], b["W"], 1e-14)
        close(a["b"], b["b"], 1e-14)
    assert same(dtp[-1], ref.bp_step(net, x, y, 0.1)[0][-1])


# --------------------------------------------------------------------------------------- associated learning
def al_components():
    def rest(seed, n_in, n_target):
        return {
            "b": [dense(seed, n_in, 7, "sigmoid"), dense(seed + 10, 7, 4, "sigmoid")],
            "g": [dense(seed + 20, n_target, 4, "sigmoid")],
            "h": [dense(seed + 30, 4, n_target, "sigmoid")],
        }

    first = [conv(200, 2, 3, act="elu", bn=True), conv(210, 3, 2, act="elu", stride=2)]
    second = [conv(220, 2, 2, act="elu", pool=2)]
    third = [dense(230, 4, 5, "elu")]
    parts = [
        {"f": first, **rest(300, 16, C)},
        {"f": second, **rest(400, 4, 4)},
        {"f": third, **rest(500, 5, 4)},
    ]
    return parts, rand(1, B, 4, 8, 2)


@pytest.mark.parametrize(
    ("side", "cells", "windows"), [(4, 2, [2, 2]), (5, 2, [3, 2]), (7, 4, [2, 2, 2, 1]), (3, 4, [1] * 3)]
)
def test_cells_are_means_of_windows_and_their_backward_pass_is_the_transpose(side, cells, windows):
    x, stops = rand(1, B, side, 4, 2), np.cumsum(windows)
    found = ref.average_cells(x, cells)
    of_rows = np.stack([x[:, stop - size : stop].mean(1) for stop, size in zip(stops, windows, strict=True)], 1)
    narrow = -(-4 // cells)
    np.testing.assert_allclose(found, of_rows.reshape(B, len(windows), -1, narrow, 2).mean(3))
    d = rand(2, *found.shape)
    np.testing.assert_allclose(np.vdot(found, d), np.vdot(x, ref.average_cells_backward(d, cells, x.shape)))


def test_al_follows_both_terms():
    components, x = al_components()
    y = one_hot()
    new, losses = ref.al_step(components, x, y, 0.5, 0.25)
    s, t = x, y
    for c, n, (associated, autoencoder) in zip(components, new, losses, strict=True):
        next_t = ref.forward(c["g"], t)

        def first(f, b, s=s, next_t=next_t):
            return np.mean((ref.forward(b, ref.forward(f, s)) - next_t) ** 2)

        def second(g, h, t=t):
            return np.mean((ref.forward(h, ref.forward(g, t)) - t) ** 2)

        np.testing.assert_allclose([associated, autoencoder], [first(c["f"], c["b"]), second(c["g"], c["h"])])
        check_stacks(c["f"], n["f"], lambda f, c=c, first=first: first(f, c["b"]), 0.5)
        check_stacks(c["b"], n["b"], lambda b, c=c, first=first: first(c["f"], b), 0.5)
        check_stacks(c["g"], n["g"], lambda g, c=c, second=second: second(g, c["h"]), 0.25)
        check_stacks(c["h"], n["h"], lambda h, c=c, second=second: second(c["g"], h), 0.25)
        s, t = ref.forward(c["f"], s), next_t
    want = s
    for f in [*components[2]["b"], *components[2]["h"], *components[1]["h"], *components[0]["h"]]:
        want = out(f, want)
    assert same(ref.al_predict(components, x), want)


def test_al_components_are_independent():
    """A component's update depends on those below only, through s and t."""
    components, x = al_components()
    new, _ = ref.al_step(components, x, one_hot(), 0.5, 0.25)
    assert same(new[:2], ref.al_step(components[:2], x, one_hot(), 0.5, 0.25)[0])


# ------------------------------------------------------------------------------------ dtypes, no mutation
def leaves(tree):
    if isinstance(tree, dict | list | tuple):
        return [leaf for v in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(v)]
    return [tree] if isinstance(tree, np.ndarray | np.generic) else []


def cast(tree):
    if isinstance(tree, dict):
        return {k: cast(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(cast(v) for v in tree)
    return tree.astype(np.float32) if isinstance(tree, np.ndarray) else tree


def every_step(change, rate=float):
    """(step, arguments) of each rule, with `change` applied to the arguments."""
    net, x = change(cnn())
    y = change(one_hot())
    feedback, direct = change(sequential_feedback(net)), change(direct_feedback(net, x)[1])
    r = rate(0.1)
    calls = [(ref.bp_step, (net, x, y, r)), (ref.fa_step, (net, feedback, x, y, r))]
    calls += [(ref.kp_step, (net, feedback, x, y, r, r, r)), (ref.dkp_step, (net, direct, x, y, r, r, r))]
    calls += [(f, (net, direct, x, y, r)) for f in (ref.dfa_step, ref.drtp_step)]
    calls += [(ref.al_step, (*change(al_components()), y, r, r)), (ref.al_predict, change(al_components()))]
    for rule, loss in itertools.product(RULES[:3], ("ce", "mse")):
        step = functools.partial(run_rule, rule, loss=loss, lr=r, inverse_lr=r)
        calls.append((lambda *a, step=step: step(*a)[1], change(tp_case("cnn"))))
    net, inverses, x, y, eps, aux = change(tp_case("cnn"))
    inverses[-1] = {**inverses[-1], "W": change(rand(55, 4, C + 6))}
    calls.append((ref.ao_sdtp_step, (net, inverses, x, y, r, r, eps, aux)))
    return calls


@pytest.mark.parametrize("rate", [float, np.float64])
def test_float32_stays_float32_and_close_to_float64(rate):
    for (step, small), (_, large) in zip(every_step(cast, rate), every_step(lambda a: a), strict=True):
        a, b = leaves(step(*small)), leaves(step(*large))
        assert a and {leaf.dtype for leaf in a} == {np.dtype(np.float32)}
        for low, high in zip(a, b, strict=True):
            np.testing.assert_allclose(low, high, atol=2e-5)


def test_arguments_are_left_alone():
    for step, arguments in every_step(lambda a: a):
        before = copy.deepcopy(arguments)
        step(*arguments)
        assert same(before, arguments)
