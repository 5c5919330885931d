"""The pipeline: all components of a forward-only rule learn at the same time, each on its own device."""

from jaxlocal.pipeline.costs import Costs, balance, measure
from jaxlocal.pipeline.devices import mesh
from jaxlocal.pipeline.pipeline import Fed, Pipeline, PipelineParams, pipelined
from jaxlocal.pipeline.schedule import Schedule

__all__ = ["Costs", "Fed", "Pipeline", "PipelineParams", "Schedule", "balance", "measure", "mesh", "pipelined"]
