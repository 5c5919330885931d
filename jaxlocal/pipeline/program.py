"""What one device does in a tick: its stages learn from the messages that wait for them, then all messages move on.

These are pure functions. All devices run the same program, `tick`, which contains the work of each team of devices,
one after the other; every device skips what is not its own. A device's part of the state has one row for each of its
stages. Before the stages learn, a row of `mail` is the message that a stage will read; afterwards it is the message
that the stage sends. A row of `notes` is the note of that message (see `jaxlocal.pipeline.layout`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxlocal.fast.ordering import after
from jaxlocal.pipeline.layout import Group, Layout
from jaxlocal.pipeline.packing import Slots, pack, unpack
from jaxlocal.pipeline.stages import learn_stage
from jaxlocal.rule import Batch, Learn, Message

Flag = bool | jax.Array
T = TypeVar("T")  # any state


class Program(NamedTuple):
    """What all devices know beforehand."""

    steps: tuple[Learn, ...]  # of all components
    layout: Layout
    axis: str  # the mesh's axis along which the components lie
    data_axes: tuple[str, ...]  # its axes over which the examples of each batch are split


class State(NamedTuple):
    """What a device, or one of its groups of stages, has to learn with."""

    components: Any  # a device's are packed in slots; a group's are unpacked
    mail: Slots
    notes: jax.Array


class Task(NamedTuple):
    """What one group of stages has to do in a tick."""

    program: Program
    group: Group
    entering: Batch | None  # the batch that enters the pipeline, if this group has the first stage and there is one
    first_losses: jax.Array  # where the losses of each of its stages begin in a note


def tick(program: Program, device: jax.Array, state: State, batch: Batch | None) -> tuple[State, jax.Array]:
    """A device's tick: its new state, and the note of the message that its last stage has sent."""
    layout = program.layout
    first_losses = layout.first_losses(device)
    for team in layout.teams:
        # A single device needs no loop.
        mine = (device == jnp.asarray(team)).any() if layout.devices > 1 else True
        state = run_if(mine, partial(_work, program, team[0], first_losses, mine, batch), state)
    mail, notes = jax.tree.map(partial(_move_on, program), (state.mail, state.notes))
    return State(state.components, mail, notes), state.notes[-1:]


def _move_on(program: Program, sent: jax.Array) -> jax.Array:
    """What the stages have sent becomes what the next stages will read; the first stage of all gets zeros."""
    to_next_device = [(device, device + 1) for device in range(program.layout.devices - 1)]
    received = lax.ppermute(sent[-1:], program.axis, to_next_device)
    return jnp.concatenate([received, sent[:-1]])


def _work(
    program: Program, device: int, first_losses: jax.Array, mine: Flag, batch: Batch | None, state: State
) -> State:
    """All groups of a device learn. `device` is the first of its team; the others do the same."""
    layout = program.layout
    unpacked = unpack(layout.components, device, state.components)
    learned = []
    for group, own_components in zip(layout.groups[device], unpacked, strict=True):
        rows = layout.rows(group)
        own = State(own_components, tuple(slot[rows] for slot in state.mail), state.notes[rows])
        task = Task(program, group, batch if group.first == 0 else None, first_losses[rows])
        learned.append(_stage_learns(task, mine, own) if len(group.stages) == 1 else _alike_stages_learn(task, own))
    components = tuple(own.components for own in learned)
    mail, notes = jax.tree.map(lambda *rows: jnp.concatenate(rows), *[(own.mail, own.notes) for own in learned])
    return State(pack(layout.components, device, components, state.components), mail, notes)


def _stage_learns(task: Task, mine: Flag, state: State) -> State:
    """The only stage of a group learns if there is a message for it."""
    first = task.group.first == 0
    if first and task.entering is None:
        return state
    # The first stage always has a batch, so it always learns, and `mine` is true here. A constant in its place would
    # let the compiler merge the stage's loop with the device's, and copy the arrays that they update.
    busy = mine if first else state.notes[0, -1] > 0
    return run_if(busy, partial(_one_step, task), state)


def _one_step(task: Task, state: State) -> State:
    """The only stage of a group reads its message, learns, and sends a message."""
    layout, number, (stage,) = task.program.layout, task.group.first, task.group.stages
    inbox = tuple(slot[0] for slot in state.mail)
    message = _entering(task, state) if task.entering else unpack(layout.messages, number - 1, inbox)
    components, message, losses = learn_stage(task.program.steps, stage, state.components, _split(task, message))
    if number < len(layout.stages) - 1:
        outbox = pack(layout.messages, number, message)
    else:
        # Nobody reads what the last stage sends. But if it sent what it has received, the compiler would see that the
        # exchange of messages need not wait for this stage. It would put the exchange before the stage's work, and the
        # last device could begin its work only when all others have finished theirs.
        outbox = tuple(map(jnp.zeros_like, inbox))
    return State(components, tuple(slot[None] for slot in outbox), _note(task, state.notes, _vector(losses)[None]))


def _entering(task: Task, state: State) -> Message:
    """The batch that enters, tied to the notes, which change in the loop around the stage.

    The compiler would move whatever depends on the batch alone, such as the patches of its images, in front of the
    loop, where every device computes it.
    """
    return after(state.notes, task.entering)


def _alike_stages_learn(task: Task, state: State) -> State:
    """The stages of a group learn as one batched operation; those without a message keep their old state."""
    busy = state.notes[:, -1] > 0
    if task.entering is not None:
        busy = busy.at[0].set(True)

    def busy_step(state: State) -> State:
        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(busy.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, _batched_step(task, state), state)

    all_busy = jnp.all(busy)
    some_busy = jnp.any(busy) & ~all_busy
    state = run_if(all_busy, partial(_batched_step, task), state)
    return run_if(some_busy, busy_step, state)


def _batched_step(task: Task, state: State) -> State:
    """All stages of a group read their messages, learn, and send messages."""
    layout, number, (stage, *_) = task.program.layout, task.group.first, task.group.stages
    # Alike stages read messages of the same shapes, and so does the first stage of all, which has no form of its own.
    messages = jax.vmap(partial(unpack, layout.messages, max(number - 1, 0)))(state.mail)
    if task.entering is not None:
        messages = jax.tree.map(lambda rows, new: rows.at[0].set(new), messages, task.entering)
    messages = _split(task, messages, axis=1)
    components, messages, losses = jax.vmap(partial(learn_stage, task.program.steps, stage))(state.components, messages)
    mail = jax.vmap(partial(pack, layout.messages, number))(messages)
    return State(components, mail, _note(task, state.notes, _vector(losses)))


def _vector(losses: tuple[dict[str, jax.Array], ...]) -> jax.Array:
    """The losses of a stage, in the order of its components and of their dicts, along the last axis."""
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in jax.tree.leaves(losses)], axis=-1)


def _note(task: Task, notes: jax.Array, losses: jax.Array) -> jax.Array:
    """The notes of the messages that a group sends: those of the messages it has read, and the new losses."""
    if task.entering is not None:  # A new batch has no losses yet.
        notes = notes.at[0].set(0).at[0, -1].set(1)
    rows = zip(notes, losses, task.first_losses, strict=True)
    return jnp.stack([lax.dynamic_update_slice(note, loss, (start,)) for note, loss, start in rows])


def _split(task: Task, message: Message, axis: int = 0) -> Message:
    """The message with its examples, which lie along this axis, split over the data axes of the mesh."""
    if not task.program.data_axes:
        return message
    spec = P(*[None] * axis, task.program.data_axes)
    return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, spec), message)


def run_if(condition: Flag, function: Callable[[T], T], state: T) -> T:
    """`function(state)` if the condition holds, else the state as it is.

    This is a loop of one round or of none, not `lax.cond`: XLA updates the arrays of a loop in place, but copies those
    that a conditional returns.
    """
    if condition is True:
        return function(state)
    return lax.fori_loop(0, jnp.asarray(condition, jnp.int32), lambda _, state: function(state), state)
