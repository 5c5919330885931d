"""Learners: how a rule, and how a pipeline, learns from a chunk of an epoch. Both have the same methods."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal import processes
from jaxlocal.data import Pairs, floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.pipeline import Pipeline
from jaxlocal.pipeline.devices import Devices
from jaxlocal.pipeline.pipeline import Fed, PipelineParams
from jaxlocal.programs import compiled
from jaxlocal.rule import Batch, Params, Rule
from jaxlocal.training.feed import CHUNK_BYTES, Chunk, Needed, per_member, take
from jaxlocal.training.state import Terms

CHUNKS = 20  # into which an epoch is divided, so that its progress can be seen and it can be stopped
SHORTEST = 25  # steps of a chunk, so that the time to start it does not matter
DEEP = 10  # blocks; with more of them the start takes too long to compile as one program


class RuleLearner(NamedTuple):
    """A rule, or an ensemble of rules, that learns step by step."""

    rule: Rule
    augmentation: Augmentation | None = None

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the batches, if they do."""
        return self.rule.placement.mesh

    @property
    def needed(self) -> Needed | None:
        """Which examples of a batch each of these devices needs."""
        return Needed(self.mesh, (self.rule.placement.axis,)) if self.mesh else None

    def chunk_length(self, steps: int, step_bytes: int, streamed: bool) -> int:
        """The number of steps in a chunk, where an epoch has `steps` of them, with `step_bytes` of examples each."""
        length = min(steps, max(SHORTEST, -(-steps // CHUNKS)))
        return min(length, _fitting(step_bytes)) if streamed else length

    def begin(self, key: jax.Array, example: Batch) -> Params:
        """The parameters before the first step."""
        if _is_deep(self.rule):  # a copy, because `init` may return an array twice, and the steps overwrite theirs
            return self.resume(self.rule.init(key, example), example)
        return self._placed(jax.jit(self.rule.init)(key, example))

    def resume(self, params: Params, example: Batch) -> Params:
        """The parameters of an earlier run; they are copied, because the steps overwrite theirs."""
        return self._placed(jax.tree.map(jnp.copy, params))

    def learn(self, params: Params, chunk: Chunk) -> tuple[Params, Terms]:
        """The parameters after a chunk, and the losses of its steps."""
        return _learn(self.rule, self.augmentation, chunk.length, params, chunk)

    def plain(self, params: Params) -> Params:
        """The rule's own parameters."""
        return params

    def _placed(self, params: Params) -> Params:
        if self.mesh is None:
            return params
        everywhere = NamedSharding(self.mesh, P())
        if not processes.several():
            return jax.device_put(params, everywhere)
        return jax.tree.map(partial(_on_all, everywhere), params)


class PipelineLearner(NamedTuple):
    """A pipeline, which learns from the batches of a chunk while they pass through it, until it is empty again."""

    pipe: Pipeline
    augmentation: Augmentation | None = None

    @property
    def rule(self) -> Rule:
        """The rule that the pipeline executes."""
        return self.pipe.rule

    @property
    def mesh(self) -> Mesh | None:
        """The devices of the pipeline."""
        return self.pipe.mesh

    @property
    def needed(self) -> Needed:
        """Which examples of a batch each of these devices needs: those of the first stage read them."""
        return Needed(self.pipe.mesh, Devices(self.pipe.mesh, self.pipe.axis).data_axes, self.pipe.axis)

    def chunk_length(self, steps: int, step_bytes: int, streamed: bool) -> int:
        """The number of steps in a chunk: as many as fit, because the pipeline fills and empties in every chunk."""
        return min(steps, _fitting(step_bytes))

    def begin(self, key: jax.Array, example: Batch) -> PipelineParams:
        """The parameters before the first step."""
        return self.pipe.init(key, example)

    def resume(self, params: Params, example: Batch) -> PipelineParams:
        """The parameters of an earlier run, whether it was a pipeline or not."""
        return self.pipe.place(params, example)

    def learn(self, params: PipelineParams, chunk: Chunk) -> tuple[PipelineParams, Terms]:
        """The parameters after a chunk, and the losses of its steps."""
        return _flow(self.pipe, self.augmentation, chunk.steps, params, chunk)

    def plain(self, params: PipelineParams) -> Params:
        """The rule's own parameters."""
        return self.pipe.drain(params)


def _on_all(everywhere: NamedSharding, leaf: jax.Array) -> jax.Array:
    """An array that all processes have, on the devices of all of them."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _on_all(everywhere, jax.random.key_data(leaf))
        return jax.jit(partial(jax.random.wrap_key_data, impl=jax.random.key_impl(leaf)))(data)
    return jax.make_array_from_callback(leaf.shape, everywhere, np.asarray(leaf).__getitem__)


Learner = RuleLearner | PipelineLearner


def learner_of(rule: Rule | Pipeline, augmentation: Augmentation | None = None) -> Learner:
    """The learner of a rule or of a pipeline."""
    return PipelineLearner(rule, augmentation) if isinstance(rule, Pipeline) else RuleLearner(rule, augmentation)


def example_batch(train: Pairs, batch_size: int, augmentation: Augmentation | None) -> Batch:
    """A batch of the shapes that a learner will see."""
    x, y = map(jnp.asarray, floats(take(train, slice(batch_size))))
    return augmentation.test(x) if augmentation else x, y


def _is_deep(rule: Rule) -> bool:
    """Whether the start is made operation by operation, because those of alike blocks are then compiled once."""
    return len(rule.net.blocks) > DEEP


def _fitting(step_bytes: int) -> int:
    """The number of steps whose examples may be in memory together."""
    return max(1, CHUNK_BYTES // step_bytes)


@compiled(static=3, donate_argnums=0)
def _learn(
    rule: Rule, augmentation: Augmentation | None, length: int, params: Params, chunk: Chunk
) -> tuple[Params, Terms]:
    """The steps of a chunk. Their number is no static argument, so that shorter chunks need no other program."""

    def examples(i: jax.Array) -> Batch:
        rows, step = chunk.rows[chunk.begin + i], chunk.first + i
        return _examples(rule.placement.members, augmentation, chunk.examples, rows, chunk.key, step)

    def learn(i: jax.Array, carry: tuple[Params, Terms]) -> tuple[Params, Terms]:
        params, losses = carry
        params, info = rule.step(params, examples(i))
        return params, jax.tree.map(lambda all_, one: all_.at[i].set(one), losses, info.terms)

    terms = jax.eval_shape(rule.step, params, jax.eval_shape(examples, 0))[1].terms
    losses = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), terms)
    return jax.lax.fori_loop(0, chunk.steps, learn, (params, losses))


@compiled(static=3, donate_argnums=0)
def _flow(
    pipe: Pipeline, augmentation: Augmentation | None, steps: int, params: PipelineParams, chunk: Chunk
) -> tuple[PipelineParams, Terms]:
    """The steps of a chunk, through a pipeline."""
    rows, numbers = jax.lax.dynamic_slice_in_dim(chunk.rows, chunk.begin, steps), chunk.first + jnp.arange(steps)
    streamed = rows.ndim == 1  # each device along the axis of the components has batches of its own
    copies = pipe.mesh.shape[pipe.axis] if streamed else 0
    key = jnp.broadcast_to(chunk.key, (copies,)) if streamed else chunk.key
    batches = jax.vmap(lambda rows, i: _examples(copies, augmentation, chunk.examples, rows, key, i))(rows, numbers)
    fed = Fed(jax.tree.map(lambda leaf: leaf.reshape(steps, -1, *leaf.shape[3:]), batches)) if streamed else None
    params, info = pipe.run(params, fed or batches)
    return params, info.terms


def _examples(
    members: int, augmentation: Augmentation | None, data: Batch, rows: jax.Array, key: jax.Array, step: jax.Array
) -> Batch:
    """The examples of one step of the epoch that has this key."""
    x, y = floats(take(data, rows))
    if augmentation is None:
        return x, y

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        return augmentation.train(jax.random.fold_in(key, step), x)

    return per_member(train, members)(key, x), y
