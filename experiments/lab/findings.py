"""What the numbers of the report show, experiment by experiment; numbers are named, not typed.

{study/row} is the row's test accuracy, {study/row - study/row} the points between two.
"""

FINDINGS = {
    "al_table2": """\
With settings of a search of equal budget, and as many epochs, Associated Learning and backpropagation reach the same
on MNIST: {al_table2/mlp_256_tuned_al} beside {al_table2/mlp_256_tuned_bp} on layers of 256 units, where both predict
by as many weights. On layers of 1024 units Associated Learning reaches {al_table2/mlp_tuned_al}, by a quarter of the
weights of backpropagation, which reaches {al_table2/mlp_tuned_bp} with a rate that was searched on the narrower net.
Difference target propagation is behind both, as in the paper: {al_table2/mlp_256_dtp} on the narrow layers, whose
forward weights are trained in half of the epochs only. The paper's own settings, a small rate that is cut after two
fifths of the run, are made for its 200 epochs: in a run of few, Associated Learning has hardly begun when its rate is
taken away, and the rows with them say more of the budget than of the rules.""",
    "al_table3": """\
The rates that the search found on MNIST are too high on CIFAR-10 for either rule. With a quarter of them the narrow
MLP reaches {al_table3/mlp_512_slow_bp} by backpropagation and {al_table3/mlp_512_slow_al} by Associated Learning,
which predicts by half as many weights, after a few epochs. On the vanilla CNN the paper's rate is too low for a short
run: after an epoch of its schedule backpropagation has {al_table3/cnn_bp} and Associated Learning, at
{al_table3/cnn_al}, has not begun. With ten times the rate, on small images, it begins in the first epoch and is ahead
after three, {al_table3/cnn_small_al} beside {al_table3/cnn_small_bp}, by as many weights; neither rule was tuned
there. In the paper, after its 200 epochs, Associated Learning is ahead on both networks.""",
    "al_table7": """\
As in the paper, the classes lie farther apart, against their own width, in the last hidden layer of Associated
Learning than in that of backpropagation, already after a few epochs: on the narrow MLP, although its test accuracy is
not the higher one, and on the vanilla CNN with small images. Its codes draw examples to the corners that the classes'
targets have; the figure of the CNN shows them in the last layer, while in the layers below it is backpropagation
whose classes lie farther apart. The figure with the paper's own rates is of a single epoch, after which the codes of
Associated Learning are still one and the same point for all images.""",
    "al_tables5_6": """\
Component 1 has the very same loss whether it is alone or has others above it: nothing comes back to it. The loss
falls from the first component to the second, as in the paper, though by far less than in its runs of 200 epochs; the
third is no further. The second component adds {al_tables5_6/two_narrow - al_tables5_6/one_narrow}, a third
{al_tables5_6/three_narrow - al_tables5_6/two_narrow}: the first is the paper's order, the second is within the
spread.""",
    "bartunov_table1": """\
Three methods have had the paper's whole budget on MNIST, fully connected, and have learnt the training set by heart:
backpropagation ends at {bartunov_table1/mnist_fc_bp}, feedback alignment at {bartunov_table1/mnist_fc_fa}, direct
feedback alignment at {bartunov_table1/mnist_fc_dfa}. So direct feedback alignment is above the paper's number and
feedback alignment below, and their order is the other one. Some of it may be that the paper's are the best epoch on
the test set and ours the last, and that it names no batch size; one seed cannot say more. The others have had few
epochs: there, difference target propagation reaches {bartunov_table1/mnist_fc_dtp_parallel}, and the variants without
a gradient are behind. The alternating variants, which the paper finds the better ones, have had half of the forward
training here. SDTP in parallel, with the settings that Table 5 prints for it, does not learn in so few epochs, and
its seeds differ widely ({bartunov_table1/mnist_fc_sdtp_parallel}); the auxiliary output repairs that
({bartunov_table1/mnist_fc_ao_sdtp_parallel}). On CIFAR-10 the rates of Table 5 are so small that all methods are
together yet, on the fully connected net after four epochs, on the locally connected one after one.""",
    "bartunov_figure4": """\
After two epochs the auxiliary output helps, by {bartunov_figure4/aux_16 - bartunov_figure4/sdtp} with the smallest of
the sizes and by {bartunov_figure4/aux_1024 - bartunov_figure4/sdtp} with the largest, but its size does not matter
yet: the paper's curve is of 500 epochs.""",
    "bartunov_figure5": """\
As in the paper, backpropagation is the least sensitive to its settings. Target propagation with a gradient for its
first target comes next; the variants without, and feedback alignment, lose most under settings that do not suit
them.""",
    "bartunov_figures6_7": """\
As in the paper, difference target propagation reconstructs as well as backpropagation, SDTP less well, with
artefacts, but legibly: rich targets are what it lacks on classes.""",
    "bartunov_table2": """\
Every method's step fits into the memory that the paper's did not: direct feedback alignment, which the paper could
not run, takes little more than feedback alignment. Its feedback is large, but so is that of feedback alignment
through locally connected layers, which have weights of their own at every place.""",
    "dkp_table1": """\
After two epochs of the paper's fifty, on CIFAR-10: backpropagation {dkp_table1/cifar10_bp}, Kolen-Pollack
{dkp_table1/cifar10_kp}, direct Kolen-Pollack {dkp_table1/cifar10_dkp}, direct feedback alignment
{dkp_table1/cifar10_dfa}, feedback alignment {dkp_table1/cifar10_fa}, random target projection
{dkp_table1/cifar10_drtp}. That is the paper's order, but for the two feedback alignments, which are level so far.
Direct Kolen-Pollack gains {dkp_table1/cifar10_dkp - dkp_table1/cifar10_dfa} on direct feedback alignment already, in
each of the seeds, with the paper's small rate of the feedback; with the rate of the forward weights,
{dkp_table1/cifar10_dkp_fast} in one seed, it is the worse. Backpropagation with frozen convolutions reaches
{dkp_table1/cifar10_bp_fc}: by the paper's measure only Kolen-Pollack and, by a little, direct Kolen-Pollack have
trained their convolutions to some avail so far. Random target projection gets worse in the second epoch: its signal
never fades.""",
    "dkp_figure2": """\
As in the paper, direct feedback fits the network above it better the nearer to the output it is, and better where it
learns, in all layers but the first. Fixed feedback is fitted by the network itself: that is feedback alignment. With
the rate that the paper gives for its 2-conv net the feedback learns too slowly to differ from a fixed one, as the
paper warns; it does not say which rate its figure has.""",
    "beyond_pipeline": """\
The pipeline's numbers are those of the sequence, bit by bit. What it gains in time is in
[Many devices](multi-device.md#how-fast-it-is), measured and against the model of its cost, O(n + l).""",
    "beyond_resnet": """\
Associated Learning need not lose on a ResNet: at this size it wins. In one component, whose gradient reaches all
blocks, it is ahead of backpropagation after ten epochs, {beyond_resnet/al_1} beside {beyond_resnet/bp}, and in two
components as well, {beyond_resnet/al_2}; so neither its squared errors between codes nor its readout stand in the
way. In the paper's four components it is behind, {beyond_resnet/al_4}, and differs from seed to seed, for it stays at
chance for four of the ten epochs before it takes off. Thrice as long, the four components are ahead, too:
{beyond_resnet/al_4_long} beside {beyond_resnet/bp_long}, and {beyond_resnet/bp_matched_long} for backpropagation
through the very layers that they predict by, in each of the three seeds; neither rule was tuned on it. That is not
for the paper's ELU, which Associated Learning has where backpropagation has ReLU: with it, backpropagation reaches
{beyond_resnet/bp_elu_long}. Bridges on the spatial mean, as the network's own readout has it, make it worse:
{beyond_resnet/al_4_pooled}. And L2 on all weights keeps it at chance, {beyond_resnet/al_4_l2}: the gradients of
encoders and decoders are so small that beside such a decay it is all that Adam sees. The paper says only that ResNets
have the decay; who applies it to all weights will find that Associated Learning fails. Whether the same holds for
ResNet-20 at 200 epochs, an accelerator will have to tell.""",
    "beyond_tuning": """\
The width of the targets' codes matters most: codes four times as wide as the layers hardly learn in so few epochs,
and those no wider do, unless a high rate is four times as high again for encoders and decoders. After that it is the
rate, for which Associated Learning wants about as much as backpropagation, far more than the paper's; and ReLU does
no worse than ELU. With such settings it is level with backpropagation's best, but its median is far lower: it is the
more sensitive of the two.""",
}
