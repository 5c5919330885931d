"""Plain-NumPy reference of the learning rules, written from the papers' equations; derivatives by hand.

A layer is a dict of arrays and settings, a network is a list of layers whose last is the linear head:

    dense  {"kind": "dense", "W": (in, out), "b": (out,), "act"}           flattens its input, row-major
    conv   {"kind": "conv", "W": (kh, kw, cin, cout), "b", "stride", "act"}     NHWC, SAME zero padding

with optional "gamma", "beta" (batch norm between linear map and activation, always on batch statistics) and
"pool": 2 (2x2 max pooling after the activation):  h_l = pool(phi(BN(W_l * h_{l-1} + b_l))); with "pool_input": 2
the linear map gets pool(h_{l-1}) instead of h_{l-1}.

Symbols: h_0 = x and h_l is layer l's output; o is the output distribution (softmax of the scores under "ce",
the scores under "mse"); delta_k = d loss / d scores = (o - y) / B, with B the batch size. In the code indices
count from 0: net[ell] maps hs[ell] to hs[ell + 1]; inverses[ell], eps[ell] and the feedback[ell] of FA, KP, WM and
sign symmetry belong to net[ell] and its *input* hs[ell], the direct feedback[ell] of DFA, DRTP, DKP to its *output*.

Every step reads only values from before the step, updates by plain SGD and leaves its arguments untouched.
The dtype of the inputs is kept; y has the dtype of x, and its rows sum to one under "ce". The target
propagation steps take train_forward=True, train_inverse=True as keywords (losses are reported either way).
"""

import numpy as np

EPS = 1e-5  # batch norm


# ------------------------------------------------------------------------------------------------ activations
def activate(name, a):
    """phi(a)."""
    if name == "tanh":
        return np.tanh(a)
    if name == "relu":
        return np.maximum(a, 0)
    if name == "elu":
        return np.where(a > 0, a, np.expm1(np.minimum(a, 0)))
    if name == "sigmoid":
        return (1 + np.tanh(a / 2)) / 2
    if name == "linear":
        return a
    raise ValueError(f"unknown activation {name!r}")


def activate_prime(name, a):
    """phi'(a); relu'(0) = 0."""
    if name == "tanh":
        return 1 - np.tanh(a) ** 2
    if name == "relu":
        return (a > 0).astype(a.dtype)
    if name == "elu":
        return np.where(a > 0, np.ones_like(a), np.exp(np.minimum(a, 0)))
    if name == "sigmoid":
        p = activate("sigmoid", a)
        return p * (1 - p)
    if name == "linear":
        return np.ones_like(a)
    raise ValueError(f"unknown activation {name!r}")


# ------------------------------------------------------------------------------------------------ convolution
def _same(n, k, stride):
    """out = ceil(n / s), total = max((out - 1) s + k - n, 0), low = total // 2 -> (out, (low, high))."""
    out = -(-n // stride)
    total = max((out - 1) * stride + k - n, 0)
    return out, (total // 2, total - total // 2)


def _taps(image_shape, W_shape, stride):
    """Padding, output size, and for each kernel tap (i, j) the rows and columns of the padded image."""
    (oh, ph), (ow, pw) = (_same(image_shape[d], W_shape[d], stride) for d in (0, 1))
    taps = [
        (i, j, slice(i, i + stride * (oh - 1) + 1, stride), slice(j, j + stride * (ow - 1) + 1, stride))
        for i in range(W_shape[0])
        for j in range(W_shape[1])
    ]
    return ((0, 0), ph, pw, (0, 0)), (oh, ow), taps


def conv(x, W, stride):
    """u[b, p, q] = sum_ij xpad[b, p s + i, q s + j] @ W[i, j]   (cross-correlation)."""
    pads, _, taps = _taps(x.shape[1:3], W.shape, stride)
    xp = np.pad(x, pads)
    return sum(xp[:, rows, cols] @ W[i, j] for i, j, rows, cols in taps)


def conv_transpose(v, W, stride, image_shape):
    """Adjoint of x -> conv(x, W) at v: <conv(x, W), v> = <x, conv_transpose(v, W)>."""
    pads, out, taps = _taps(image_shape[:2], W.shape, stride)
    assert v.shape[1:3] == out, f"no SAME convolution maps {image_shape} to {v.shape[1:]} at stride {stride}"
    (top, bottom), (left, right) = pads[1:3]
    height, width = image_shape[:2]
    xp = np.zeros((v.shape[0], top + height + bottom, left + width + right, W.shape[2]), v.dtype)
    for i, j, rows, cols in taps:
        xp[:, rows, cols] += v @ W[i, j].T
    return xp[:, top : top + height, left : left + width]


def conv_weight_gradient(x, v, W_shape, stride):
    """Adjoint of W -> conv(x, W) at v: dW[i, j] = sum_bpq xpad[b, p s + i, q s + j]^T v[b, p, q]."""
    pads, _, taps = _taps(x.shape[1:3], W_shape, stride)
    xp = np.pad(x, pads)
    dW = np.empty(W_shape, v.dtype)
    for i, j, rows, cols in taps:
        dW[i, j] = np.tensordot(xp[:, rows, cols], v, axes=((0, 1, 2), (0, 1, 2)))
    return dW


# ------------------------------------------------------------------------------------------ pieces of a layer
def flatten(h):
    """(B, ...) -> (B, n), row-major."""
    return h.reshape(h.shape[0], -1)


def batch_norm(u, gamma, beta):
    """gamma (u - mean) / sqrt(var + eps) + beta over all axes but the last -> (output, u_hat, 1 / sqrt)."""
    axes = tuple(range(u.ndim - 1))
    centred = u - u.mean(axes)
    inv_std = 1 / np.sqrt((centred**2).mean(axes) + EPS)
    u_hat = centred * inv_std
    return gamma * u_hat + beta, u_hat, inv_std


def batch_norm_backward(da, u_hat, inv_std, gamma):
    """du = gamma inv_std (da - mean(da) - u_hat mean(da u_hat)), dgamma = sum(da u_hat), dbeta = sum(da)."""
    axes = tuple(range(da.ndim - 1))
    du = gamma * inv_std * (da - da.mean(axes) - u_hat * (da * u_hat).mean(axes))
    return du, (da * u_hat).sum(axes), da.sum(axes)


def _windows(p):
    """(B, H, W, C) -> (B, H/2, W/2, C, 4)."""
    b, h, w, c = p.shape
    assert h % 2 == 0 and w % 2 == 0
    return p.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, c, 4)


def max_pool(p):
    """max over 2x2 windows, stride 2."""
    return _windows(p).max(-1)


def max_pool_backward(dh, p):
    """dh goes to the (first) largest entry of each window."""
    b, h, w, c = p.shape
    first = _windows(p).argmax(-1)[..., None] == np.arange(4)
    spread = np.where(first, dh[..., None], np.zeros((), dh.dtype))
    return spread.reshape(b, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(p.shape)


# ----------------------------------------------------------------------------------------------------- layers
def layer_forward(layer, x):
    """h = pool(phi(a)), a = BN(u), u = W * x + b -> (h, what the backward pass needs)."""
    is_conv, unpooled = layer["kind"] == "conv", x
    if layer.get("pool_input"):
        assert layer["pool_input"] == 2
        x = max_pool(x)
    u = (conv(x, layer["W"], layer["stride"]) if is_conv else flatten(x) @ layer["W"]) + layer["b"]
    cache = {"x": x, "unpooled": unpooled}
    a = u
    if "gamma" in layer:
        a, cache["u_hat"], cache["inv_std"] = batch_norm(u, layer["gamma"], layer["beta"])
    h = p = activate(layer["act"], a)
    if layer.get("pool"):
        assert layer["pool"] == 2
        h = max_pool(p)
    return h, {**cache, "a": a, "p": p}


def layer_backward(layer, cache, dh, transport=None):
    """From dh = dL/dh to (dL/dx, {"W": dL/dW, ...}); `transport` replaces W on the way to x only (FA, KP)."""
    x, grads = cache["x"], {}
    dp = max_pool_backward(dh, cache["p"]) if layer.get("pool") else dh
    du = dp * activate_prime(layer["act"], cache["a"])
    if "gamma" in layer:
        du, grads["gamma"], grads["beta"] = batch_norm_backward(du, cache["u_hat"], cache["inv_std"], layer["gamma"])
    M = layer["W"] if transport is None else transport
    grads["b"] = du.sum(tuple(range(du.ndim - 1)))
    if layer["kind"] == "conv":
        grads["W"] = conv_weight_gradient(x, du, layer["W"].shape, layer["stride"])
        dx = conv_transpose(du, M, layer["stride"], x.shape[1:])
    else:
        grads["W"] = flatten(x).T @ du
        dx = (du @ M.T).reshape(x.shape)
    return (max_pool_backward(dx, cache["unpooled"]) if layer.get("pool_input") else dx), grads


def stack_forward(layers, x):
    """h_l = f_l(h_{l-1}) -> ([h_0 = x, h_1, ..., h_L], caches)."""
    hs, caches = [x], []
    for layer in layers:
        h, cache = layer_forward(layer, hs[-1])
        hs.append(h)
        caches.append(cache)
    return hs, caches


def stack_backward(layers, caches, dh, transports=None):
    """dL/dh_{l-1} = (dh_l/dh_{l-1})^T dL/dh_l from the top down -> (dL/dh_0, gradients of each layer)."""
    grads = [None] * len(layers)
    for ell in reversed(range(len(layers))):
        dh, grads[ell] = layer_backward(layers[ell], caches[ell], dh, transports[ell] if transports else None)
    return dh, grads


def sgd(params, grads, lr):
    """theta <- theta - lr dtheta for every key of grads; the other keys are kept."""
    return {**params, **{k: params[k] - params[k].dtype.type(lr) * g for k, g in grads.items()}}


def sgd_all(layers, grads, lr):
    """sgd for each layer."""
    return [sgd(layer, g, lr) for layer, g in zip(layers, grads, strict=True)]


# ------------------------------------------------------------------------------------------------------- loss
def softmax(scores):
    """exp(s_c) / sum_c' exp(s_c')."""
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def output(scores, loss):
    """o = softmax(scores) under "ce", scores under "mse"."""
    if loss not in ("ce", "mse"):
        raise ValueError(f"unknown loss {loss!r}")
    return softmax(scores) if loss == "ce" else scores


def task_loss(scores, y, loss="ce"):
    """mean_B(-sum_c y_c log softmax(s)_c) or mean_B(sum (s - y)^2 / 2) -> (loss, o, delta_k)."""
    o = output(scores, loss)
    if loss == "ce":
        shifted = scores - scores.max(1, keepdims=True)
        value = -(y * (shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))).sum(1).mean()
    else:
        value = 0.5 * ((scores - y) ** 2).sum(1).mean()
    return value, o, (o - y) / len(y)


def forward(net, x):
    """scores = f_L(... f_1(x))."""
    return stack_forward(net, x)[0][-1]


# --------------------------------------------------------- backpropagation, feedback alignment, Kolen-Pollack
def bp_gradients(net, x, y, loss="ce", feedback=None):
    """delta_l = delta_{l+1} W_{l+1}^T . f'(a_l) (eq. 2), or with B_{l+1} (eq. 5) -> (gradients, loss)."""
    hs, caches = stack_forward(net, x)
    value, _, delta = task_loss(hs[-1], y, loss)
    if feedback is not None:  # a missing or misshapen B must not pass for backpropagation
        assert all(B.shape == f["W"].shape for B, f in zip(feedback[1:], net[1:], strict=True))
    return stack_backward(net, caches, delta, feedback)[1], value


def bp_step(net, x, y, lr, loss="ce"):
    """W_l <- W_l - lr a_{l-1}^T delta_l (eqs. 1, 2, 4) -> (net, loss)."""
    grads, value = bp_gradients(net, x, y, loss)
    return sgd_all(net, grads, lr), value


def fa_step(net, feedback, x, y, lr, loss="ce"):
    """bp_step with delta_l = delta_{l+1} B_{l+1} . f'(a_l) (eq. 5), B fixed, in W's layout -> (net, loss)."""
    grads, value = bp_gradients(net, x, y, loss, feedback)
    return sgd_all(net, grads, lr), value


def _decay(new, old, decay):
    """new - decay * old: the -lambda W of eqs. 6 and 8, not multiplied by a learning rate."""
    return new - old.dtype.type(decay) * old


def _decay_weights(new_net, net, decay):
    """_decay for the W of each layer; b, gamma and beta do not decay."""
    return [{**new, "W": _decay(new["W"], old["W"], decay)} for new, old in zip(new_net, net, strict=True)]


def kp_step(net, feedback, x, y, lr, feedback_lr, decay, loss="ce"):
    """FA with W <- W - lr dW - decay W, B <- B - feedback_lr dW - decay B (eq. 6) -> (net, B, loss)."""
    grads, value = bp_gradients(net, x, y, loss, feedback)
    new_feedback = [
        None if B is None else _decay(B - B.dtype.type(feedback_lr) * g["W"], B, decay)
        for B, g in zip(feedback, grads, strict=True)
    ]
    return _decay_weights(sgd_all(net, grads, lr), net, decay), new_feedback, value


def sign_symmetry_step(net, magnitudes, x, y, lr, loss="ce"):
    """FA through B = |M| . sign(W), M one number (uSF) or of W's shape (frSF, brSF) -> (net, loss)."""
    pairs = zip(magnitudes[1:], net[1:], strict=True)
    return fa_step(net, [None, *(abs(M) * np.sign(layer["W"]) for M, layer in pairs)], x, y, lr, loss)


def mirror(layer, xi):
    """xi^T zeta / N of zeta = W * xi without a bias, N the products that each weight is in -> an estimate of W."""
    if layer["kind"] == "dense":
        return xi.T @ (xi @ layer["W"]) / len(xi)
    zeta = conv(xi, layer["W"], layer["stride"])
    counts = conv_weight_gradient(np.ones_like(xi), np.ones_like(zeta), layer["W"].shape, layer["stride"])
    return conv_weight_gradient(xi, zeta, layer["W"].shape, layer["stride"]) / np.maximum(counts, 1)


def wm_step(net, feedback, noise, x, y, lr, mirror_rate, decay, loss="ce"):
    """FA, and B <- B + mirror_rate xi^T zeta / N - decay B, with noise[ell] for net[ell] -> (net, B, loss)."""
    new_net, value = fa_step(net, feedback, x, y, lr, loss)
    new_feedback = [
        None if B is None else _decay(B + B.dtype.type(mirror_rate) * mirror(layer, xi), B, decay)
        for B, layer, xi in zip(feedback, net, noise, strict=True)
    ]
    return new_net, new_feedback, value


# -------------------------------------------------------------------------------------------- direct feedback
def _direct_gradients(net, feedback, x, y, loss, project_target):
    """e_l = (delta_k or y / B) B_l at a_l, exact through layer l only (eq. 3); true gradient for the head."""
    hs, caches = stack_forward(net, x)
    value, _, delta = task_loss(hs[-1], y, loss)
    signal = y / len(y) if project_target else delta
    grads = [
        layer_backward(net[ell], caches[ell], (signal @ B).reshape(hs[ell + 1].shape))[1]
        for ell, B in enumerate(feedback)
    ]
    assert len(feedback) == len(net) - 1
    return [*grads, layer_backward(net[-1], caches[-1], delta)[1]], value, hs, delta


def dfa_step(net, feedback, x, y, lr, loss="ce"):
    """delta_l = (delta_k B_l) . f'(a_l) (eq. 3), B_l: (C, n_l) fixed, n_l the size of a_l -> (net, loss)."""
    grads, value, _, _ = _direct_gradients(net, feedback, x, y, loss, False)
    return sgd_all(net, grads, lr), value


def drtp_step(net, feedback, x, y, lr, loss="ce"):
    """delta_l = ((y / B) B_l) . f'(a_l); head by its true gradient -> (net, loss)."""
    grads, value, _, _ = _direct_gradients(net, feedback, x, y, loss, True)
    return sgd_all(net, grads, lr), value


def dkp_step(net, feedback, x, y, lr, feedback_lr, decay, loss="ce"):
    """DFA with W <- W - lr dW - decay W, B_l <- B_l - feedback_lr delta_k^T a_l - decay B_l (eq. 8)
    -> (net, feedback, loss)."""
    grads, value, hs, delta = _direct_gradients(net, feedback, x, y, loss, False)
    new_feedback = [
        _decay(B - B.dtype.type(feedback_lr) * (delta.T @ flatten(a)), B, decay)
        for B, a in zip(feedback, hs[1:-1], strict=True)
    ]
    return _decay_weights(sgd_all(net, grads, lr), net, decay), new_feedback, value


# ------------------------------------------------------------------------------------------- input modulation
def pepita_step(net, feedback, x, y, lr, loss="ce"):
    """h_0' = x + e F, e = o - y;  dW_l = -lr h'_{l-1}^T (h_l - h'_l) / B, and for the head -lr h'_{L-1}^T e / B: the
    gradients of a linear layer without batch norm and activation -> (net, loss)."""
    hs, _ = stack_forward(net, x)
    value, _, delta = task_loss(hs[-1], y, loss)
    changed, _ = stack_forward(net, x + (len(x) * delta @ feedback).reshape(x.shape))
    signals = [*((h - c) / len(x) for h, c in zip(hs[1:-1], changed[1:-1], strict=True)), delta]
    grads = []
    for layer, below, signal in zip(net, changed, signals, strict=False):
        linear = {name: layer[name] for name in ("kind", "W", "b", "stride") if name in layer} | {"act": "linear"}
        grads.append(layer_backward(linear, layer_forward(linear, below)[1], signal)[1])
    return sgd_all(net, grads, lr), value


# ----------------------------------------------------------------------------------------- target propagation
def squared_error(p, target):
    """mean_B(sum_units (p - target)^2) and its derivative by p, 2 (p - target) / B."""
    return flatten((p - target) ** 2).sum(1).mean(), 2 * (p - target) / len(p)


def _inverse_pre(inverse, v):
    """v @ W^T + b, or the transposed strided SAME convolution of v with W, + b."""
    if inverse["W"].ndim == 4:
        return conv_transpose(v, inverse["W"], inverse["stride"], inverse["in_shape"]) + inverse["b"]
    u = flatten(v) @ inverse["W"].T
    return u.reshape(len(v), *inverse.get("in_shape", u.shape[1:])) + inverse["b"]


def inverse_forward(inverse, v):
    """g(v) = act(V v + c)."""
    return activate(inverse["act"], _inverse_pre(inverse, v))


def inverse_gradients(inverse, v, target):
    """L^inv = mean_B ||g(v) - target||^2 -> (gradients of g's parameters with v and target held, L^inv)."""
    u = _inverse_pre(inverse, v)
    value, dg = squared_error(activate(inverse["act"], u), target)
    du = dg * activate_prime(inverse["act"], u)
    if inverse["W"].ndim == 4:  # <du, conv_transpose(v, W)> = <conv(du, W), v>
        dW = conv_weight_gradient(du, v, inverse["W"].shape, inverse["stride"])
    else:
        dW = flatten(du).T @ flatten(v)
    return {"W": dW, "b": du.sum(tuple(range(du.ndim - inverse["b"].ndim)))}, value


def auxiliary(aux, h):
    """z = act(flatten(h) @ W + b), fixed random features."""
    return activate(aux["act"], flatten(h) @ aux["W"] + aux["b"])


def _run(net, x, y, loss):
    """-> ([h_0 = x, ..., h_{L-1}, h_L = o], caches, task loss, delta_k)."""
    hs, caches = stack_forward(net, x)
    value, o, delta = task_loss(hs[-1], y, loss)
    return [*hs[:-1], o], caches, value, delta


def _difference_targets(inverses, hs, targets, top, g=lambda ell, inverse, v: inverse_forward(inverse, v)):
    """hat h_l = h_l - g(h_{l+1}) + g(hat h_{l+1}) for ell = top, ..., 1 (eq. 2), given targets above top."""
    for ell in range(top, 0, -1):
        targets[ell] = hs[ell] - g(ell, inverses[ell], hs[ell + 1]) + g(ell, inverses[ell], targets[ell + 1])
    return targets


def _local_step(
    net, inverses, run, targets, lr, inverse_lr, eps, loss, noise_preserving,
    train_forward=True, train_inverse=True, aux=None,
):  # fmt: skip
    """Forward L_l = mean_B ||f_l(h_{l-1}) - hat h_l||^2 (head: task loss); inverse L_l^inv =
    mean_B ||g_l(f_l(h + eps)) - (h or h + eps)||^2 with h = h_{l-1} -> (net, inverses, losses)."""
    hs, caches, value, delta = run
    last = len(net) - 1
    forward_losses, forward_grads, inverse_losses, new_inverses = [], [], [], []
    for ell, layer in enumerate(net):
        L_l, dh = (value, delta) if ell == last else squared_error(hs[ell + 1], targets[ell + 1])
        forward_losses.append(L_l)
        forward_grads.append(layer_backward(layer, caches[ell], dh)[1])
        if inverses[ell] is None:
            inverse_losses.append(None)
            new_inverses.append(None)
            continue
        noisy = hs[ell] + eps[ell]
        v = layer_forward(layer, noisy)[0]
        if ell == last:
            v = output(v, loss)
            if aux is not None:
                v = np.concatenate([v, auxiliary(aux, noisy)], axis=1)
        grads, L_inv = inverse_gradients(inverses[ell], v, noisy if noise_preserving else hs[ell])
        inverse_losses.append(L_inv)
        new_inverses.append(sgd(inverses[ell], grads, inverse_lr) if train_inverse else dict(inverses[ell]))
    new_net = sgd_all(net, forward_grads, lr) if train_forward else [dict(layer) for layer in net]
    return new_net, new_inverses, {"forward": forward_losses, "inverse": inverse_losses}


def tp_step(net, inverses, x, y, lr, inverse_lr, eps, loss="ce", noise_preserving=False, **train):
    """hat h_L = y, hat h_l = g_{l+1}(hat h_{l+1}) -> (net, inverses, losses)."""
    run = _run(net, x, y, loss)
    targets = [None] * len(net) + [y]
    for ell in range(len(net) - 1, 0, -1):
        targets[ell] = inverse_forward(inverses[ell], targets[ell + 1])
    return _local_step(net, inverses, run, targets, lr, inverse_lr, eps, loss, noise_preserving, **train)


def dtp_step(net, inverses, x, y, lr, inverse_lr, eps, alpha, hybrid=0.0, loss="ce", noise_preserving=True, **train):
    """hat h_{L-1} = h_{L-1} - alpha d(each example's own loss)/dh_{L-1}, below by differences, of
    hybrid (dh_{l+1}/dh_l)^T v + (1 - hybrid) g(v) (section 5.6) -> (net, inverses, losses)."""
    run = hs, caches, _, _ = _run(net, x, y, loss)

    def g(ell, inverse, v):
        return hybrid * layer_backward(net[ell], caches[ell], v)[0] + (1 - hybrid) * inverse_forward(inverse, v)

    targets = [None] * len(net) + [y]
    if len(net) > 1:
        dh, _ = layer_backward(net[-1], caches[-1], hs[-1] - y)  # o - y = B delta_k: not divided by B
        targets[-2] = hs[-2] - hs[-2].dtype.type(alpha) * dh
        _difference_targets(inverses, hs, targets, len(net) - 2, g)
    return _local_step(net, inverses, run, targets, lr, inverse_lr, eps, loss, noise_preserving, **train)


def sdtp_step(net, inverses, x, y, lr, inverse_lr, eps, loss="ce", noise_preserving=False, **train):
    """hat h_{L-1} = h_{L-1} - g_L(o) + g_L(y), differences below (Algorithm 1) -> (net, inverses, losses)."""
    run = _run(net, x, y, loss)
    targets = _difference_targets(inverses, run[0], [None] * len(net) + [y], len(net) - 1)
    return _local_step(net, inverses, run, targets, lr, inverse_lr, eps, loss, noise_preserving, **train)


def ao_sdtp_step(net, inverses, x, y, lr, inverse_lr, eps, aux, loss="ce", noise_preserving=False, **train):
    """hat h_{L-1} = h_{L-1} - g_L([o, z]) + g_L([y, z]) (eq. 3), z = aux(h_{L-1}) fixed, differences below
    (Algorithm 2) -> (net, inverses, losses)."""
    run = _run(net, x, y, loss)
    z = auxiliary(aux, run[0][-2])
    hs = [*run[0][:-1], np.concatenate([run[0][-1], z], axis=1)]
    targets = [None] * len(net) + [np.concatenate([y, z], axis=1)]
    _difference_targets(inverses, hs, targets, len(net) - 1)
    return _local_step(net, inverses, run, targets, lr, inverse_lr, eps, loss, noise_preserving, aux=aux, **train)


# ---------------------------------------------------------------------------------------- associated learning
def mse(p, target):
    """Mean over batch and units of (p - target)^2, and its derivative by p, 2 (p - target) / size."""
    return ((p - target) ** 2).mean(), 2 * (p - target) / p.size


def average_matrix(side, cells, dtype):
    """A with A v = the means of v over adjacent windows, as small as they can be with at most `cells` of them."""
    window = int(np.ceil(side / cells))
    windows = [range(start, min(start + window, side)) for start in range(0, side, window)]
    return np.array([[1 / len(w) if i in w else 0 for i in range(side)] for w in windows], dtype)


def average_cells(x, cells):
    """The means of an image over its cells, A_rows x A_columns^T, in every channel; not an image: x."""
    if cells is None or x.ndim == 2:
        return x
    rows, columns = (average_matrix(side, cells, x.dtype) for side in x.shape[1:3])
    return np.einsum("rh,cw,bhwk->brck", rows, columns, x)


def average_cells_backward(d, cells, shape):
    """(d average / dx)^T d."""
    if cells is None or len(shape) == 2:
        return d.reshape(shape)
    rows, columns = (average_matrix(side, cells, d.dtype) for side in shape[1:3])
    return np.einsum("rh,cw,brck->bhwk", rows, columns, d.reshape(len(d), len(rows), len(columns), shape[3]))


def al_step(components, x, y, lr, auto_lr, cells=None, label_loss=None):
    """MSE(b_i(s_i), t_i) trains f_i, b_i by lr; MSE(h_i(g_i(t_{i-1})), t_{i-1}) trains g_i, h_i by auto_lr;
    s_i = f_i(s_{i-1}), t_i = g_i(t_{i-1}), s_0 = x, t_0 = y (eqs. 4.1, 4.4, 4.7). With `cells`, b_i reads the means of
    an image over its cells. With `label_loss`, that is the second term of the first component
    -> (components, [(associated loss, autoencoder loss), ...])."""
    s, t, new, losses = x, y, [], []
    for c in components:
        fs, f_caches = stack_forward(c["f"], s)
        bs, b_caches = stack_forward(c["b"], flatten(average_cells(fs[-1], cells)))
        gs, g_caches = stack_forward(c["g"], t)
        ds, h_caches = stack_forward(c["h"], gs[-1])
        associated, d = mse(bs[-1], gs[-1])
        d, b_grads = stack_backward(c["b"], b_caches, d)
        _, f_grads = stack_backward(c["f"], f_caches, average_cells_backward(d, cells, fs[-1].shape))
        first = t is y and label_loss
        autoencoder, d = task_loss(ds[-1], y, label_loss)[::2] if first else mse(ds[-1], t)
        d, h_grads = stack_backward(c["h"], h_caches, d)
        _, g_grads = stack_backward(c["g"], g_caches, d)
        new.append(
            {
                "f": sgd_all(c["f"], f_grads, lr),
                "b": sgd_all(c["b"], b_grads, lr),
                "g": sgd_all(c["g"], g_grads, auto_lr),
                "h": sgd_all(c["h"], h_grads, auto_lr),
            }
        )
        losses.append((associated, autoencoder))
        s, t = fs[-1], gs[-1]
    return new, losses


def al_predict(components, x):
    """h_1 o ... o h_N o b_N o f_N o ... o f_1 (x) (eq. 4.8)."""
    s = x
    for c in components:
        s = forward(c["f"], s)
    t = forward(components[-1]["b"], flatten(s))
    for c in reversed(components):
        t = forward(c["h"], t)
    return t
