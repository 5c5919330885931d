"""The pipeline: all components of a forward-only rule learn at the same time, each on its own device.

`pipelined` makes a `Pipeline` from a rule and a `mesh` of devices. `measure` and `balance` find out how to cut the
network into stages; `balanced` does it all in one call. `Schedule` is the timetable.
"""

from jaxlocal.pipeline.cut import Costs, balance, balanced, measure
from jaxlocal.pipeline.devices import mesh
from jaxlocal.pipeline.pipeline import Fed, Pipeline, PipelineParams, pipelined
from jaxlocal.pipeline.schedule import Schedule

__all__ = [
    "Costs",
    "Fed",
    "Pipeline",
    "PipelineParams",
    "Schedule",
    "balance",
    "balanced",
    "measure",
    "mesh",
    "pipelined",
]
