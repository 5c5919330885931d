"""How a run's pipeline is cut into stages: by the time that each component is measured to take on this machine."""

import os

import jax

from jaxlocal.app.build import Built
from jaxlocal.app.settings import Config
from jaxlocal.pipeline import Costs, Pipeline, balanced
from jaxlocal.text import aligned, plural
from jaxlocal.training.learner import example_batch


def cut(config: Config, built: Built) -> tuple[Built, str | None]:
    """A pipeline with stages that take about equally long, and what to expect of it; other runs stay as they are.

    The results of a run do not depend on the cut.
    """
    pipe = built.rule
    if not isinstance(pipe, Pipeline):
        return built, None
    if len(pipe.stages) == 1:
        return built, "pipeline of 1 stage: no components learn in parallel; name more devices with --devices"
    batch = example_batch(built.data.train, config.batch_size, built.augmentation)
    params = pipe.rule.init(jax.random.key(config.seed), batch)
    pipe, costs = balanced(pipe.rule, params, batch, pipe.mesh, pipe.axis)
    return built._replace(rule=pipe), forecast(pipe, costs, len(built.data.train[0]) // config.batch_size)


def forecast(pipe: Pipeline, costs: Costs, batches: int) -> str:
    """The stages of a pipeline, and what to expect of it, from what was measured on one device.

    Args:
      pipe: the pipeline.
      costs: of the rule's components.
      batches: the number of batches in an epoch.
    """
    stages, schedule = costs.of_stages(pipe.sizes), pipe.schedule(batches)
    tick = max(stages)
    even = sum(stages) / len(stages) / tick
    rows = [["stage", "components", "ms"]]
    rows += [[str(i), str(size), _ms(time)] for i, (size, time) in enumerate(zip(pipe.sizes, stages, strict=True))]
    epoch = plural(batches, "batch", "batches")
    lines = [
        f"pipeline of {plural(len(stages), 'stage')}, cut by the measured time of the components:",
        aligned(rows, left=1, rule=False),
        f"one device would take {_ms(sum(stages))} ms per step; the slowest stage makes a tick of {_ms(tick)} ms",
        f"an epoch of {epoch} takes {schedule.ticks} ticks; a stage has a batch in "
        f"{100 * schedule.utilisation:.1f} % of them, and learns {100 * even:.0f} % of a tick on average",
        f"so the devices should work {100 * even * schedule.utilisation:.0f} % of the time",
    ]
    if pipe.mesh.devices.flat[0].platform == "cpu":
        lines.append(f"the devices share {plural(os.cpu_count() or 1, 'CPU core')}, so a tick can take longer")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
