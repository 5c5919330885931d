"""The pipeline: every component of a forward-only rule learns at once, each on its own device."""

from jaxlocal.pipeline.pipeline import Costs, Fed, Pipeline, PipelineParams, balance, measure, mesh, pipelined
from jaxlocal.pipeline.schedule import Schedule

__all__ = ["Costs", "Fed", "Pipeline", "PipelineParams", "Schedule", "balance", "measure", "mesh", "pipelined"]
