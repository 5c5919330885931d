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
The paper's claim is that backpropagation is ahead of the other methods, by little on MNIST. It holds for the methods
that had the whole budget on MNIST, fully connected, one seed each: backpropagation ends at
{bartunov_table1/mnist_fc_bp}. That is {bartunov_table1/mnist_fc_bp - bartunov_table1/mnist_fc_dfa} to direct feedback
alignment and {bartunov_table1/mnist_fc_bp - bartunov_table1/mnist_fc_fa} to feedback alignment, which are in the other
order in the paper. All three have memorised the training set. Reporting the last epoch and not the best one is not
the reason for their distance from the paper: by validation the two differ by a fifth of a point at most.

A row with fewer epochs cannot test the claim. Among those, difference target propagation in parallel has
{bartunov_table1/mnist_fc_dtp_parallel} and the alternating variants, which are the better ones in the paper, have had
half as many epochs of forward training. On CIFAR-10 the rates of Table 5 are so small that after so few epochs the
methods lie within three points of each other, on both networks.

SDTP in parallel collapses with the settings that Table 5 prints for it: it ends at
{bartunov_table1/mnist_fc_sdtp_parallel}. In all three seeds validation accuracy is best after the first epoch and falls
after it, in two of them to chance, while the losses of the inverses rise severalfold. The reason is not the number of
epochs but the large β₁ of the inverses' optimizer: with the β₁ of Table 4 in that optimizer alone SDTP reaches
{bartunov_table1/mnist_fc_sdtp_parallel_inverse_b1}, and with it in both optimizers
{bartunov_table1/mnist_fc_sdtp_parallel_b1}. AO-SDTP learns with either: {bartunov_table1/mnist_fc_ao_sdtp_parallel} as
printed, and {bartunov_table1/mnist_fc_ao_sdtp_parallel_b1} with Table 4's.""",
    "bartunov_figure4": """\
The paper's claim is that a larger auxiliary output leads to better accuracy, up to a point. The record cannot test it.
After two epochs of one seed the auxiliary output adds {bartunov_figure4/aux_16 - bartunov_figure4/sdtp} with the
smallest size and {bartunov_figure4/aux_1024 - bartunov_figure4/sdtp} with the largest. That is the wrong order, but too
small a difference to mean anything.""",
    "bartunov_figure5": """\
The paper finds backpropagation the most stable method, and target propagation the most sensitive to its settings. The
first holds here, on MNIST, fully connected: the median of backpropagation is closest to its best. The second does not:
feedback alignment is the most sensitive method here, with nearly twice the distance between best and median that SDTP
and AO-SDTP have, and difference target propagation is the least sensitive after backpropagation. The record is small:
eight random settings after one epoch each, where the paper has sixty and the best of 500 epochs. After one epoch small
rates alone make a method look sensitive, and feedback alignment is the slowest with them. One setting of SDTP stays at
chance; it has a large rate and a large β₁ for the inverses, as in the collapse of Table 1.""",
    "bartunov_figures6_7": """\
The paper's claim is that SDTP fits an autoencoder less well than difference target propagation and backpropagation, but
that its reconstructions look alike. Its first half holds after three epochs of one seed: the error of SDTP is more than
twice that of the other two, and difference target propagation is a little behind backpropagation. For the second half
see the pictures: with SDTP there are artefacts, but the digits are legible.""",
    "bartunov_table2": """\
The paper's claim is that on ImageNet all other methods are far behind backpropagation. It cannot be tested without the
images. What is measured is the step of every method with a batch of two images, which fits into memory. Direct feedback
alignment, which the paper could not run on 16 GB, needs about a tenth more than feedback alignment: its feedback is
large, but so is that of feedback alignment through locally connected layers, which have separate weights at every
place.""",
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
