"""The identity of a traced program, which is the same in every process."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(program: ClosedJaxpr) -> str:
    """Identifies a program by what it computes: its operations with their parameters, and its shapes and constants.

    A value's identity is a hash of the operation that makes it and of the identities of that operation's inputs. So the
    names of variables and the order of independent operations do not matter; Python's sets may change both from one
    process to the next. Results that nothing reads do not matter either.
    """
    return _outputs(program.jaxpr, program.consts)[:16]


def digest(*parts: Any) -> str:
    """A hash of the content of arrays, programs, numbers, texts, and of tuples and dicts of them."""
    return hashlib.sha256(_text(parts).encode()).hexdigest()


def _outputs(program: Jaxpr, constants: Sequence[Any]) -> str:
    """The identities of all that a program returns, and of its operations with side effects."""
    identities: dict[Var, str] = {}
    for i, variable in enumerate(program.invars):
        identities[variable] = digest("input", i, variable.aval)
    for variable, constant in zip(program.constvars, constants, strict=True):
        identities[variable] = digest("constant", constant)

    def identity(atom: Var | Literal) -> str:
        return digest("constant", atom.val, atom.aval) if isinstance(atom, Literal) else identities[atom]

    effects = []
    for equation in program.eqns:
        result = digest(equation.primitive.name, equation.params, *map(identity, equation.invars))
        for i, variable in enumerate(equation.outvars):
            identities[variable] = digest(result, i, variable.aval)
        if equation.effects:
            effects.append(result)
    return digest(*map(identity, program.outvars), sorted(effects))


def _text(value: Any) -> str:
    """The content as text, the same in every process."""
    if isinstance(value, ClosedJaxpr):
        return _outputs(value.jaxpr, value.consts)
    if isinstance(value, Jaxpr):
        return _outputs(value, range(len(value.constvars)))
    if isinstance(value, Mapping):
        return _text(sorted((_text(key), _text(item)) for key, item in value.items()))
    if isinstance(value, set | frozenset):
        return _text(sorted(map(_text, value)))
    if isinstance(value, tuple | list):
        return f"({' '.join(map(_text, value))})"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"{value.dtype} {_text(jax.random.key_data(value))}"
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, jax.core.ShapedArray):
        return f"{value.dtype}{value.shape}"
    if callable(value) and not isinstance(value, type):  # such as the Python function that a call was traced from
        return getattr(value, "__qualname__", type(value).__name__)
    return ADDRESS.sub("", repr(value))
