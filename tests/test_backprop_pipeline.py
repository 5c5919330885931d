"""Pipelined backpropagation has the gradients of bp, its timetables are those of the papers, and it keeps little."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import make_batch, slow

import jaxlocal as jl
from experiments.speed.backprop_pipeline import BackpropPipeline, balanced, gradient_error, micro_batch
from experiments.speed.backprop_schedule import eager_one_forward_one_backward, gpipe, one_forward_one_backward
from experiments.speed.backprop_stage import make_stages

NET = jl.models.mlp((7, 6, 5), classes=3)  # four input units
CNN = jl.Network((jl.layers.conv(3), jl.layers.conv(4, stride=2), jl.layers.dense(5, jnp.tanh)), jl.layers.Head(3))
SGD = optax.sgd(0.1)
LSTM = jl.models.lstm_classifier(vocabulary=9, classes=3, features=4, hidden=(3, 2))


def texts():
    """Eight texts of five tokens, half of them padded."""
    ids = jax.random.randint(jax.random.key(1), (8, 5), 0, 9).at[:4, 3:].set(0)
    return ids, jax.nn.one_hot(jnp.arange(8) % 3, 3)


def image_batch(size):
    x, y = make_batch(NET, size)
    return jnp.tile(x[:, :, None, None], (1, 1, 4, 2)), y


@pytest.mark.parametrize("micro", [1, 2, 5, 8])
@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("schedule", [gpipe, one_forward_one_backward, eager_one_forward_one_backward])
def test_every_micro_batch_passes_every_stage_in_order(schedule, stages, micro):
    table = schedule(stages, micro)
    assert (table.micro, table.stages) == (micro, stages)
    when = np.array([[[np.flatnonzero(one[:, i] == m) for m in range(micro)] for i in range(stages)] for one in table])
    forward, backward = when[..., 0]  # each was found once
    assert (np.diff(forward, axis=0) > 0).all() and (np.diff(backward, axis=0) < 0).all()
    assert (np.diff(forward, axis=1) > 0).all() and (np.diff(backward, axis=1) > 0).all()
    assert (forward[-1] <= backward[-1]).all()


def test_what_the_timetables_promise():
    for stages, micro in [(2, 4), (2, 8), (4, 8)]:
        bubble = pytest.approx((stages - 1) / (micro + stages - 1))
        assert gpipe(stages, micro).bubble() == eager_one_forward_one_backward(stages, micro).bubble() == bubble
        assert gpipe(stages, micro).held == (micro,) * stages
        assert one_forward_one_backward(stages, micro).held == tuple(range(stages, 0, -1))
    assert one_forward_one_backward(2, 8).bubble() == pytest.approx(1 / 9)
    assert one_forward_one_backward(2, 8).ticks == 10 and gpipe(2, 8).ticks == 17


@pytest.mark.parametrize("micro", [2, 4, 8, 32])
@pytest.mark.parametrize("stages", [2, 4, 8, 16, 64])
def test_1f1b_idles_as_much_as_gpipe_and_exchanges_as_often(stages, micro):
    eager, other = eager_one_forward_one_backward(stages, micro), gpipe(stages, micro)
    assert eager.bubble() == pytest.approx(other.bubble()) and eager.exchanges == other.exchanges
    assert max(eager.held) <= min(micro, 2 * (stages - 1))


@pytest.mark.parametrize("micro", [1, 2, 8])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_how_often_messages_are_exchanged(stages, micro):
    """Of GPipe the last micro-batch arrives after those before it, a stage in each exchange, and so does its error."""
    assert gpipe(stages, micro).exchanges == (2 * (micro + stages - 2) if stages > 1 else 0)
    assert one_forward_one_backward(2, micro).exchanges == 2 * micro


@pytest.mark.parametrize(
    ("schedule", "sizes", "micro"),
    [
        (one_forward_one_backward, (3, 1), 4),
        slow(gpipe, (1, 1, 1, 1), 2),
        slow(eager_one_forward_one_backward, (1, 1, 1, 1), 8),
    ],
)
def test_gradients_and_loss_are_those_of_bp(schedule, sizes, micro):
    timetable, mesh = schedule(len(sizes), micro), jl.pipeline.mesh(stage=len(sizes))
    assert gradient_error(BackpropPipeline(NET, SGD, mesh, sizes, timetable), make_batch(NET, 16)) < 1e-5


@pytest.mark.slow
def test_gradients_of_a_convolutional_net():
    pipe = BackpropPipeline(CNN, SGD, jl.pipeline.mesh(stage=2), (2, 2), one_forward_one_backward(2, 4))
    assert gradient_error(pipe, image_batch(8)) < 1e-5


@pytest.mark.slow
def test_gradients_of_a_net_for_texts():
    """Its stages hand on sequences with a mask, which has no error."""
    timetable, mesh = one_forward_one_backward(2, 4), jl.pipeline.mesh(stage=2)
    assert gradient_error(BackpropPipeline(LSTM, SGD, mesh, (2, 2), timetable), texts()) < 1e-5


@pytest.mark.slow
def test_several_steps_of_adam():
    tx, batch = optax.adam(1e-2), make_batch(NET, 16)
    rule = jl.rules.bp(NET, tx)
    pipe = BackpropPipeline(NET, tx, jl.pipeline.mesh(stage=2), (3, 1), gpipe(2, 4))
    params = rule.init(jax.random.key(0), batch)
    batches = jnp.stack([batch[0], -batch[0], 2 * batch[0]]), jnp.stack([batch[1]] * 3)
    wanted, infos = jax.lax.scan(rule.step, params, batches)
    state, losses = jax.jit(pipe.run)(pipe.place(params.components[0].weights["forward"], batch), batches)
    np.testing.assert_allclose(losses, infos.losses[:, 0], rtol=1e-5)
    trees = pipe.weights(state, batch), wanted.components[0].weights["forward"]
    for found, right in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4)  # Adam divides by gradients near zero


def test_weights_the_batch_and_constants_are_not_kept():
    first, last = make_stages(CNN, (2, 2), micro_batch(image_batch(8), 2))
    weights = {leaf.shape for stage in (first, last) for leaf in jax.tree.leaves(stage.weights)}
    assert not weights & {leaf.shape for stage in (first, last) for leaf in stage.shapes}
    # The signs of the first layer's activations, these activations, and the signs of the second layer's.
    assert [leaf.shape for leaf in first.shapes] == [(4, 4, 4, 3), (4, 4, 4, 3), (4, 2, 2, 4)]
    assert [leaf.dtype for leaf in first.shapes] == [bool, "float32", bool]


def test_1f1b_keeps_less_than_gpipe():
    batch, mesh = make_batch(NET, 16), jl.pipeline.mesh(stage=2)
    few, all_ = (
        BackpropPipeline(NET, optax.adam(1e-3), mesh, (2, 2), schedule(2, 8)).layout(batch)
        for schedule in (one_forward_one_backward, gpipe)
    )

    def size(packing):
        return sum(slot.size * slot.dtype.itemsize for slot in packing.slots)

    assert size(few.weights) == size(all_.weights) and size(few.opt) == 2 * size(few.weights) + 4
    assert 0 < size(few.kept) < size(all_.kept) / 3


def test_the_most_expensive_layer_has_a_stage_of_its_own():
    net = jl.models.mlp((8, 64, 64), classes=3)
    assert balanced(net, make_batch(NET, 16), 2, micro=2) == (2, 2)


def test_what_does_not_fit_is_refused():
    batch, mesh = make_batch(NET, 16), jl.pipeline.mesh(stage=2)
    with pytest.raises(ValueError, match=r"stages=\(4,\): there are 2 devices"):
        BackpropPipeline(NET, optax.sgd(1.0), mesh, (4,), gpipe(2, 4))
    with pytest.raises(ValueError, match=r"stages=\(3, 2\): must be 1 or more and sum to the 4 layers"):
        BackpropPipeline(NET, optax.sgd(1.0), mesh, (3, 2), gpipe(2, 4))
    with pytest.raises(ValueError, match="micro=3: a batch of 16"):
        BackpropPipeline(NET, optax.sgd(1.0), mesh, (2, 2), gpipe(2, 3)).layout(batch)
    normed = jl.models.mlp((7, 6, 5), classes=3, norm=True)
    with pytest.raises(ValueError, match="batch statistics"):
        BackpropPipeline(normed, optax.sgd(1.0), mesh, (2, 2), gpipe(2, 4)).layout(batch)
