"""The three worlds whose programs are timed: hand-written JAX, jaxlocal, and PyTorch. Each is made in its own process.

The world "plain" never imports jaxlocal, which sets flags of XLA's compiler when it is imported.
"""

import importlib
import os
from importlib.metadata import version
from typing import Any

from experiments.speed.bench.nets import Net

Facts = dict[str, Any]


class World:
    """Makes and times the programs of one net at a time."""

    def __init__(self) -> None:
        self.built: dict[str, Any] = {}

    def about(self) -> Facts:
        """What it runs on."""
        raise NotImplementedError

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        """A program."""
        raise NotImplementedError

    def build(self, net: Net, name: str, forms: list[str]) -> Facts:
        """Make a program ready, or say in a sentence why it cannot run."""
        try:
            program = self.built[name] = self.make(net, name, forms)
        except ImportError as error:
            return {"refused": f"{error.name} is not installed"}
        except Exception as error:  # whatever it is, the other programs can run
            return {"refused": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        return {"facts": program.facts}

    def time(self, name: str, form: str) -> float:
        """Seconds of a step."""
        return self.built[name].seconds(form)


class Plain(World):
    """Hand-written programs in JAX, and measurements of the machine."""

    def __init__(self) -> None:
        super().__init__()
        from experiments.speed import limits
        from experiments.speed.bench import programs

        self.limits, self.programs = limits, programs

    def about(self) -> Facts:
        import jax

        about = {"jax": version("jax"), "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "devices": len(jax.devices())}
        kept = "JAX_COMPILATION_CACHE_DIR" in os.environ  # then compiling may be loading
        return about | ({"compiled programs": "kept from run to run"} if kept else {})

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.programs.plain(net, name, forms)

    def needs(self, net: Net, rule: str) -> dict[str, float]:
        """Operations and bytes of a rule's step."""
        return self.programs.needs(net, rule)

    def machine(self) -> dict[str, float]:
        """How fast the machine moves and multiplies numbers."""
        return self.limits.measure()


class JaxLocal(Plain):
    """The library."""

    def __init__(self) -> None:
        importlib.import_module("jaxlocal")  # before any device is used, as in every user's program
        super().__init__()

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.programs.jaxlocal(net, name, forms)

    def temp_bytes(self, net: Net, rule: str) -> int:
        """The memory of an update."""
        return self.programs.temp_bytes(net, rule)


class Torch(World):
    """PyTorch's programs."""

    def __init__(self) -> None:
        super().__init__()
        from experiments.speed.bench import peers

        self.peers = peers

    def about(self) -> Facts:
        torch = self.peers.torch
        return {"torch": version("torch"), "threads": torch.get_num_threads(), "device": str(self.peers.DEVICE)}

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.peers.TorchProgram(net, name)


class Missing(World):
    """A world whose packages are not installed."""

    def __init__(self, package: str):
        super().__init__()
        self.package = package

    def about(self) -> Facts:
        return {"refused": f"{self.package} is not installed"}

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        raise ModuleNotFoundError(name=self.package)


WORLDS = {"plain": Plain, "jaxlocal": JaxLocal, "torch": Torch}


def make(name: str) -> World:
    """A world by its name."""
    try:
        return WORLDS[name]()
    except ModuleNotFoundError as error:
        return Missing(str(error.name))
