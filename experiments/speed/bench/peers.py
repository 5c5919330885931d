"""PyTorch's programs, and BioTorch's where it is installed; on a GPU if there is one, with TF32 as JAX has it there."""

import importlib
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from experiments.speed.bench.nets import CLASSES, RATE, SEED, Net

BIOTORCH = {"fa, biotorch": "fa", "fa, biotorch usf": "usf", "dfa, biotorch": "dfa"}  # its names

Step = Callable[[], Any]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM_UP = 3  # steps before a CUDA graph is recorded, in which PyTorch allocates what the step needs


class TorchProgram:
    """A program that is called once for each batch."""

    def __init__(self, net: Net, name: str):
        self._step, self._steps = make(net, name), net.steps
        start = time.perf_counter()
        self._step()
        wait()
        self.facts = {"update": {"compile s": time.perf_counter() - start} if "compiled" in name else {}}

    def seconds(self, form: str) -> float:
        """Seconds of a step, the mean over `net.steps`."""
        wait()
        start = time.perf_counter()
        for _ in range(self._steps):
            self._step()
        wait()
        return (time.perf_counter() - start) / self._steps


def wait() -> None:
    """Until a GPU has done what it was asked to."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def make(net: Net, name: str) -> Step:
    """A program's step, its state inside."""
    torch.manual_seed(SEED)
    if DEVICE.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)  # as XLA does
    with DEVICE:  # what is made here lies there
        return _made(net, name)


def _made(net: Net, name: str) -> Step:
    channels_first = net.inputs[-1:] + net.inputs[:-1]
    x = torch.rand(net.batch, *channels_first)
    y = torch.eye(CLASSES)[torch.arange(net.batch) % CLASSES]
    rule, _, way = name.partition(", ")
    if rule == "al":
        return associated(net.of("al"), x, y, fused=way == "fused")
    if name in BIOTORCH:
        return biotorch(net, x, y, BIOTORCH[name])
    if way == "graph":
        return graphed(backpropagation(net, x, y, fused=True, compiled=False, capturable=True))
    return backpropagation(net, x, y, fused=way != "eager", compiled=way == "compiled")


def model(net: Net) -> nn.Module:
    """The net, its last layer linear."""
    if net.images:
        height, width, channels = net.inputs
        conv = [nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        pooled = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        dense = [nn.Linear(32 * (height // 2) * (width // 2), 128), nn.BatchNorm1d(128), nn.ReLU()]
        return nn.Sequential(*conv, *pooled, *dense, nn.Linear(128, CLASSES))
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[net.activation]
    widths = [*net.inputs, *net.hidden]
    blocks = [module for before, after in pairwise(widths) for module in (nn.Linear(before, after), activation())]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], CLASSES))


def graphed(step: Step) -> Step:
    """The step as a CUDA graph, whose kernels are launched at once."""
    if DEVICE.type != "cuda":
        raise ValueError("needs an NVIDIA GPU")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def backpropagation(
    net: Net, x: torch.Tensor, y: torch.Tensor, *, fused: bool, compiled: bool, capturable: bool = False
) -> Step:
    """Backpropagation with Adam."""
    learner = model(net)
    optimizer = torch.optim.Adam(learner.parameters(), RATE, fused=fused, capturable=capturable)
    forward = torch.compile(learner) if compiled else learner

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(x), y).backward()
        optimizer.step()

    return step


def associated(net: Net, x: torch.Tensor, y: torch.Tensor, *, fused: bool) -> Step:
    """Associated learning of a multilayer perceptron, a component a hidden layer."""
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[net.activation]
    components = []
    for below, width, code in zip([*net.inputs, *net.hidden], net.hidden, [CLASSES, *net.hidden], strict=False):
        bridge = [nn.Linear(width, 5 * width), nn.Sigmoid(), nn.Linear(5 * width, width), nn.Sigmoid()]
        f = nn.Sequential(nn.Linear(below, width), activation())
        g = nn.Sequential(nn.Linear(code, width), nn.Sigmoid())
        h = nn.Sequential(nn.Linear(width, code), nn.Sigmoid())
        components.append((f, nn.Sequential(*bridge), g, h))
    rates = RATE, RATE, 2 * RATE, 2 * RATE
    groups = [
        {"params": part.parameters(), "lr": rate} for c in components for part, rate in zip(c, rates, strict=True)
    ]
    optimizer = torch.optim.Adam(groups, RATE, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        s, t = x, y
        for f, b, g, h in components:
            above, code = f(s), g(t)
            (F.mse_loss(b(above), code.detach()) + F.mse_loss(h(code), t)).backward()
            s, t = above.detach(), code.detach()
        optimizer.step()

    return step


def biotorch(net: Net, x: torch.Tensor, y: torch.Tensor, mode: str) -> Step:
    """One of BioTorch's rules, with Adam."""
    biomodule = importlib.import_module("biotorch.module.biomodule")
    learner = biomodule.BioModule(model(net), mode=mode, output_dim=CLASSES)
    optimizer = torch.optim.Adam(learner.parameters(), RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        scores = learner(x, y, F.cross_entropy) if mode == "dfa" else learner(x)
        F.cross_entropy(scores, y).backward()
        optimizer.step()

    return step
