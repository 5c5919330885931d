"""The NumPy reference of the rules with a loss for each block, against central differences (float64)."""

import numpy as np
import pytest
import reference as ref
import reference_local as local
from test_reference import B, C, check_layer, check_stacks, cnn, conv, dense, mlp, one_hot, out


def similarities(v):
    """Pair by pair, as the correlation of two rows."""
    return np.array([[np.corrcoef(a, b)[0, 1] for b in v] for a in v])


@pytest.mark.parametrize("make", [mlp, cnn])
def test_predsim_follows_both_losses_of_each_block(make):
    net, x = make()
    y, beta, inputs = one_hot(), 0.7, 12
    if make is cnn:  # the second convolution has more than three channels, whose standard deviations are compared
        net[1] = conv(20, 3, 5, stride=2)
        net[2] = dense(30, 2 * 5, 4)
    heads, maps, a = [], [], x
    for seed, block in enumerate(net[:-1]):
        a = out(block, a)
        features = a.shape[-1]
        # Of 2 x 4 pixels with 3 channels 2 x 2 are left, and of 1 x 2 pixels with 5 channels a single one.
        heads.append(dense(50 + seed, features if a.ndim == 2 else {3: 12, 5: 5}[features], C, "linear"))
        linear = dense if a.ndim == 2 else conv
        maps.append(linear(70 + seed, features, features, act="linear") | {"b": np.zeros(features)})
    new, new_heads, new_maps, losses = local.predsim_step(net, heads, maps, x, y, 0.5, beta, inputs)
    below = x
    for i, (block, head, linear) in enumerate(zip(net[:-1], heads, maps, strict=True)):

        def objective(block, head, linear, below=below):
            a = out(block, below)
            v, read = out(linear, a), a
            if a.ndim > 2:
                side = 2 if a.shape[-1] == 3 else 1
                read = a.reshape(B, side, a.shape[1] // side, side, a.shape[2] // side, -1).mean((2, 4))
                v = v.std((1, 2)) if a.shape[-1] > 3 else v.reshape(B, -1)
            predicted = ref.task_loss(out(head, read), y)[0]
            return (1 - beta) * predicted + beta * np.mean((similarities(v) - similarities(y)) ** 2)

        np.testing.assert_allclose(losses[i], objective(block, head, linear))
        check_layer(block, new[i], lambda f, h=head, m=linear, o=objective: o(f, h, m), 0.5)
        check_layer(head, new_heads[i], lambda h, f=block, m=linear, o=objective: o(f, h, m), 0.5)
        old, learned = ({"W": layer["W"]} for layer in (linear, new_maps[i]))
        check_layer(old, learned, lambda m, f=block, h=head, a=linear, o=objective: o(f, h, a | m), 0.5)
        below = out(block, below)
    check_layer(net[-1], new[-1], lambda f: ref.task_loss(out(f, below), y)[0], 0.5)


def test_examples_without_variation_are_similar_to_none():
    v = np.array([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0], [-1.0, -2.0, -4.0]])
    np.testing.assert_allclose(local.similarity(v)[0], [[1, 0, -1], [0, 0, 0], [-1, 0, 1]], atol=1e-15)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_dgl_follows_the_loss_of_each_classifier(make):
    net, x = make()
    y, components = one_hot(), [net[:1], net[1:2], net[2:]]
    read = [5, 4] if make is mlp else [2 * 2 * 3, 1 * 2 * 2]
    classifiers = [[dense(50 + n, n, n, "relu"), dense(60 + n, n, C, "linear")] for n in read]
    new, new_classifiers, losses = local.dgl_step(components, classifiers, x, y, 0.5)
    below = x
    for i, layers in enumerate(components):
        classifier = [*classifiers, []][i]

        def objective(layers, classifier, below=below):
            a = ref.forward(layers, below)
            if a.ndim > 2:  # of 2 x 4 pixels 2 x 2 means are left, and 1 x 2 pixels are as they are
                a = a.reshape(B, a.shape[1], 2, a.shape[2] // 2, -1).mean(3).reshape(B, -1)
            return ref.task_loss(ref.stack_forward(classifier, a)[0][-1], y)[0]

        np.testing.assert_allclose(losses[i], objective(layers, classifier))
        check_stacks(layers, new[i], lambda f, c=classifier, o=objective: o(f, c), 0.5)
        check_stacks(classifier, [*new_classifiers, []][i], lambda c, f=layers, o=objective: o(f, c), 0.5)
        below = ref.forward(layers, below)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_ff_follows_the_goodness_of_right_and_wrong_labels(make):
    net, x = make()
    blocks, y, places = net[:-1], one_hot(), np.ones((*x.shape[:-1], 1))
    wrong = np.roll(y, 1, axis=1)
    wide = 0.2 * np.random.default_rng(5).normal(size=(*net[0]["W"].shape[:-2], C, net[0]["W"].shape[-1]))
    blocks[0] = net[0] | {"W": np.concatenate([wide, net[0]["W"]], axis=-2)}
    new, losses = local.ff_step(blocks, x, y, wrong, 0.5, 0.4)
    a = [np.concatenate([places * label.reshape(B, *[1] * (x.ndim - 2), C), x], -1) for label in (y, wrong)]
    a = np.concatenate(a)
    for i, block in enumerate(blocks):
        below = np.array([example / np.sqrt(np.mean(example**2)) for example in a])

        def objective(block, below=below):
            goodness = [np.sum(example**2) - 0.4 * example.size for example in out(block, below)]
            return np.mean(np.log(1 + np.exp(-np.array(goodness[:B])))) + np.mean(np.log(1 + np.exp(goodness[B:])))

        np.testing.assert_allclose(losses[i], objective(block))
        check_layer(block, new[i], objective, 0.5)
        a = out(block, below)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_scpl_follows_the_contrast_of_each_projection(make):
    net, x = make()
    y, components = one_hot(0), [net[:2], net[2:3], net[3:]]
    label = y.argmax(1)
    assert sorted(np.bincount(label)) == [1, 2, 2]  # one example is alone in its class
    projections = [[dense(50 + n, n, 6, "relu"), dense(60 + n, 6, 5, "linear")] for n in (4, 4)]
    new, new_projections, losses = local.scpl_step(components, projections, x, y, 0.5, 0.3)
    below = x
    for i, (layers, projection) in enumerate(zip(components[:2], projections, strict=True)):

        def objective(layers, projection, below=below):
            v = ref.stack_forward(projection, ref.forward(layers, below).reshape(B, -1))[0][-1]
            cosine = np.array([[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in v] for a in v])
            total = 0
            for anchor in range(B):
                all_others = sum(np.exp(cosine[anchor, k] / 0.3) for k in range(B) if k != anchor)
                same_class = [j for j in range(B) if label[j] == label[anchor]]
                attracted = [np.log(np.exp(cosine[anchor, j] / 0.3) / all_others) for j in same_class if j != anchor]
                total -= sum(attracted) / len(same_class)
            return total / B

        np.testing.assert_allclose(losses[i], objective(layers, projection))
        check_stacks(layers, new[i], lambda f, p=projection, o=objective: o(f, p), 0.5)
        check_stacks(projection, new_projections[i], lambda p, f=layers, o=objective: o(f, p), 0.5)
        below = ref.forward(layers, below)
    check_stacks(components[2], new[2], lambda f: ref.task_loss(ref.forward(f, below), y)[0], 0.5)
