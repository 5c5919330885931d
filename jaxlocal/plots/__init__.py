"""Pictures, drawn with matplotlib. Each function returns a figure; save it with `figure.savefig(path)`."""

from jaxlocal.plots.angles import alignment
from jaxlocal.plots.classes import distances, tsne
from jaxlocal.plots.learning import compare, curves
from jaxlocal.plots.paired import differences
from jaxlocal.plots.timetable import schedule

__all__ = ["alignment", "compare", "curves", "differences", "distances", "schedule", "tsne"]
