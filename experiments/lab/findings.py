"""The meaning of the report's numbers, experiment by experiment; numbers are named, not typed.

{experiment/row} is the row's test accuracy, and {experiment/row - experiment/row} the difference of two in points.
"""

FINDINGS = {
    "al_table2": """\
With settings from a search of equal budget, and the same number of epochs, Associated Learning and backpropagation
reach the same accuracy on MNIST: {al_table2/mlp_256_tuned_al} and {al_table2/mlp_256_tuned_bp} on layers of 256 units,
where both have the same number of prediction parameters. On layers of 1024 units Associated Learning reaches
{al_table2/mlp_tuned_al} with a quarter of the prediction parameters of backpropagation, which reaches
{al_table2/mlp_tuned_bp} with a rate that was searched on the narrower net. Difference target propagation is behind
both, as in the paper: it reaches {al_table2/mlp_256_dtp} on the narrow layers, with forward weights that are trained in
only half of the epochs. The paper's own settings, a small rate that is reduced after two fifths of the run, are made
for its 200 epochs. In a run of few epochs Associated Learning has hardly begun to learn when its rate is reduced, so
the rows with these settings say more about the budget than about the rules.""",
    "al_table3": """\
The rates that the search found on MNIST are too high on CIFAR-10 for both rules. With a quarter of these rates the
narrow MLP reaches {al_table3/mlp_512_slow_bp} by backpropagation and {al_table3/mlp_512_slow_al} by Associated
Learning, which has half as many prediction parameters, after a few epochs. On the vanilla CNN the paper's rate is too
low for a short run: after one epoch of its schedule backpropagation has {al_table3/cnn_bp}, and Associated Learning,
with {al_table3/cnn_al}, has not begun to learn. With ten times the rate, on small images, it begins in the first epoch
and is ahead after three, with {al_table3/cnn_small_al} against {al_table3/cnn_small_bp} and the same number of
prediction parameters; neither rule was tuned there. In the paper, after its 200 epochs, Associated Learning is ahead on
both networks.""",
    "al_table7": """\
As in the paper, the classes are farther apart, relative to their own width, in the last hidden layer of Associated
Learning than in that of backpropagation. This is so after a few epochs: on the narrow MLP, although its test accuracy
is not the higher one, and on the vanilla CNN with small images. The codes of Associated Learning draw the examples to
the corners where the targets of the classes are. The figure of the CNN shows this in the last layer; in the layers
below it, the classes of backpropagation are farther apart. The figure with the paper's own rates shows a single epoch,
after which the codes of Associated Learning are still the same for all images.""",
    "al_tables5_6": """\
Component 1 has exactly the same loss whether it is alone or has others above it: nothing comes back to it. The loss
decreases from the first component to the second, as in the paper, but by far less than in its runs of 200 epochs; the
third component does not decrease it further. The second component adds
{al_tables5_6/two_narrow - al_tables5_6/one_narrow}, the third
{al_tables5_6/three_narrow - al_tables5_6/two_narrow}: the first step has the paper's sign, the second is within the
deviation.""",
    "bartunov_table1": """\
Three methods were trained with the paper's whole budget on MNIST, fully connected, and have memorised the training
set: backpropagation ends at {bartunov_table1/mnist_fc_bp}, feedback alignment at {bartunov_table1/mnist_fc_fa}, and
direct feedback alignment at {bartunov_table1/mnist_fc_dfa}. Direct feedback alignment is above the paper's number and
feedback alignment below it, so that their order is reversed. One reason may be that the paper reports the best epoch on
the test set and we report the last, another that it names no batch size; one seed cannot tell. The other methods had
few epochs. There, difference target propagation reaches {bartunov_table1/mnist_fc_dtp_parallel}, and the variants
without a gradient are behind. The alternating variants, which are the better ones in the paper, had half of the forward
training here. SDTP in parallel, with the settings that Table 5 prints for it, does not learn in so few epochs, and its
seeds differ widely ({bartunov_table1/mnist_fc_sdtp_parallel}); the auxiliary output repairs that
({bartunov_table1/mnist_fc_ao_sdtp_parallel}). On CIFAR-10 the rates of Table 5 are so small that the methods do not
differ yet, on the fully connected net after four epochs and on the locally connected one after one.""",
    "bartunov_figure4": """\
After two epochs the auxiliary output helps, by {bartunov_figure4/aux_16 - bartunov_figure4/sdtp} with the smallest
size and by {bartunov_figure4/aux_1024 - bartunov_figure4/sdtp} with the largest, but its size does not matter yet: the
paper's curve shows 500 epochs.""",
    "bartunov_figure5": """\
As in the paper, backpropagation is the least sensitive to its settings. Target propagation with a gradient for its
first target comes next. The variants without this gradient, and feedback alignment, lose most under unsuitable
settings.""",
    "bartunov_figures6_7": """\
As in the paper, difference target propagation reconstructs as well as backpropagation. SDTP reconstructs less well,
with artefacts, but the digits are legible: rich targets are what it lacks in classification.""",
    "bartunov_table2": """\
Every method's step fits into memory here, which was not so in the paper. Direct feedback alignment, which the paper
could not run, needs little more than feedback alignment. Its feedback is large, but so is that of feedback alignment
through locally connected layers, which have separate weights at every place.""",
    "dkp_table1": """\
After two of the paper's fifty epochs, on CIFAR-10: backpropagation {dkp_table1/cifar10_bp}, Kolen-Pollack
{dkp_table1/cifar10_kp}, direct Kolen-Pollack {dkp_table1/cifar10_dkp}, direct feedback alignment
{dkp_table1/cifar10_dfa}, feedback alignment {dkp_table1/cifar10_fa}, random target projection
{dkp_table1/cifar10_drtp}. That is the paper's order, except for the two feedback alignments, which are equal so far.
With the paper's small rate of the feedback, direct Kolen-Pollack already gains
{dkp_table1/cifar10_dkp - dkp_table1/cifar10_dfa} on direct feedback alignment, and it gains in each of the seeds. With
the rate of the forward weights it is worse: {dkp_table1/cifar10_dkp_fast} in one seed. Backpropagation with frozen
convolutions reaches {dkp_table1/cifar10_bp_fc}: by the paper's measure only Kolen-Pollack and, by a little, direct
Kolen-Pollack have gained from training their convolutions so far. Random target projection gets worse in the second
epoch, because its signal never decreases.""",
    "dkp_figure2": """\
As in the paper, direct feedback fits the network above it better in layers nearer to the output, and it fits better
where it learns, in all layers except the first. Fixed feedback is fitted by the network itself: that is feedback
alignment. With the rate that the paper gives for its 2-conv net the feedback learns too slowly to differ from fixed
feedback, as the paper warns; it does not say which rate its figure has.""",
    "beyond_pipeline": """\
The numbers of the pipeline are those of the sequence, bit by bit. [Many devices](multi-device.md#how-fast-it-is) shows
its speed, as measured and by a model of its cost, O(n + l).""",
    "beyond_resnet": """\
Associated Learning need not lose on a ResNet: at this size it wins. In one component, whose gradient reaches all
blocks, it is ahead of backpropagation after ten epochs, with {beyond_resnet/al_1} against {beyond_resnet/bp}. It is
also ahead in two components, with {beyond_resnet/al_2}. So neither its squared errors between codes nor its readout is
the reason for a loss. In the paper's four components it is behind, with {beyond_resnet/al_4}, and it differs from seed
to seed, because it stays at chance for four of the ten epochs before it begins to learn. In three times as many epochs
the four components are ahead, too: {beyond_resnet/al_4_long} against {beyond_resnet/bp_long}, and against
{beyond_resnet/bp_matched_long} for backpropagation through the layers by which they predict. This is so in each of the
three seeds; neither rule was tuned on it. The paper's ELU, which Associated Learning has where backpropagation has
ReLU, is not the reason: with it, backpropagation reaches {beyond_resnet/bp_elu_long}. Bridges on the spatial mean, like
the network's own readout, make it worse: {beyond_resnet/al_4_pooled}. L2 on all weights keeps it at chance,
{beyond_resnet/al_4_l2}: the gradients of encoders and decoders are so small that Adam follows the decay alone. The
paper says only that ResNets have the decay; with the decay on all weights Associated Learning fails. Whether the same
holds for ResNet-20 at 200 epochs must be measured on an accelerator.""",
    "beyond_tuning": """\
The width of the targets' codes matters most. Codes four times as wide as the layers hardly learn in so few epochs.
Codes that are no wider than the layers do learn, except where a high rate is four times as high for encoders and
decoders. The rate matters next: Associated Learning needs about the same rate as backpropagation, which is far higher
than the paper's. ReLU is as good as ELU. With such settings Associated Learning reaches the best of backpropagation,
but its median is far lower: it is the more sensitive of the two.""",
}
