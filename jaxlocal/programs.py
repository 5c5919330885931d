"""Compiled programs of functions that take a rule, and other values: those used last are kept, and no others."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar

import jax

R = TypeVar("R")
KEPT = 32  # of each function


def remembered(function: Callable[..., R]) -> Callable[..., R]:
    """Decorates a function of arguments by position: its last values are kept, where the arguments can be hashed."""
    kept = lru_cache(maxsize=KEPT)(function)

    @wraps(function)
    def call(*args: Any) -> R:
        try:
            hash(args)
        except TypeError:  # for example a layer that holds a list
            return function(*args)
        return kept(*args)

    return call


def compiled(static: int, **options: Any) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorates a function: `jax.jit` for each value of its first `static` arguments, such as a rule.

    `jax.jit` with static arguments keeps the program of every value for as long as the process lives. On a CPU a
    program takes hundreds of memory maps, and Linux gives a process 65,530. So after sixty trainings of a small
    convolutional network, each with a rule of its own, the compiler would find no memory. Here programs are dropped
    when others have been used since.

    Args:
      static: how many of the first arguments are fixed in a program. They are hashable, and given by position.
      **options: those of `jax.jit`. Argument 0 is the first one that is not fixed.

    Returns:
      The decorator.

    Example:
      >>> from jaxlocal.programs import compiled
      >>> @compiled(static=1)
      ... def power(exponent, x):
      ...     return x**exponent
      >>> float(power(3, jnp.asarray(2.0)))
      8.0
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @lru_cache(maxsize=KEPT)
        def program(*fixed: Any) -> Any:
            return jax.jit(partial(function, *fixed), **options)

        @wraps(function)
        def call(*args: Any) -> R:
            result: R = program(*args[:static])(*args[static:])
            return result

        call.program = program  # type: ignore[attr-defined]  # its `cache_clear` drops all programs
        return call

    return decorate
