"""Plain-NumPy reference of Associated Learning on sequences, written from the papers' equations; derivatives by hand.

Every function of weights and an input returns its output and `back`, which leads from the derivative of a loss by the
output to those by the input and by the weights. `embedding`, `lstm` and `encoder` read *one* sequence (n, D) without
its padding, so a batch is a list of sequences of different lengths, and nothing needs a mask. Weights have the names
that they have in the library.

References:
  Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000.
  Vaswani et al., 2017, sections 3.1 to 3.5.
  Kao and Chen, 2021, equations 4.1 to 4.8.
"""

import numpy as np

GATES = "ifgo"


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def dense(w, x):
    """y = x W + b;  dx = dy W^T,  dW = x^T dy,  db = the sum of dy over the rows."""

    def back(dy):
        return dy @ w["kernel"].T, {"kernel": x.T @ dy, "bias": dy.sum(0)}

    return x @ w["kernel"] + w["bias"], back


def add(a, b):
    """The sum of two trees of the same structure."""
    return {key: add(a[key], b[key]) for key in a} if isinstance(a, dict) else a + b


# ------------------------------------------------------------------------------------------------- embedding
def positions(steps, features):
    """sin(p / 10000^(2j/D)), then cos(p / 10000^(2j/D)), for j = 0 ... D/2 - 1 (Vaswani et al., section 3.5)."""
    angles = np.arange(steps)[:, None] / 10000 ** (2 * np.arange(features // 2) / features)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def embedding(w, ids, with_positions=False):
    """e_t = E[x_t], or sqrt(D) E[x_t] + position t (section 3.4);  dE[k] = the sum of de_t over all t with x_t = k,
    times sqrt(D) with positions. Token ids have no derivative."""
    table = w["embed"]["embedding"]
    scale = np.sqrt(table.shape[1]) if with_positions else 1

    def back(de):
        d_table = np.zeros_like(table)
        for t, k in enumerate(ids):
            d_table[k] += scale * de[t]
        return None, {"embed": {"embedding": d_table}}

    e = scale * table[ids]
    return (e + positions(*e.shape) if with_positions else e), back


# ------------------------------------------------------------------------------------------------------ LSTM
def lstm_cell(w, x, h_below, c_below):
    """a_k = x W_k + h' U_k + b_k for the gates k;  i, f, o = sigmoid(a), g = tanh(a_g);
    c = f c' + i g,  h = o tanh(c)."""
    a = {k: x @ w[f"i{k}"]["kernel"] + h_below @ w[f"h{k}"]["kernel"] + w[f"h{k}"]["bias"] for k in GATES}
    i, f, g, o = sigmoid(a["i"]), sigmoid(a["f"]), np.tanh(a["g"]), sigmoid(a["o"])
    c = f * c_below + i * g
    h = o * np.tanh(c)

    def back(dh, dc):
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        da = {
            "i": dc * g * i * (1 - i),
            "f": dc * c_below * f * (1 - f),
            "g": dc * i * (1 - g**2),
            "o": dh * np.tanh(c) * o * (1 - o),
        }
        grads = {f"i{k}": {"kernel": np.outer(x, da[k])} for k in GATES}
        grads |= {f"h{k}": {"kernel": np.outer(h_below, da[k]), "bias": da[k]} for k in GATES}
        dx = sum(da[k] @ w[f"i{k}"]["kernel"].T for k in GATES)
        dh_below = sum(da[k] @ w[f"h{k}"]["kernel"].T for k in GATES)
        return dx, dh_below, dc * f, grads

    return h, c, back


def one_direction(w, x, order):
    """h_t for the steps in this order, from h = c = 0; back through time in the opposite order."""
    h = c = np.zeros_like(w["hi"]["bias"])
    hs, backs = np.zeros((len(x), len(h))), {}
    for t in order:
        h, c, backs[t] = lstm_cell(w, x[t], h, c)
        hs[t] = h

    def back(dhs):
        dx, dh, dc = np.zeros_like(x), np.zeros_like(h), np.zeros_like(c)
        total = {name: {key: np.zeros_like(leaf) for key, leaf in of.items()} for name, of in w.items()}
        for t in reversed(order):
            dx[t], dh, dc, grads = backs[t](dhs[t] + dh, dc)
            total = add(total, grads)
        return dx, total

    return hs, back


def lstm(w, x):
    """The outputs of the direction `onward`, beside those of the direction `backward` if there are weights for it."""
    orders = {"onward": range(len(x)), "backward": range(len(x))[::-1]}
    read = {name: one_direction(w[name]["cell"], x, orders[name]) for name in orders if name in w}

    def back(dh):
        pieces = zip(read.items(), np.split(dh, len(read), axis=1), strict=True)
        backs = {name: back_one(piece) for (name, (_, back_one)), piece in pieces}
        return sum(dx for dx, _ in backs.values()), {name: {"cell": grads} for name, (_, grads) in backs.items()}

    return np.concatenate([hs for hs, _ in read.values()], axis=1), back


# ----------------------------------------------------------------------------------------------- transformer
def layer_norm(w, x, eps=1e-6):
    """y = scale u + bias,  u = (x - mean) / sqrt(var + eps) over the features of each token."""
    centred = x - x.mean(1, keepdims=True)
    inv_std = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + eps)
    u = centred * inv_std

    def back(dy):
        du = dy * w["scale"]
        dx = inv_std * (du - du.mean(1, keepdims=True) - u * (du * u).mean(1, keepdims=True))
        return dx, {"scale": (dy * u).sum(0), "bias": dy.sum(0)}

    return w["scale"] * u + w["bias"], back


def attention_head(q, k, v):
    """P v with P = softmax(q k^T / sqrt(d)) by rows;  dS = P (dP - the row sums of P dP)."""
    scale = 1 / np.sqrt(q.shape[1])
    e = np.exp(q @ k.T * scale)
    p = e / e.sum(1, keepdims=True)

    def back(dy):
        dp = dy @ v.T
        ds = p * (dp - (p * dp).sum(1, keepdims=True)) * scale
        return ds @ k, ds.T @ q, p.T @ dy

    return p @ v, back


def attention(w, x):
    """The heads side by side, each of its own queries, keys and values, and a dense map of them (section 3.2.2)."""
    features, heads, width = w["query"]["kernel"].shape
    flat = {
        name: {"kernel": w[name]["kernel"].reshape(features, -1), "bias": w[name]["bias"].ravel()}
        for name in ("query", "key", "value")
    }
    flat["out"] = {"kernel": w["out"]["kernel"].reshape(heads * width, -1), "bias": w["out"]["bias"]}
    maps = {name: dense(flat[name], x) for name in ("query", "key", "value")}
    split = [np.split(y, heads, axis=1) for y, _ in maps.values()]
    read = [attention_head(*qkv) for qkv in zip(*split, strict=True)]
    y, back_out = dense(flat["out"], np.concatenate([y for y, _ in read], axis=1))

    def back(dy):
        d_heads, grads = back_out(dy)
        of_heads = [back_one(d) for (_, back_one), d in zip(read, np.split(d_heads, heads, axis=1), strict=True)]
        grads, dx = {"out": grads}, 0
        for (name, (_, back_map)), d in zip(maps.items(), zip(*of_heads, strict=True), strict=True):
            d_map, grads[name] = back_map(np.concatenate(d, axis=1))
            dx = dx + d_map
        return dx, {n: {key: g.reshape(w[n][key].shape) for key, g in of.items()} for n, of in grads.items()}

    return y, back


def gelu(a):
    """a (1 + tanh u) / 2 with u = sqrt(2 / pi) (a + 0.044715 a^3), and its derivative."""
    u, slope = np.sqrt(2 / np.pi) * (a + 0.044715 * a**3), np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * a**2)
    return a * (1 + np.tanh(u)) / 2, (1 + np.tanh(u)) / 2 + a * (1 - np.tanh(u) ** 2) * slope / 2


def feed_forward(w, x):
    """gelu(x W_1 + b_1) W_2 + b_2 (equation 2, with gelu in place of the ReLU)."""
    a, back_wide = dense(w["wide"], x)
    h, slope = gelu(a)
    y, back_narrow = dense(w["narrow"], h)

    def back(dy):
        dh, narrow = back_narrow(dy)
        dx, wide = back_wide(dh * slope)
        return dx, {"wide": wide, "narrow": narrow}

    return y, back


def named(name, layer):
    """The layer with its weights under their name in a block."""

    def of_block(w, x):
        y, back_layer = layer(w[name], x)

        def back(dy):
            dx, grads = back_layer(dy)
            return dx, {name: grads}

        return y, back

    return of_block


attending = named("attention", attention)
linear_layer = named("linear", dense)  # x W + b: the decoder of the labels' scores, and the same map of every step


def sublayer(part, norm, norm_first):
    """norm(x + part(x)) (section 3.1), or x + part(norm(x))."""

    def apply(w, x):
        if norm_first:
            inside, back_norm = layer_norm(w[norm], x)
            y, back_part = part(w, inside)
            y = x + y
        else:
            y, back_part = part(w, x)
            y, back_norm = layer_norm(w[norm], x + y)

        def back(dy):
            if norm_first:
                inside, grads = back_part(dy)
                dx, norm_grads = back_norm(inside)
                return dy + dx, grads | {norm: norm_grads}
            dy, norm_grads = back_norm(dy)
            dx, grads = back_part(dy)
            return dy + dx, grads | {norm: norm_grads}

        return y, back

    return apply


def encoder(w, x, norm_first=True):
    """Attention of every token to every token, then a dense network for each token, each with its residual."""
    a, back_attention = sublayer(attending, "norm_attention", norm_first)(w, x)
    y, back_dense = sublayer(feed_forward, "norm_dense", norm_first)(w, a)

    def back(dy):
        da, grads = back_dense(dy)
        dx, more = back_attention(da)
        return dx, grads | more

    return y, back


# --------------------------------------------------------------------------------------- Associated Learning
def sigmoid_layer(w, x):
    """sigmoid(x W + b): the bridge b, the encoder g and the decoder h."""
    a, back_dense = dense(w["linear"], x)
    y = sigmoid(a)

    def back(dy):
        dx, grads = back_dense(dy * y * (1 - y))
        return dx, {"linear": grads}

    return y, back


def mean_over_tokens(s):
    """(B, D) from a list of B sequences; zero for an empty one. ds_t = dm / n at each of its n tokens."""

    def back(dm):
        return [np.tile(d / max(len(row), 1), (len(row), 1)) for row, d in zip(s, dm, strict=True)]

    return np.stack([row.sum(0) / max(len(row), 1) for row in s]), back


def mse(p, target):
    """The mean over batch and units of (p - target)^2, and its derivative by p."""
    return ((p - target) ** 2).mean(), 2 * (p - target) / p.size


def al_component(f, w, s_below, t_below):
    """s = f(s_below) and t = g(t_below);  MSE(b(mean of s), t) trains f and b, and MSE(h(t), t_below) trains g and h
    (equations 4.1, 4.4 and 4.7) -> (the two losses, gradients, s, t)."""
    read = [f(w["forward"], row) for row in s_below]
    s = [row for row, _ in read]
    m, back_mean = mean_over_tokens(s)
    p, back_bridge = sigmoid_layer(w["bridge"], m)
    t, back_encoder = sigmoid_layer(w["encoder"], t_below)
    r, back_decoder = sigmoid_layer(w["decoder"], t)

    associated, dp = mse(p, t)
    dm, bridge = back_bridge(dp)
    forward = None
    for (_, back_f), ds in zip(read, back_mean(dm), strict=True):
        if len(ds):
            _, grads = back_f(ds)
            forward = add(forward, grads) if forward else grads

    autoencoder, dr = mse(r, t_below)
    dt, decoder = back_decoder(dr)
    _, encoder_grads = back_encoder(dt)
    grads = {"forward": forward, "bridge": bridge, "encoder": encoder_grads, "decoder": decoder}
    return (associated, autoencoder), grads, s, t


def al_gradients(fs, components, x, y):
    """What each component learns from one batch of sequences x and targets y -> (losses, gradients)."""
    s, t, losses, grads = x, y, [], []
    for f, w in zip(fs, components, strict=True):
        loss, grad, s, t = al_component(f, w, s, t)
        losses.append(loss)
        grads.append(grad)
    return losses, grads


def al_predict(fs, components, x):
    """h_1 o ... o h_i o b_i o f_i o ... o f_1 (x), for each component i; for the last one this is equation 4.8."""
    s, found = x, []
    for i, (f, w) in enumerate(zip(fs, components, strict=True)):
        s = [f(w["forward"], row)[0] for row in s]
        t, _ = sigmoid_layer(w["bridge"], mean_over_tokens(s)[0])
        for below in components[i::-1]:
            t, _ = sigmoid_layer(below["decoder"], t)
        found.append(t)
    return found


# ------------------------------------------------------------------------------------- a target for each token
def among(rows, counted):
    """The rows that count, and the way back: zeros for the others."""

    def back(d):
        all_rows = np.zeros((len(counted), *d.shape[1:]))
        all_rows[counted] = d
        return all_rows

    return rows[counted], back


def softmax_cross_entropy(scores, y):
    """The mean over the rows of -sum y log p, and its derivative by the scores, (p - y) / the number of rows."""
    e = np.exp(scores - scores.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return -(y * np.log(p)).sum(1).mean(), (p - y) / len(y)


def al_component_of_tokens(f, w, s_below, t_below, counted, label_loss=mse):
    """As `al_component`, with lists of the sequences' targets (n, C). Bridge, encoder and decoder map every token by
    itself, and both losses are means over the tokens that count, those with a target. With the cross entropy as the
    label's loss the decoder is linear."""
    read = [f(w["forward"], row) for row in s_below]
    lengths = np.cumsum([len(row) for row, _ in read])[:-1]
    t_below, counted = np.concatenate(t_below), np.concatenate(counted)
    decoder_layer = sigmoid_layer if label_loss is mse else linear_layer
    s, back_s = among(np.concatenate([row for row, _ in read]), counted)
    p, back_bridge = sigmoid_layer(w["bridge"], s)
    t, back_encoder = sigmoid_layer(w["encoder"], t_below[counted])
    r, back_decoder = decoder_layer(w["decoder"], t)

    associated, dp = mse(p, t)
    ds, bridge = back_bridge(dp)
    forward = None
    for (_, back_f), d in zip(read, np.split(back_s(ds), lengths), strict=True):
        if len(d):
            _, grads = back_f(d)
            forward = add(forward, grads) if forward else grads

    autoencoder, dr = label_loss(r, t_below[counted])
    dt, decoder = back_decoder(dr)
    _, encoder_grads = back_encoder(dt)
    grads = {"forward": forward, "bridge": bridge, "encoder": encoder_grads, "decoder": decoder}
    codes = np.split(among(t_below, counted)[1](t), lengths)
    return (associated, autoencoder), grads, [row for row, _ in read], codes


def al_gradients_of_tokens(fs, components, x, y, label_loss):
    """As `al_gradients`, for targets y of each token; a row of zeros is none."""
    s, t, counted, losses, grads = x, y, [row.any(1) for row in y], [], []
    for i, (f, w) in enumerate(zip(fs, components, strict=True)):
        loss, grad, s, t = al_component_of_tokens(f, w, s, t, counted, label_loss if i == 0 else mse)
        losses.append(loss)
        grads.append(grad)
    return losses, grads


def al_predict_tokens(fs, components, x, label_loss):
    """The scores of every token, sequence by sequence: the mean over the components."""
    lowest = sigmoid_layer if label_loss is mse else linear_layer
    s, total = x, [0.0] * len(x)
    for i, (f, w) in enumerate(zip(fs, components, strict=True)):
        s = [f(w["forward"], row)[0] for row in s]
        t = [sigmoid_layer(w["bridge"], row)[0] for row in s]
        for below in components[i:0:-1]:
            t = [sigmoid_layer(below["decoder"], row)[0] for row in t]
        total = [old + lowest(components[0]["decoder"], row)[0] for old, row in zip(total, t, strict=True)]
    return [one / len(components) for one in total]


def dfa_gradients_of_tokens(embeddings, w, feedback, head, y):
    """Direct feedback alignment of a block `steps` and a linear head. The error of token t is e_t = (p_t - y_t) / N,
    where N tokens have a target; dW = the sum over the tokens of x_t^T (e_t B), and the head has its true gradient."""
    x, y = np.concatenate(embeddings), np.concatenate(y)
    counted = y.any(1)
    a, back_steps = linear_layer(w, x)
    scores, back_head = linear_layer(head, a)
    error = among(scores, counted)[1](softmax_cross_entropy(scores[counted], y[counted])[1])
    return back_steps(error @ feedback)[1], back_head(error)[1]
