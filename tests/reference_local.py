"""Plain-NumPy reference of the rules with a loss for each block, from the papers' equations; derivatives by hand.

Layers, networks and conventions are those of reference.py. A map M of the similarity loss is a linear layer whose b is
zero and stays so.
"""

import numpy as np
from reference import (
    average_cells,
    average_cells_backward,
    flatten,
    layer_backward,
    layer_forward,
    sgd,
    sgd_all,
    stack_backward,
    stack_forward,
    task_loss,
)

TINY = 1e-8


def similarity(v):
    """S_ij = (v_i - mean) . (v_j - mean) / (|v_i - mean| |v_j - mean|); a constant v_i has S_ij = 0
    -> (S, unit vectors, lengths)."""
    centred = v - v.mean(1, keepdims=True)
    square = (centred**2).sum(1, keepdims=True)
    length = np.where(square > TINY, np.sqrt(square), np.inf)
    unit = centred / length
    return unit @ unit.T, unit, length


def similarity_backward(dS, unit, length):
    """dv = P (I - u u^T) (dS + dS^T) u / |v - mean| row by row, P the projection that subtracts the mean."""
    du = (dS + dS.T) @ unit
    dc = (du - unit * (du * unit).sum(1, keepdims=True)) / length
    return dc - dc.mean(1, keepdims=True)


def features(v):
    """The standard deviation of each channel of an image with more than three channels and one pixel; else v, flat."""
    if v.ndim == 2 or v.shape[-1] <= 3 or v[0].size == v.shape[-1]:
        return flatten(v)
    pixels = v[0].size // v.shape[-1]
    square = pixels * v.var((1, 2))
    return np.where(square > TINY, np.sqrt(square / pixels), 0)


def features_backward(d, v):
    """d std / dv = (v - mean) / (number of pixels * std)."""
    if v.ndim == 2 or v.shape[-1] <= 3 or v[0].size == v.shape[-1]:
        return d.reshape(v.shape)
    std, pixels = features(v)[:, None, None], v[0].size // v.shape[-1]
    slope = np.divide(v - v.mean((1, 2), keepdims=True), pixels * std, out=np.zeros_like(v), where=std > 0)
    return d[:, None, None] * slope


def similarity_loss(a, linear, y):
    """mean_ij (S(M a) - S(y))_ij^2 -> (loss, its derivative by a, the gradient of M)."""
    v, cache = layer_forward(linear, a)
    S, unit, length = similarity(features(v))
    error = S - similarity(y)[0]
    dv = features_backward(similarity_backward(2 * error / error.size, unit, length), v)
    da, grads = layer_backward(linear, cache, dv)
    return (error**2).mean(), da, {"W": grads["W"]}


def prediction_loss(a, head, y, inputs, loss):
    """The task loss of the head on a, averaged over the most cells that leave `inputs` numbers or fewer
    -> (loss, its derivative by a, the gradients of the head)."""
    cells = None if a.ndim == 2 else max(n for n in range(1, max(a.shape[1:3]) + 1) if n * n * a.shape[-1] <= inputs)
    scores, cache = layer_forward(head, average_cells(a, cells))
    value, _, delta = task_loss(scores, y, loss)
    d, grads = layer_backward(head, cache, delta)
    return value, average_cells_backward(d, cells, a.shape), grads


def dgl_step(components, classifiers, x, y, lr, loss="ce"):
    """Component i descends the task loss of its classifier on a_i, averaged over 2 x 2 cells of an image; the last one,
    with the head, descends that of its own output -> (components, classifiers, losses)."""
    a, new, new_classifiers, losses = x, [], [], []
    for layers, classifier in zip(components, [*classifiers, []], strict=True):
        hs, caches = stack_forward(layers, a)
        a, cells = hs[-1], 2 if hs[-1].ndim > 2 else None
        scores, c_caches = stack_forward(classifier, flatten(average_cells(a, cells)))
        value, _, delta = task_loss(scores[-1], y, loss)
        d, c_grads = stack_backward(classifier, c_caches, delta)
        _, grads = stack_backward(layers, caches, average_cells_backward(d, cells, a.shape))
        new.append(sgd_all(layers, grads, lr))
        new_classifiers.append(sgd_all(classifier, c_grads, lr))
        losses.append(value)
    return new, new_classifiers[:-1], losses


def contrast(v, y, temperature):
    """mean_i -1/n_i sum over j != i of the class of i of log exp(v_i . v_j / tau) / sum_{k != i} exp(v_i . v_k / tau),
    v of length one -> (loss, its derivative by the v before they were divided by their lengths)."""
    square = (v**2).sum(1, keepdims=True)
    length = np.where(square > TINY, np.sqrt(square), np.inf)
    unit, alike, others = v / length, y @ y.T, 1 - np.eye(len(v))
    similar = unit @ unit.T / temperature
    e = np.exp(similar - similar.max()) * others
    share, pull = e / e.sum(1, keepdims=True), alike * others / alike.sum(1, keepdims=True)
    value = -(pull * np.log(share + np.eye(len(v)))).sum(1).mean()
    error = (pull.sum(1, keepdims=True) * share - pull) / len(v) / temperature
    d = (error + error.T) @ unit
    return value, (d - unit * (d * unit).sum(1, keepdims=True)) / length


def scpl_step(components, projections, x, y, lr, temperature):
    """Component i descends the contrast of its projected output; the last one, the head, descends the task loss
    -> (components, projections, losses)."""
    a, new, new_projections, losses = x, [], [], []
    for layers, projection in zip(components[:-1], projections, strict=True):
        hs, caches = stack_forward(layers, a)
        a = hs[-1]
        codes, p_caches = stack_forward(projection, flatten(a))
        value, d = contrast(codes[-1], y, temperature)
        d, p_grads = stack_backward(projection, p_caches, d)
        new.append(sgd_all(layers, stack_backward(layers, caches, d.reshape(a.shape))[1], lr))
        new_projections.append(sgd_all(projection, p_grads, lr))
        losses.append(value)
    (head,) = components[-1]
    scores, cache = layer_forward(head, a)
    value, _, delta = task_loss(scores, y)
    return [*new, [sgd(head, layer_backward(head, cache, delta)[1], lr)]], new_projections, [*losses, value]


def labelled(x, label, flat):
    """The label in front of the vector, or in front of the channels of each pixel."""
    x = flatten(x) if flat else x
    places = np.ones((*x.shape[:-1], 1)) * label.reshape(len(label), *[1] * (x.ndim - 2), -1)
    return np.concatenate([places, x], axis=-1)


def ff_step(net, x, y, wrong, lr, threshold):
    """Each block descends mean log(1 + exp(-(g - theta))) of the examples with the right labels y, plus mean
    log(1 + exp(g - theta)) of those with wrong ones; g = sum of a^2, theta = threshold times the number of units
    -> (net, losses)."""
    a = np.concatenate([labelled(x, label, net[0]["kind"] == "dense") for label in (y, wrong)])
    sign, new, losses = np.repeat([1, -1], len(x)), [], []
    for block in net:
        rms = np.sqrt(np.maximum((flatten(a) ** 2).mean(1), TINY)).reshape(-1, *[1] * (a.ndim - 1))
        a, cache = layer_forward(block, a / rms)
        z = sign * ((flatten(a) ** 2).sum(1) - threshold * a[0].size)
        losses.append(np.logaddexp(0, -z).sum() / len(x))
        slope = -sign * (1 - np.tanh(z / 2)) / 2 / len(x)
        new.append(sgd(block, layer_backward(block, cache, 2 * a * slope.reshape(-1, *[1] * (a.ndim - 1)))[1], lr))
    return new, losses


def scaled(grads, factor):
    return {name: factor * grad for name, grad in grads.items()}


def predsim_step(net, heads, maps, x, y, lr, beta, inputs, loss="ce"):
    """Each block descends (1 - beta) prediction + beta similarity; the last layer descends the task loss
    -> (net, heads, maps, losses)."""
    a, new, losses = x, [], []
    for block, head, linear in zip(net[:-1], heads, maps, strict=True):
        a, cache = layer_forward(block, a)
        predicted, by_head, head_grads = prediction_loss(a, head, y, inputs, loss)
        similar, by_map, map_grads = similarity_loss(a, linear, y)
        _, grads = layer_backward(block, cache, (1 - beta) * by_head + beta * by_map)
        learned = (block, grads), (head, scaled(head_grads, 1 - beta)), (linear, scaled(map_grads, beta))
        new.append([sgd(layer, grad, lr) for layer, grad in learned])
        losses.append((1 - beta) * predicted + beta * similar)
    scores, cache = layer_forward(net[-1], a)
    value, _, delta = task_loss(scores, y, loss)
    last = sgd(net[-1], layer_backward(net[-1], cache, delta)[1], lr)
    blocks, heads, maps = map(list, zip(*new, strict=True))
    return [*blocks, last], heads, maps, [*losses, value]
