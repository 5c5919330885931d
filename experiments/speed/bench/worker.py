"""A process for one world of programs: it computes only when it is asked to, and answers a line of JSON by a line.

The world "plain" never imports jaxlocal, which sets flags of XLA's compiler when it is imported.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from experiments.speed.bench.nets import Net

Reply = dict[str, Any]  # and the parts of a request


class World:
    """What the requests are answered by; a world has its own imports, and holds the programs of one net at a time."""

    def __init__(self) -> None:
        self.built: dict[str, Any] = {}

    def hello(self) -> Reply:
        """What it runs on."""
        raise NotImplementedError

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        """A program."""
        raise NotImplementedError

    def build(self, net: Reply, name: str, forms: list[str]) -> Reply:
        """Makes a program ready, or says in a sentence why not."""
        try:
            program = self.built[name] = self.make(Net.read(net), name, forms)
        except ImportError as error:
            return {"refused": f"{error.name} is not installed"}
        except Exception as error:  # whatever it is, the other programs go on
            return {"refused": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        return {"facts": program.facts}

    def time(self, name: str, form: str) -> Reply:
        """Seconds of a step."""
        return {"seconds": self.built[name].seconds(form)}

    def free(self) -> Reply:
        """Lets go of all programs."""
        self.built.clear()
        return {}


class Jax(World):
    """Hand-written programs, and measurements of the machine."""

    def __init__(self) -> None:
        super().__init__()
        from experiments.speed.bench import limits, programs

        self.limits, self.programs = limits, programs

    def hello(self) -> Reply:
        import jax

        return {"jax": version("jax"), "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "devices": len(jax.devices())}

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.programs.plain(net, name, forms)

    def needs(self, net: Reply, rule: str) -> Reply:
        """Operations and bytes of a rule's step."""
        return self.programs.needs(Net.read(net), rule)

    def machine(self) -> Reply:
        """How fast it moves and multiplies."""
        return self.limits.measure()

    def free(self) -> Reply:
        import jax

        jax.clear_caches()
        return super().free()


class JaxLocal(Jax):
    """The library."""

    def __init__(self) -> None:
        importlib.import_module("jaxlocal")  # before any device is asked for, as in every user's program
        super().__init__()

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.programs.jaxlocal(net, name, forms)

    def temp_bytes(self, net: Reply, rule: str) -> Reply:
        """Memory of an update."""
        return {"bytes": self.programs.temp_bytes(Net.read(net), rule)}


class Torch(World):
    """PyTorch's programs."""

    def __init__(self) -> None:
        super().__init__()
        from experiments.speed.bench import peers

        self.peers = peers

    def hello(self) -> Reply:
        return {"torch": version("torch"), "threads": self.peers.torch.get_num_threads()}

    def make(self, net: Net, name: str, forms: list[str]) -> Any:
        return self.peers.TorchProgram(net, name)


WORLDS: dict[str, Callable[[], World]] = {"plain": Jax, "jaxlocal": JaxLocal, "torch": Torch}


def main() -> None:
    """Serve a world until its requests end."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no reply

    def reply(content: Reply) -> None:
        print(json.dumps(content), file=replies, flush=True)

    try:
        world = WORLDS[sys.argv[1]]()
    except ModuleNotFoundError as error:
        reply({"refused": f"{error.name} is not installed"})
        return
    reply(world.hello())
    for line in sys.stdin:
        request = json.loads(line)
        reply(getattr(world, request.pop("do"))(**request))


if __name__ == "__main__":
    main()
