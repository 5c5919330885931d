"""What the numbers of the report show, experiment by experiment; numbers are named, not typed.

{study/row} is the row's test accuracy, {study/row - study/row} the points between two.
"""

FINDINGS = {
    "al_table2": """\
With settings of a search of equal budget, and as many epochs, Associated Learning and backpropagation reach the same on
MNIST: {al_table2/mlp_256_tuned_al} beside {al_table2/mlp_256_tuned_bp} on layers of 256 units, where both predict by as
many weights. On layers of 1024 units it is {al_table2/mlp_tuned_al} beside {al_table2/mlp_tuned_bp}. The paper's own
settings, a small rate that is cut after two fifths of the run, are made for its 200 epochs: in a run of few, Associated
Learning has hardly begun when its rate is taken away, and the rows with them say more of the budget than of the
rules.""",
    "al_table3": """\
On the narrow MLP Associated Learning stands at {al_table3/mlp_512_tuned_al - al_table3/mlp_512_tuned_bp} to
backpropagation. Backpropagation fits the training set further than it can use; the codes of Associated Learning hold it
back from that.""",
    "al_tables5_6": """\
Component 1 has the very same loss whether it is alone or has others above it: nothing comes back to it. The loss falls
from the first component to the second, as in the paper, though by far less than in its runs of 200 epochs; the third is
no further. The second component adds
{al_tables5_6/two_narrow - al_tables5_6/one_narrow}, a third {al_tables5_6/three_narrow - al_tables5_6/two_narrow}: the
first is the paper's order, the second is within the spread.""",
    "beyond_pipeline": """\
The pipeline's numbers are those of the sequence, bit by bit. What it gains in time is in
[Many devices](multi-device.md#how-fast-it-is), measured and against the model of its cost, O(n + l).""",
    "beyond_tuning": """\
The width of the targets' codes matters most: codes of 1024 units on layers of 256 hardly learn in so few epochs, and
those no wider than the layer do. After that it is the rate, for which Associated Learning wants about as much as
backpropagation, far more than the paper's; and ReLU does no worse than ELU. With such settings it is level with
backpropagation's best, but its median is far lower: it is the more sensitive of the two.""",
}
