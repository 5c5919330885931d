"""Locality masks. Entry (i, j) says whether the update of component i depends on the weights of component j."""

import numpy as np


def everywhere(n: int) -> np.ndarray:
    """Every component's update depends on these weights.

    Example:
      >>> jl.everywhere(2).tolist()
      [[True, True], [True, True]]
    """
    return np.ones((n, n), bool)


def upward(n: int) -> np.ndarray:
    """The update of their own component, and of those above it, depends on these weights.

    Example:
      >>> jl.upward(2).tolist()
      [[True, False], [True, True]]
    """
    return np.tril(everywhere(n))


def downward(n: int) -> np.ndarray:
    """The update of their own component, and of those below it, depends on these weights.

    Example:
      >>> jl.downward(2).tolist()
      [[True, True], [False, True]]
    """
    return np.triu(everywhere(n))


def own(n: int) -> np.ndarray:
    """Only the update of their own component depends on these weights.

    Example:
      >>> jl.own(2).tolist()
      [[True, False], [False, True]]
    """
    return np.eye(n, dtype=bool)
