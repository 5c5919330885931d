"""Locality masks. Entry (i, j) says whether the learning of component i depends on the weights of component j."""

import numpy as np


def everywhere(n: int) -> np.ndarray:
    """The update of a component depends on the weights of all components.

    Example:
      >>> jl.everywhere(2).tolist()
      [[True, True], [True, True]]
    """
    return np.ones((n, n), bool)


def upward(n: int) -> np.ndarray:
    """The update of a component depends on its own weights, and on those of the components below it.

    Example:
      >>> jl.upward(2).tolist()
      [[True, False], [True, True]]
    """
    return np.tril(everywhere(n))


def downward(n: int) -> np.ndarray:
    """The update of a component depends on its own weights, and on those of the components above it.

    Example:
      >>> jl.downward(2).tolist()
      [[True, True], [False, True]]
    """
    return np.triu(everywhere(n))


def own(n: int) -> np.ndarray:
    """The update of a component depends on its own weights alone.

    Example:
      >>> jl.own(2).tolist()
      [[True, False], [False, True]]
    """
    return np.eye(n, dtype=bool)
