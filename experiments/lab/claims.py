"""The papers' claims, and what became of each of them here; numbers are named as in `experiments.lab.findings`."""

from collections.abc import Sequence
from typing import NamedTuple


class Claim(NamedTuple):
    """A line of the table."""

    experiment: str
    where: str
    claim: str
    here: str


CLAIMS: Sequence[Claim] = (
    Claim(
        "beyond_pipeline",
        "Associated Learning, Table 1",
        "In a pipeline of l components, n batches take O(n + l) in place of O(n · l)",
        "It holds in ticks: the pipeline here takes n + l - 1, and in three runs with four components its weights are, "
        "to the bit, those of the same steps in sequence. How long a tick takes is another question: [two "
        "cores](lean-measured.md#time-to-accuracy)",
    ),
    Claim(
        "al_table2",
        "Associated Learning, Table 2",
        "On MNIST `al` is slightly better than `bp`, and `dtp` is worse than both",
        "In short runs, and with settings of another paper, `dtp` is worse: {al_table2/mlp_256_dtp - "
        "al_table2/mlp_256_tuned_bp} against `bp`. Between `al` and `bp` it is not settled: "
        "{al_table2/mlp_256_tuned_al - al_table2/mlp_256_tuned_bp} on narrow layers, {al_table2/mlp_tuned_al - "
        "al_table2/mlp_tuned_bp} on wide ones",
    ),
    Claim(
        "al_table3",
        "Associated Learning, Table 3",
        "On CIFAR-10 `al` is ahead on the MLP, the vanilla CNN and VGG, and behind on ResNets",
        "Not tested: the runs are too short. In them `al` is behind on a narrow MLP, with three fifths as many "
        "prediction parameters ({al_table3/mlp_512_al - al_table3/mlp_512_bp}), and ahead on the vanilla CNN with "
        "small images ({al_table3/cnn_small_al - al_table3/cnn_small_bp})",
    ),
    Claim("al_table4", "Associated Learning, Table 4", "The same on CIFAR-100", "Not tested: no data"),
    Claim(
        "al_tables5_6",
        "Associated Learning, Tables 5, 6",
        "Each component adds accuracy, and has a smaller loss than the one below",
        "With the paper's layers it holds after 8 of 200 epochs, from one seed ({al_tables5_6/two - al_tables5_6/one} "
        "and {al_tables5_6/three - al_tables5_6/two}); on narrower ones only for the second component "
        "({al_tables5_6/two_narrow - al_tables5_6/one_narrow}; the third has a larger loss)",
    ),
    Claim(
        "al_table7",
        "Associated Learning, Table 7",
        "The classes are farther apart, relative to their width, than in backpropagation",
        "After a few epochs, on a narrow MLP and on the vanilla CNN with small images, it holds in the last hidden "
        "layer (the ratio is larger by a tenth to a half), and at the output it is reversed (smaller by a fourteenth "
        "to a seventh)",
    ),
    Claim(
        "al_bridges",
        "Associated Learning, bridges",
        "Without a bridge s has difficulty fitting its target, above all in a CNN",
        "It holds on dense layers on MNIST: without bridges the mean square by which s misses its target is, in the "
        "first component, about 70 times as large, and the accuracy is {al_bridges/none} in place of "
        "{al_bridges/hidden}; on a CNN it is not tested",
    ),
    Claim(
        "al_depth",
        "Associated Learning, sigmoids",
        "A gradient that stays in its component is less likely to vanish",
        "It holds before the first step, up to 20 layers. With 20, after 30 epochs, `bp` reaches {al_depth/bp_20}, "
        "which is chance, and `al` {al_depth/al_20}",
    ),
    Claim(
        "al_text_classification",
        "Associated Learning, texts",
        "`al` is ahead of `bp`",
        "After the last epoch it holds in four of eight pairs of texts and a network, in two `al` is behind, and two "
        "are undecided; the mean differences are from {al_text_classification/trec6_transformer_al - "
        "al_text_classification/trec6_transformer_bp} to {al_text_classification/sst2_transformer_al - "
        "al_text_classification/sst2_transformer_bp}. At the best epoch by validation it holds in three, in two `al` "
        "is behind, and three are undecided. The networks are smaller and, except on TREC, the runs short",
    ),
    Claim(
        "bartunov_table1",
        "Bartunov et al., Table 1",
        "`bp` is ahead of the other methods, on MNIST by little",
        "It holds on MNIST, fully connected, from one seed: of eight methods `dfa` is the nearest "
        "({bartunov_table1/mnist_fc_dfa - bartunov_table1/mnist_fc_bp}), and parallel `dtp` is the farthest "
        "({bartunov_table1/mnist_fc_dtp_parallel - bartunov_table1/mnist_fc_bp}) of those five that do not collapse on "
        "the way. On the other networks the runs are too short",
    ),
    Claim(
        "bartunov_table1",
        "Bartunov et al., Table 1",
        "Training forward weights and inverses in turns is more stable, and ends with better accuracy",
        "On MNIST, fully connected, from one seed, `dtp` ends better in turns "
        "({bartunov_table1/mnist_fc_dtp_alternating - bartunov_table1/mnist_fc_dtp_parallel}), and neither form "
        "collapses. `sdtp` collapses in both forms ({bartunov_table1/mnist_fc_sdtp_alternating - "
        "bartunov_table1/mnist_fc_sdtp_parallel} where they are stopped), and `ao_sdtp` only in turns "
        "({bartunov_table1/mnist_fc_ao_sdtp_alternating - bartunov_table1/mnist_fc_ao_sdtp_parallel})",
    ),
    Claim(
        "bartunov_figure4",
        "Bartunov et al., Figure 4",
        "A larger auxiliary output is better, up to a point",
        "Not tested: the runs are too short",
    ),
    Claim(
        "bartunov_figure5",
        "Bartunov et al., Figure 5",
        "`bp` is the most stable method, and target propagation the most sensitive",
        "On MNIST, fully connected, after an epoch or two, `bp` is the most stable: its median setting is two points "
        "below its best. The most sensitive is `fa` by this distance, with fifteen points, or nine with exactly the "
        "ranges of the paper. By the worst setting it is parallel `sdtp`, or `dfa` with these ranges. Locally "
        "connected, `bp` has the best worst setting; by the distance `bp`, parallel `dtp` and `sdtp` are the most "
        "sensitive. On CIFAR-10 it is not settled",
    ),
    Claim(
        "bartunov_figures6_7",
        "Bartunov et al., Figures 6, 7",
        "`sdtp` fits an autoencoder less well than `dtp` and `bp`, but its images look alike",
        "The first half holds, after three epochs and from one seed: its error is more than twice theirs. With "
        "`sdtp` the images have artefacts, but are legible",
    ),
    Claim(
        "bartunov_section3_2",
        "Bartunov et al., section 3.2",
        "On CIFAR-10 more expressive inverses hardly help",
        "Nothing speaks against it, but the runs are far too short: after one epoch of 5,000 images of CIFAR-10, from "
        "one seed, wider receptive fields change the accuracy by {bartunov_section3_2/cifar_lc_wider - "
        "bartunov_section3_2/cifar_lc_same}, and fully connected inverses by {bartunov_section3_2/cifar_lc_dense - "
        "bartunov_section3_2/cifar_lc_same}; on MNIST, after one epoch, both by less than a tenth of a point",
    ),
    Claim(
        "bartunov_section5_6",
        "Bartunov et al., section 5.6",
        "Proposed, and not tried there: targets that come partly from backpropagation",
        "After twenty epochs on MNIST, from three seeds, a quarter brings {bartunov_section5_6/bp_25 - "
        "bartunov_section5_6/bp_0} over `dtp` alone, a half {bartunov_section5_6/bp_50 - bartunov_section5_6/bp_0}, "
        "and backpropagation's own errors {bartunov_section5_6/bp_100 - bartunov_section5_6/bp_0}",
    ),
    Claim(
        "bartunov_table2",
        "Bartunov et al., Table 2",
        "On ImageNet all methods are far behind `bp`",
        "Not tested: no data",
    ),
    Claim(
        "dkp_table1",
        "Direct Kolen-Pollack, Table 1",
        "Direct feedback that learns, `dkp`, is better than `dfa`",
        "It holds on CIFAR-10, after two of fifty epochs ({dkp_table1/cifar10_dkp - dkp_table1/cifar10_dfa}) and, "
        "from one seed, after half of them ({dkp_table1/cifar10_dkp_long - dkp_table1/cifar10_dfa_long}; with the "
        "settings of the authors' code {dkp_table1/cifar10_code_dkp_long - dkp_table1/cifar10_code_dfa_long}); after "
        "two epochs it does "
        "not show on Fashion-MNIST ({dkp_table1/fashion_mnist_dkp - dkp_table1/fashion_mnist_dfa})",
    ),
    Claim(
        "dkp_table1",
        "Direct Kolen-Pollack, Table 1",
        "`dkp` trains the convolutions: it is better than `bp` with convolutions that never learn",
        "It holds on CIFAR-10 after half of the epochs, from one seed ({dkp_table1/cifar10_dkp_long - "
        "dkp_table1/cifar10_bp_fc_long}); after two of fifty it does not show there ({dkp_table1/cifar10_dkp - "
        "dkp_table1/cifar10_bp_fc}), nor on Fashion-MNIST ({dkp_table1/fashion_mnist_dkp - "
        "dkp_table1/fashion_mnist_bp_fc})",
    ),
    Claim(
        "dkp_table1",
        "Direct Kolen-Pollack, Table 1",
        "`dfa` does considerably better than `bp` with convolutions that never learn",
        "In part: on CIFAR-10, after half of the epochs and from one seed, it is ahead, by less than half as much as "
        "in the paper ({dkp_table1/cifar10_dfa_long - dkp_table1/cifar10_bp_fc_long}); after two of fifty it is "
        "reversed "
        "({dkp_table1/cifar10_dfa - dkp_table1/cifar10_bp_fc})",
    ),
    Claim(
        "dkp_table1",
        "Direct Kolen-Pollack, Table 1",
        "Both rules need batch norm to train stably",
        "In line with it, from one seed without batch norm and three with it: without it `dfa` and `dkp` diverge with "
        "the paper's rate in the first epoch, on both data sets. On CIFAR-10 `bp` learns at that rate, and after two "
        "of fifty epochs is {dkp_table1/cifar10_bp_no_norm_searched - dkp_table1/cifar10_bp} from itself with batch "
        "norm. `dfa` and `dkp` learn there with a tenth of the rate, and are "
        "{dkp_table1/cifar10_dfa_no_norm_searched - dkp_table1/cifar10_dfa} and "
        "{dkp_table1/cifar10_dkp_no_norm_searched - dkp_table1/cifar10_dkp} from themselves with batch norm and the "
        "whole rate; how much of this is due to the rate was not tested",
    ),
    Claim(
        "dkp_figure2",
        "Direct Kolen-Pollack, Figure 2",
        "Feedback fits the network better where it learns, and near the output",
        "From one seed, it holds where the feedback learns at the rate of the forward weights, except in the first "
        "layer",
    ),
    Claim(
        "dkp_table2",
        "Direct Kolen-Pollack, Table 2",
        "`dkp` is better than `dfa` on AlexNet",
        "Not tested: no data",
    ),
    Claim(
        "local_errors_cifar10",
        "VGG8B by local losses",
        "`predsim` is better than `bp`",
        "Not tested; on a smaller network, in short runs, it is behind ({local_errors_cifar10/small_predsim - "
        "local_errors_cifar10/small_bp})",
    ),
)
