"""The same programs on a GPU, whose memory this process and the three worlds share."""

import os
from collections.abc import Iterator
from functools import partial

import jax

from experiments.lab.experiment import CannotRun, Experiment, Job, Outcome, Task
from experiments.lab.main import main
from experiments.speed.bench.__main__ import FULL, OPTIONS, run
from experiments.speed.bench.nets import NETS, Net

PEERS = {"bp": ("eager", "fused", "compiled", "graph"), "al": ("eager", "fused")}
NETS_ON_GPU = {name: net._replace(steps=50 if net.images else 200) for name, net in NETS.items()}


def run_on_gpu(name: str, net: Net, task: Task) -> Iterator[Outcome]:
    """Time the programs of a net."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # otherwise this process takes most of the memory
    if jax.default_backend() != "gpu":
        raise CannotRun("needs a GPU, and JAX finds none")
    yield from run(name, net, task, PEERS)


EXPERIMENT = Experiment(
    module="speed.bench.gpu",
    name="bench_gpu",
    title="How fast the rules are on a GPU",
    rows={name: Job(FULL, None, partial(run_on_gpu, name, net)) for name, net in NETS_ON_GPU.items()},
    note=(
        "As experiments.speed.bench, on one GPU. Products and convolutions are in TF32, JAX's default there, and "
        "PyTorch's programs are set to it, too. `graph` is a CUDA graph of the whole step."
    ),
    tables=(),
    options=OPTIONS,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
