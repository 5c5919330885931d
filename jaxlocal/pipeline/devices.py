"""The devices of a pipeline: how a mesh is made, how arrays lie on it, and how a function runs on each device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal import checks
from jaxlocal.fast.shards import split_over


def mesh(**axes: int) -> Mesh:
    """A mesh of the first of `jax.devices()`, given the size of each axis.

    These are the devices of all hosts, if several have joined.

    Example:
      >>> jl.pipeline.mesh(component=1, data=1).axis_names
      ('component', 'data')
    """
    if not axes:
        raise ValueError("mesh(): has no axis; name one, such as mesh(component=1)")
    for name, size in axes.items():
        checks.positive_int(name, size)
    wanted, devices = prod(axes.values()), jax.devices()
    if wanted > len(devices):
        sizes = ", ".join(f"{name}={size}" for name, size in axes.items())
        raise ValueError(
            f"mesh({sizes}): needs {wanted} devices, but there are {len(devices)} ({devices[0].platform}); use smaller "
            f"axes, such as component={len(devices)}, or let a CPU act as several devices, by the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        )
    types = (AxisType.Auto,) * len(axes)
    return Mesh(np.array(devices[:wanted]).reshape(*axes.values()), tuple(axes), axis_types=types)


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with axes over which the compiler divides the work; those of `jax.make_mesh` may be explicit."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


@dataclass(frozen=True)
class Devices:
    """A mesh, and the one of its axes along which the components lie; each batch is split over the other axes."""

    mesh: Mesh
    axis: str

    @property
    def count(self) -> int:
        """The number of devices along the axis of the components."""
        return self.mesh.shape[self.axis]

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes over which each batch is split, if there are any."""
        return tuple(name for name in self.mesh.axis_names if name != self.axis)

    def sharding(self, *axes: Any) -> NamedSharding:
        """The sharding over these axes of the mesh; with none of them, an array is on every device."""
        return NamedSharding(self.mesh, P(*axes))

    def check_split(self, batch: Sequence[Any]) -> None:
        """Raise an error if the examples of a batch cannot be split evenly."""
        size, parts = batch[0].shape[0], prod(self.mesh.shape[name] for name in self.data_axes)
        if size % parts:
            raise ValueError(
                f"batch: x has {size} examples, which cannot be split evenly over the {parts} devices of the mesh's "
                f"axis {' and '.join(map(repr, self.data_axes))}; use a multiple of {parts}"
            )

    def hold(self, array: Any) -> bool:
        """Whether an array lies on these devices, or is not bound to any yet."""
        bound = isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.committed
        return not bound or array.sharding.device_set == set(self.mesh.devices.flat)

    def on_each(self, make: Callable[[int], Any]) -> Any:
        """Arrays whose piece on each device is what `make` returns for its number.

        Each process makes only the pieces of its own devices, one after the other, and copies each to its device.
        """
        sharding, place = self.sharding(self.axis), self.mesh.axis_names.index(self.axis)
        number = {device: index[place] for index, device in np.ndenumerate(self.mesh.devices)}
        if not self.mesh.local_devices:
            raise ValueError("mesh: has no device of this process; take devices of all processes")
        pieces: dict[jax.Device, Any] = {}
        for here, devices in groupby(sorted(self.mesh.local_devices, key=number.__getitem__), key=number.__getitem__):
            piece = make(here)
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(piece)):
                # Otherwise XLA joins the computation of a piece to that of the whole, and rounds differently. With some
                # compiler settings it does so even now.
                every = lax.optimization_barrier([make(one) for one in range(self.count)])
                whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *every)
                return lax.with_sharding_constraint(whole, sharding)
            pieces |= {device: jax.device_put(piece, device, may_alias=False) for device in devices}
            del piece  # before the next one is made

        def joined(*leaves: jax.Array) -> jax.Array:
            length, *rest = leaves[0].shape
            return jax.make_array_from_single_device_arrays((self.count * length, *rest), sharding, leaves)

        return jax.tree.map(joined, *(pieces[device] for device in self.mesh.local_devices))

    def on_first(self, array: Any, stacked: bool) -> jax.Array:
        """An array (B, …), or (T, B, …) if stacked, on the first device only; the others hold zeros of its shape.

        The result has the shape (devices · B, …), so that each device holds B examples, or its share of them where
        batches are split.
        """
        array = np.asarray(array)
        lead, size = (slice(None),) * stacked, array.shape[stacked]

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[stacked].indices(size * self.count)
            own = array[(*lead, slice(start % size, start % size + stop - start))]
            return own if start < size else np.zeros_like(own)

        sharding = self.sharding(*(None,) * stacked, (self.axis, *self.data_axes))
        shape = (*array.shape[:stacked], size * self.count, *array.shape[stacked + 1 :])
        return jax.make_array_from_callback(shape, sharding, part)

    def run(self, function: Callable[..., Any], own: Any, shared: Any, check_vma: bool) -> Any:
        """Call `function(device, own, shared)` on each device, and concatenate the results.

        Args:
          function: what each device computes; `device` is its number.
          own: arrays of which each device gets its part along the first axis.
          shared: arrays that every device gets as they are.
          check_vma: whether JAX checks which values differ between devices; see `Pipeline`.
        """
        # The check would refuse the loops of `shard_by_shard`, which begin with zeros.
        axes = () if check_vma else self.data_axes

        def here(device: jax.Array, own: Any, shared: Any) -> Any:
            with split_over(self.mesh, *axes):
                return function(device[0], own, shared)

        part = P(self.axis)
        everywhere = jax.shard_map(
            here,
            mesh=self.mesh,
            in_specs=(part, part, P()),
            out_specs=part,
            axis_names={self.axis},  # Over the other axes the compiler divides the work.
            check_vma=check_vma,
        )
        return everywhere(jnp.arange(self.count), own, shared)


def on_host(leaf: jax.Array) -> jax.Array:
    """The array on this process's first device, whatever devices hold it now."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(on_host(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))
