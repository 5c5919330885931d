"""Blocks (a linear map, then optionally batch norm, activation, pooling and dropout), residual blocks and inverses."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlocal import checks
from jaxlocal.fast.convolution import convolve
from jaxlocal.fast.pooling import max_pool
from jaxlocal.fast.product import product
from jaxlocal.network import Masked, mean_of_tokens, units
from jaxlocal.programs import remembered

Activation = Callable[[jax.Array], jax.Array]
Shape = tuple[int, ...]
InitMaker = Callable[..., nn.initializers.Initializer]  # he_normal, glorot_uniform …, which the layer calls
he_normal = nn.initializers.he_normal


def identity(x: jax.Array) -> jax.Array:
    """Returns x, as the activation of a linear layer."""
    return x


def flat(x: jax.Array | Masked) -> jax.Array:
    """Each example as a vector: an image row by row, and a sequence as the mean over its tokens."""
    vector_or_image = mean_of_tokens(x)
    return vector_or_image.reshape(vector_or_image.shape[0], units(x))


def _as_input_of(linear: nn.Module, x: jax.Array) -> jax.Array:
    """x in the shape that the layer needs: vectors for a dense layer, images for a convolution."""
    if isinstance(linear, nn.Dense):
        return flat(x)
    if isinstance(linear, nn.Conv | nn.ConvLocal) and isinstance(linear.kernel_size, Sequence):
        check_image(x, len(linear.kernel_size))
    return x


def check_image(x: jax.Array, axes: int = 2) -> None:
    """x has an axis for the channels. Without it, Flax would treat the batch as one example and convolve over it."""
    if x.ndim != axes + 2:
        raise ValueError(
            f"x has shape {x.shape}, but a convolution over {axes} axes needs {axes + 2}, (B, …, channels): add "
            "the channels with x[..., None], or give flat images their shape with x.reshape"
        )


class Block(nn.Module):
    """A linear map, then optional batch norm, the activation, optional max pooling, and optional dropout.

    `linear` is any linear Flax module, such as `nn.Dense`, `nn.Conv` or `nn.ConvLocal` (without shared weights). Dense
    layers flatten their input. With `pool_input` the images are pooled before the linear map, in place of at the end of
    the block below: that block's output, to which direct feedback leads, then is the whole image.
    """

    linear: nn.Module
    activation: Activation = nn.relu
    norm: bool = False
    pool: int = 1
    dropout: float = 0.0
    pool_input: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.pool_input > 1:
            x = max_pool(x, self.pool_input)
        a = self.linear(_as_input_of(self.linear, x))
        if self.norm:
            a = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(a)
        a = self.activation(a)
        if self.pool > 1:
            a = max_pool(a, self.pool)
        if self.dropout:
            a = nn.Dropout(self.dropout, deterministic=not train)(a)
        return a

    @nn.nowrap
    def inverse(self, shape: Shape, activation: Activation) -> nn.Module:
        """The layer that maps this block's output back to an input of this shape (without the batch axis)."""
        for name, size in (("pool", self.pool), ("pool_input", self.pool_input)):
            if size > 1:
                raise ValueError(
                    f"block with {name}={size}: max pooling has no inverse; give the linear map a stride instead, as "
                    "Bartunov et al. do, or pass your own module in `inverses`"
                )
        return Transposed(self.linear, shape, activation)


class Head(nn.Module):
    """The readout: a dense layer on the flattened features, or on their spatial mean if `average`."""

    features: int
    average: bool = False
    kernel_init: InitMaker = nn.initializers.lecun_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.mean(axis=(1, 2)) if self.average else flat(x)
        return nn.Dense(self.features, kernel_init=self.kernel_init(), dot_general=product, name="linear")(x)


class Residual(nn.Module):
    """A basic block of a ResNet: two 3×3 convolutions with batch norm; the input is added before the last activation.

    Where the shape changes, the shortcut is a strided 1×1 convolution with batch norm, or with a bias instead of it.
    """

    features: int
    stride: int = 1
    activation: Activation = nn.relu
    kernel_init: InitMaker = he_normal
    shortcut_norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        check_image(x)

        def convolved(x: jax.Array, kernel: int, stride: int, name: str, norm: bool = True) -> jax.Array:
            conv = nn.Conv(
                self.features,
                (kernel, kernel),
                stride,
                use_bias=not norm,
                kernel_init=self.kernel_init(),
                conv_general_dilated=convolve,
                name=f"conv_{name}",
            )
            x = conv(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{name}")(x) if norm else x

        a = self.activation(convolved(x, 3, self.stride, "1"))
        a = convolved(a, 3, 1, "2")
        shortcut = x if x.shape == a.shape else convolved(x, 1, self.stride, "shortcut", self.shortcut_norm)
        return self.activation(a + shortcut)


class Transposed(nn.Module):
    """The inverse of a linear layer: `activation(Aᵀ v + c)`, where A is a map like `linear`, with its own weights.

    The transpose of a dense, convolutional or locally connected map, whatever its stride and padding, is that map's
    vector-Jacobian product. The bias c has one number for each channel if weights are shared, and otherwise one for
    each unit. `shape` is that of the result, without the batch axis.

    Reference: Bartunov et al., 2018, section 5.4.
    """

    linear: nn.Module
    shape: Shape
    activation: Activation = identity

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        linear = self.linear.clone(parent=None, name=None, use_bias=False)

        def forward(kernel: jax.Array, x: jax.Array) -> jax.Array:
            return linear.apply({"params": {"kernel": kernel}}, _as_input_of(linear, x))  # type: ignore[return-value]

        def init(key: jax.Array) -> jax.Array:
            x = jnp.zeros((1, *self.shape), linear.param_dtype)
            return linear.init(key, _as_input_of(linear, x))["params"]["kernel"]

        kernel = self.param("kernel", init)
        bias_shape = self.shape[-1:] if isinstance(self.linear, nn.Conv) else self.shape
        bias = self.param("bias", nn.initializers.zeros_init(), bias_shape, kernel.dtype)
        zeros = jnp.zeros((v.shape[0], *self.shape), kernel.dtype)
        _, transpose = jax.vjp(lambda x: forward(kernel, x), zeros)
        (x,) = transpose(v.astype(kernel.dtype))
        return self.activation(x + bias.reshape((1,) * (x.ndim - bias.ndim) + bias.shape))


@remembered
def _initializer(init: InitMaker) -> nn.initializers.Initializer:
    """The initializer. Layers that are made alike have the same one, so that they are equal."""
    return init()


@remembered
def _local_initializer(init: InitMaker, kernel: int) -> nn.initializers.Initializer:
    """At each position the distribution of a convolution's kernel, with the same fan-in and fan-out."""

    def kernel_init(key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        height, width, patch, outputs = shape
        kernels = (height, width, kernel, kernel, patch // kernel**2, outputs)
        return init(batch_axis=(0, 1))(key, kernels, dtype).reshape(shape)

    return kernel_init


def dense(features: int, activation: Activation = nn.relu, init: InitMaker = he_normal, **options: Any) -> Block:
    """A dense block. Options: `norm`, `dropout`, `pool_input`."""
    checks.positive_int("features", features)
    checks.initializer_maker("init", init)
    return _block(nn.Dense(features, kernel_init=_initializer(init), dot_general=product), activation, **options)


def conv(
    features: int,
    kernel: int = 3,
    stride: int = 1,
    activation: Activation = nn.relu,
    init: InitMaker = he_normal,
    *,
    padding: str = "SAME",
    **options: Any,
) -> Block:
    """A convolutional block with a square kernel and zero padding, or none if it is "VALID".

    Options: `norm`, `pool`, `pool_input`, `dropout`.
    """
    _check_convolution(features, kernel, stride, init)
    linear = nn.Conv(
        features, (kernel, kernel), stride, padding, kernel_init=_initializer(init), conv_general_dilated=convolve
    )
    return _block(linear, activation, **options)


def local(
    features: int,
    kernel: int = 3,
    stride: int = 1,
    activation: Activation = nn.relu,
    init: InitMaker = he_normal,
    **options: Any,
) -> Block:
    """A locally connected block: a convolution with different weights at each position. Options as for `conv`."""
    _check_convolution(features, kernel, stride, init)
    kernel_init = _local_initializer(init, kernel)
    return _block(nn.ConvLocal(features, (kernel, kernel), stride, kernel_init=kernel_init), activation, **options)


def _check_convolution(features: int, kernel: int, stride: int, init: InitMaker) -> None:
    for name, value in (("features", features), ("kernel", kernel), ("stride", stride)):
        checks.positive_int(name, value)
    checks.initializer_maker("init", init)


def _block(
    linear: nn.Module,
    activation: Activation,
    *,
    norm: bool = False,
    dropout: float = 0.0,
    pool: int = 1,
    pool_input: int = 1,
) -> Block:
    """A block with these options, once they are checked."""
    checks.function("activation", activation, "jax.nn.relu")
    checks.flag("norm", norm)
    checks.below_one("dropout", dropout)
    for name, value in (("pool", pool), ("pool_input", pool_input)):
        checks.positive_int(name, value)
    return Block(linear, activation, norm, pool, dropout, pool_input)
