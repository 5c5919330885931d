"""Rules ranked under one protocol: the same search for each, the same seeds for all, and one look at the test set.

entry = jl.ranking.enter("dfa", jl.ranking.WORKLOADS["digits"])
print(jl.ranking.table([entry]))

For each rule, settings are drawn at random: the rates of its optimizers and, where the rule has them, the size of a
target's step and of the noise. Every rule gets the same number of settings, and all get the same rates for the forward
weights. The one that is best on the validation set trains the network again from other seeds, which are the same for
all rules. Only then is the test set looked at. All optimizers are Adam, whose rates fall to zero by a cosine. All other
arguments of a rule keep their defaults.
"""

from jaxlocal.ranking.protocol import Entry, enter, space
from jaxlocal.ranking.standings import BASELINE, differences, standings, table
from jaxlocal.ranking.workloads import WORKLOADS, Workload

__all__ = ["BASELINE", "WORKLOADS", "Entry", "Workload", "differences", "enter", "space", "standings", "table"]
