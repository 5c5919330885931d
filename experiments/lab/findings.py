"""The meaning of the report's numbers, experiment by experiment; numbers are named, not typed.

{experiment/row} is the row's test accuracy, and {experiment/row - experiment/row} the difference of two in points.
What is in [[double brackets]] is left out as long as a row that it names has no record.
"""

FINDINGS = {
    "al_table2": """\
In the paper Associated Learning is slightly better than backpropagation, and difference target propagation is worse
than both. Our rows are in line with the second half: on layers of 256 units difference target propagation reaches
{al_table2/mlp_256_dtp}, the others {al_table2/mlp_256_tuned_bp} and {al_table2/mlp_256_tuned_al}; but its settings are
those of another paper and were not searched, its rate is constant, its batches are smaller than in most of the other
rows, and its forward weights are trained in only half of the epochs. The first half does not show: with settings from a
search of equal budget, as many epochs and as many prediction parameters, the difference of Associated Learning to
backpropagation on these layers is {al_table2/mlp_256_tuned_al - al_table2/mlp_256_tuned_bp}, less than the deviation
over its seeds. On layers of 1024 units the difference is {al_table2/mlp_tuned_al - al_table2/mlp_tuned_bp}, although
Associated Learning has about a quarter of the prediction parameters of backpropagation there; both rules have the
settings that were searched on the narrower net, and few epochs. The rows with the paper's own settings,
{al_table2/mlp_bp} and {al_table2/mlp_al}, say more about the budget than about the rules: the rate is divided by ten
before the first of the two epochs ends, and Associated Learning hardly improves in the second.""",
    "al_table3": """\
In the paper, after 200 epochs, Associated Learning is ahead on the MLP, the vanilla CNN and VGG, and behind on the
ResNets. No row here has this budget, so the claim is neither confirmed nor refuted. In short runs, each rule with the
best of the same rates, the narrow MLP reaches {al_table3/mlp_512_bp} by backpropagation and {al_table3/mlp_512_al} by
Associated Learning, which has three fifths as many prediction parameters: {al_table3/mlp_512_al -
al_table3/mlp_512_bp}. Backpropagation chose the smallest rate there, so a smaller one may be better for it. With the
rates that the search found on MNIST it reaches {al_table3/mlp_512_tuned_bp} and {al_table3/mlp_512_tuned_al}, and the
two seeds differ in the order. [[On small images the vanilla CNN reaches {al_table3/cnn_small_bp} by backpropagation and
{al_table3/cnn_small_al} by Associated Learning, with as many prediction parameters: {al_table3/cnn_small_al -
al_table3/cnn_small_bp}. Associated Learning is ahead with every seed. Both rules still improve in the last of the three
epochs, and in the trials three of the four rates of Associated Learning stayed at chance.]] After a single epoch, into
which the paper's schedule of the rate is squeezed, from one seed, backpropagation has {al_table3/cnn_bp} on the vanilla
CNN, and Associated Learning, with {al_table3/cnn_al}, has not begun to learn. [[On the MLP with the paper's layers
backpropagation has {al_table3/mlp_bp} after two epochs, with the schedule squeezed into them, from one seed; Associated
Learning was not trained there.]]""",
    "al_table7": """\
The paper's claim is that the classes are farther apart, relative to their own width, in Associated Learning than in
backpropagation. On the narrow MLP, with the rates that the row chose (`mlp_512`) and with those of the search on MNIST
(`mlp_512_tuned`), and on the vanilla CNN with small images (`cnn_small`), after a few epochs, this holds in the last
hidden layer, which is a decoder in Associated Learning, in every seed: the ratio is larger there by a half, by three
tenths and by a tenth. At the output the order is reversed in every seed, and the ratio is smaller by a fourteenth to a
seventh: there the classes of backpropagation, whose scores have no bounds, are farther apart. So the claim depends on
the layer, and the paper does not say which one it has. `cnn` shows a single epoch, after which the codes of Associated
Learning are still nearly the same for all images.""",
    "al_tables5_6": """\
The paper's claims are that the associated loss decreases from component to component, and that each component adds
accuracy. With the paper's layers and settings both hold, in eight epochs in place of 200, into which its schedule of
the rate is squeezed, and from one seed. The loss of the second component is a quarter smaller than that of the first,
and that of the third a tenth smaller than that of the second; in the paper each is smaller by a factor of thirty to
several hundred. The second component adds {al_tables5_6/two - al_tables5_6/one}, and the third {al_tables5_6/three -
al_tables5_6/two}.

On layers of 256 units, after few epochs, both hold for the second component and not for the third. The second has a
smaller loss than the first in every seed, and adds {al_tables5_6/two_narrow - al_tables5_6/one_narrow} in the mean, and
something in every seed. The third has a larger loss than the second in every seed, and adds {al_tables5_6/three_narrow
- al_tables5_6/two_narrow} in the mean. On both widths component 1 has exactly the same loss whether it is alone or has
others above it: nothing comes back to it. In the paper the training set is memorised; here it is not.""",
    "al_bridges": """\
The letter reports, without numbers, that s_i hardly fits its target without a bridge. On two dense layers, with a rate
searched for each, Associated Learning reaches {al_bridges/hidden} with the bridges of the authors' code,
{al_bridges/layer} with bridges of one layer, and {al_bridges/none} without: a difference of {al_bridges/none -
al_bridges/hidden}. In the last epoch the associated loss of the first component, the mean square by which s or its
bridge misses the target, is about 70 times as large without bridges as with those of the code. So a bridge is needed
here, too. The rows do not predict with equally many weights: those without bridges have a third, and those with one
layer two fifths of the weights of the first.""",
    "al_depth": """\
With 2, 5, 10 and 20 layers of sigmoids backpropagation reaches {al_depth/bp_2}, {al_depth/bp_5}, {al_depth/bp_10} and
{al_depth/bp_20}, and Associated Learning {al_depth/al_2}, {al_depth/al_5}, {al_depth/al_10} and {al_depth/al_20}. The
second table shows the reason that the authors suppose: the gradient of backpropagation in the first layer is the
smaller, the more layers are above it, and that of Associated Learning does not depend on them. With two layers
backpropagation is ahead ({al_depth/bp_2 - al_depth/al_2}), and with five the two are level. With ten it begins late:
after the first epoch it has a fifth to half of the validation images right. After all thirty epochs Associated Learning
is ahead there with every seed ({al_depth/al_10 - al_depth/bp_10} in the mean). With 20 layers backpropagation stays at
chance with each of its rates in the short trials, and to the end with the smallest, which was taken because all four
were alike. Some rows chose the largest rate, so a larger one may be better for them: backpropagation with two layers,
and Associated Learning with two, five and ten.""",
    "al_text_classification": """\
The successor's paper reports that Associated Learning is ahead of backpropagation on texts. Here there are eight pairs
of a set of texts and a network, with smaller networks than the paper's. TREC has its whole budget of 30 epochs and five
seeds, the others have few epochs, and three seeds. What follows is said of the last epoch. Associated Learning is ahead
with every seed on four of them: AG News with both networks, the LSTM ({al_text_classification/ag_news_10k_lstm_al -
al_text_classification/ag_news_10k_lstm_bp}) and the transformer ({al_text_classification/ag_news_10k_transformer_al -
al_text_classification/ag_news_10k_transformer_bp}; from one seed by a single text), and with the transformer the
Sentiment Treebank ({al_text_classification/sst2_transformer_al - al_text_classification/sst2_transformer_bp}, with a
smaller rate) and IMDb ({al_text_classification/imdb_transformer_al - al_text_classification/imdb_transformer_bp}). It
is behind with every seed on two: IMDb with the LSTM ({al_text_classification/imdb_lstm_al -
al_text_classification/imdb_lstm_bp}) and TREC with the transformer ({al_text_classification/trec6_transformer_al -
al_text_classification/trec6_transformer_bp}). On the other two, the Sentiment Treebank and TREC with the LSTM, which of
the two is ahead differs between the seeds; on TREC it is behind in the mean ({al_text_classification/trec6_lstm_al -
al_text_classification/trec6_lstm_bp}). On the digits it is ahead with four of five seeds with the LSTM
({al_text_classification/digits_lstm_al - al_text_classification/digits_lstm_bp}), and behind with every seed with the
transformer ({al_text_classification/digits_transformer_al - al_text_classification/digits_transformer_bp}).

The epoch matters. At the best epoch by validation, Associated Learning is behind with every seed on the Sentiment
Treebank with the LSTM, by about a point. On TREC and AG News with the transformer the seeds then differ in who is
ahead, as they do on the digits with the transformer. On TREC with the LSTM they still differ, with three of five ahead
in place of one, and the other pairs of texts keep their order with every seed.

The linear model of word frequencies reads whole texts and, except on the Sentiment Treebank, also the texts that the
networks keep for validation. No network is ahead of it on IMDb. If it reads the networks' tokens alone, it has
{al_text_classification/trec6_linear_cut} on TREC, {al_text_classification/sst2_linear_cut} on the Sentiment Treebank,
{al_text_classification/ag_news_10k_linear_cut} on AG News and {al_text_classification/imdb_linear_cut} on IMDb. Against
this one, in the mean over the seeds: on TREC the LSTM is ahead with every rule, with Associated Learning and direct
feedback alignment by fewer than two of 500 texts, and the transformer is behind with every rule. On the Sentiment
Treebank only Kolen-Pollack with the LSTM is ahead ({al_text_classification/sst2_lstm_kp}), by about nine texts; at the
best epoch it is backpropagation with the LSTM, and not Kolen-Pollack. On AG News only Associated Learning with the LSTM
is ahead; with the transformer it is level. On IMDb the LSTM is ahead with every rule and every seed, and the
transformer only with direct feedback alignment ({al_text_classification/imdb_transformer_dfa}). The networks start from
random vectors, and none is pretrained on other texts.

Direct feedback alignment is behind backpropagation with every seed on AG News with the transformer, on IMDb with the
LSTM and on the digits with the transformer, and on TREC with the transformer it is ahead with none. It is ahead with
every seed on the Sentiment Treebank and on IMDb with the transformer; there it chose a smaller rate than
backpropagation. Kolen-Pollack is behind with every seed on TREC and the digits with the transformer and on IMDb with
the LSTM. It is ahead with every seed on the Sentiment Treebank with the LSTM after the last epoch, and behind in the
mean at the best one.

Most rows chose the largest of their rates. The choice rests on one seed, trained for a third of the epochs, and on the
Sentiment Treebank some choices differ by three or four of 872 texts. A larger rate might do better, and in the full
training a smaller one might, too.""",
    "al_text_deep": """\
Two LSTM layers in place of one, without dropout. After the last epoch Associated Learning is ahead on AG News by
{al_text_deep/ag_news_10k_al - al_text_deep/ag_news_10k_bp}; on the Sentiment Treebank the two differ by less than two
tenths of a point. At the best epoch by validation it is ahead on AG News, too, and half a point behind on the Sentiment
Treebank. Only these two sets were tried. Three of the four rows chose the largest of their rates, so a larger one may
be better. [Time to accuracy](lean-measured.md#time-to-accuracy) shows how soon each rule is as accurate as
backpropagation, on one device and on two.""",
    "bartunov_table1": """\
The paper's claim is that backpropagation is ahead of the other methods, by little on MNIST. On MNIST, fully connected,
one seed each with the whole budget, it is ahead of all other methods. The distance is small but for the three that
collapse on the way: SDTP, in parallel and alternating, and alternating AO-SDTP. Backpropagation ends at
{bartunov_table1/mnist_fc_bp}. It is ahead of direct feedback alignment by {bartunov_table1/mnist_fc_bp -
bartunov_table1/mnist_fc_dfa}, of alternating difference target propagation by {bartunov_table1/mnist_fc_bp -
bartunov_table1/mnist_fc_dtp_alternating}, of feedback alignment by {bartunov_table1/mnist_fc_bp -
bartunov_table1/mnist_fc_fa}, of parallel AO-SDTP by {bartunov_table1/mnist_fc_bp -
bartunov_table1/mnist_fc_ao_sdtp_parallel}, and of parallel difference target propagation by
{bartunov_table1/mnist_fc_bp - bartunov_table1/mnist_fc_dtp_parallel}. Parallel AO-SDTP and feedback alignment differ by
one image. In the paper the two parallel methods are the last of the six, and alternating difference target propagation
and feedback alignment are about as good as each other and ahead of direct feedback alignment; here it is ahead of them.
Four of the six have memorised the training set, and parallel AO-SDTP and alternating difference target propagation
nearly all of it. The paper reports the best epoch, and we the last one. By validation the best epoch is better by half
a point or more for parallel AO-SDTP and alternating difference target propagation, and by a third or less for the
others. On the test set parallel AO-SDTP is better after its best epoch by less than a third of a point, and difference
target propagation and backpropagation hardly or not at all. These records were made on different days; those of
feedback alignment and direct feedback alignment with a setting of the compiler that is off now.

A row with fewer epochs cannot test the claim. On MNIST, locally connected, all ten rows have four of the 500 epochs,
one seed each, and the alternating ones train their forward weights in two of them. The convolutional network is first,
with {bartunov_table1/mnist_lc_bp_convnet}, as in the paper. Feedback alignment ({bartunov_table1/mnist_lc_fa}),
backpropagation ({bartunov_table1/mnist_lc_bp}), difference target propagation, alternating
({bartunov_table1/mnist_lc_dtp_alternating}) and in parallel ({bartunov_table1/mnist_lc_dtp_parallel}), and direct
feedback alignment ({bartunov_table1/mnist_lc_dfa}) follow within a point of each other. Their order depends on the
epoch: direct feedback alignment is best after its third one, and would then lead these five. In the paper it is the
last of all, by less than a tenth of a point. SDTP and AO-SDTP are behind these five, alternating and in parallel; in
the paper they are behind all but direct feedback alignment. The second epoch of forward training makes alternating SDTP
worse, by about two points, and alternating AO-SDTP a little; on the fully connected network both get worse, too.
Alternating SDTP ({bartunov_table1/mnist_lc_sdtp_alternating}) is the last.

On CIFAR-10 the rates of Table 5 are small. After four epochs on the fully connected network the methods lie within
three points of each other. On the locally connected one, after one epoch or two, they lie within four. There the
convolutional network has {bartunov_table1/cifar_lc_bp_convnet} after one epoch, and is ahead of all nine methods, as in
the paper; but alternating difference target propagation ({bartunov_table1/cifar_lc_dtp_alternating}), which is next, is
23 images behind it. Six of the nine have one epoch, too; the three alternating ones have two, and train their forward
weights in the second. Alternating AO-SDTP ({bartunov_table1/cifar_lc_ao_sdtp_alternating}) and SDTP in parallel
({bartunov_table1/cifar_lc_sdtp_parallel}), which differ by four images, are the last; in the paper SDTP in parallel is.
They are a third of a point or a little more behind feedback alignment ({bartunov_table1/cifar_lc_fa}), which in the
paper is behind backpropagation alone. On the fully connected network the three alternating methods are the last; they
have trained their forward weights in two of the four epochs. This is one seed of each. The records of backpropagation,
both kinds of feedback alignment and parallel difference target propagation on the locally connected network are from
before the setting of the compiler was changed.

SDTP in parallel, with the settings that Table 5 prints for it, collapses again and again. From the second to the sixth
epoch it has less than a quarter of the validation images right, and after sixteen epochs more than four fifths. Five
times more it falls below a quarter, every 80 to 100 epochs. Six to twelve epochs later it has more than half right
again, and 40 to 50 epochs later more than four fifths; after the last fall the training ends before that. So what it
ends with depends on when it is stopped. After 500 epochs it has {bartunov_table1/mnist_fc_sdtp_parallel}; by validation
the 240th is best. In the first collapse the inverses stop fitting: all their losses rise, that of the topmost from 101
in the first epoch to 310 in the fourth, while in parallel AO-SDTP all fall. The large β₁ of their optimizer brings this
about: with the β₁ of Table 4 in that optimizer alone SDTP does not collapse, and after all 500 epochs, from one seed,
it has {bartunov_table1/mnist_fc_sdtp_parallel_inverse_b1}, about a third of a point less than the paper prints. It
never has less than nine tenths of the validation images right. With this β₁ in both optimizers it has
{bartunov_table1/mnist_fc_sdtp_parallel_b1} after four epochs; it was not trained for longer. Parallel AO-SDTP learns
with either: {bartunov_table1/mnist_fc_ao_sdtp_parallel} as printed, with the whole budget, and
{bartunov_table1/mnist_fc_ao_sdtp_parallel_b1} with Table 4's, after four epochs.

Alternating SDTP collapses, too, but later. By validation it is best after the second epoch, and from the fourteenth on
it never has a quarter right; it ends at {bartunov_table1/mnist_fc_sdtp_alternating}. Alternating AO-SDTP has the same
settings, and collapses, too: from the twentieth epoch on it has less than half right. But shortly before the three
hundredth epoch it recovers: within twenty epochs its accuracy rises from below one half to above nine tenths of the
validation images, and it ends at {bartunov_table1/mnist_fc_ao_sdtp_alternating}. So a collapse need not be the end.
This is one seed of each.

The paper also finds that training forward weights and inverses in turns is more stable, and ends with better accuracy.
With the whole budget the better accuracy shows here for difference target propagation, by
{bartunov_table1/mnist_fc_dtp_alternating - bartunov_table1/mnist_fc_dtp_parallel}; more stable it is not, for neither
form collapses, and at the end the parallel one hardly moves. Neither shows for SDTP, both forms of which collapse, nor
for AO-SDTP, whose alternating form collapses and whose parallel form does not:
{bartunov_table1/mnist_fc_ao_sdtp_alternating - bartunov_table1/mnist_fc_ao_sdtp_parallel} at the end.

The β₁ of the two alternating forms is that of Table 4. But the rate and the ε of their inverses are the largest of all
inverses in Table 5. How an ε acts depends on the scale of the losses, which the paper writes as sums over the units of
a layer. If they were means, ε would act as if it were larger, as many times as a layer has units. With that, in both
optimizers (the rows `means`), none of three seeds of SDTP collapses in thirty epochs. They end at
{bartunov_table1/mnist_fc_sdtp_alternating_means}, far below the paper's number, and two of the three were best after
ten or twelve. None of three seeds of AO-SDTP collapses, either. They end at
{bartunov_table1/mnist_fc_ao_sdtp_alternating_means}, two of the three still rising by validation, but behind SDTP, far
below the paper's number, and, by validation, below what one seed of the printed settings has after two epochs. So means
would explain why the two alternating forms collapse so early here. Whether they would also lead to the paper's
accuracies, thirty of 500 epochs cannot tell.""",
    "bartunov_figure4": """\
The paper's claim is that a larger auxiliary output leads to better accuracy, up to a point. The record cannot test it.
After two epochs of one seed the difference to SDTP without an auxiliary output is {bartunov_figure4/aux_16 -
bartunov_figure4/sdtp} with the smallest of the six sizes and {bartunov_figure4/aux_1024 - bartunov_figure4/sdtp} with
the largest. Those in between follow no order; with 256 units it is {bartunov_figure4/aux_256 - bartunov_figure4/sdtp}.
The differences are too small to mean anything. The rows were made on different days.""",
    "bartunov_figure5": """\
The paper finds backpropagation the most stable method, and target propagation the most sensitive to its settings. The
first holds here, on MNIST, fully connected: the median of backpropagation is closest to its best. The second does not:
feedback alignment is the most sensitive method here, with nearly twice the distance between best and median that SDTP
and AO-SDTP have, and difference target propagation is the least sensitive after backpropagation. The alternating
methods are about as sensitive as their parallel forms. By its worst setting parallel SDTP is the most sensitive, and
backpropagation again the most stable. The record is small: eight random settings after one epoch each (two of the
alternating methods, whose first epoch trains the inverses alone), where the paper has sixty and the best of 500 epochs.
After one epoch small rates make a method look sensitive. They are not the only reason: with rates of about 1e-3 and the
larger β₁, feedback alignment stays below four fifths of the images, too. One setting of parallel SDTP stays at chance;
it has a large rate and a large β₁ for the inverses, as in the collapse of parallel SDTP in Table 1.

From exactly the ranges of Table 4, by the distance between best and median, direct feedback alignment comes after SDTP
and AO-SDTP. The rows of these two, less than half a point apart, change places, and else the order is the same. The
median of backpropagation is two points below its best, those of difference target propagation about four, those of SDTP
and AO-SDTP more than six, that of direct feedback alignment eight and that of feedback alignment nine. By the worst
setting direct feedback alignment is the most sensitive there, with less than a quarter of the images right; AO-SDTP and
feedback alignment have little more. The best settings are half a point to a little more than two and a half points
worse than those from the wider ranges, which include the best settings of Table 5.

On MNIST, locally connected, the worst setting of backpropagation has more than four fifths of the images right, those
of difference target propagation almost three quarters, those of SDTP about two thirds, those of AO-SDTP and direct
feedback alignment a little less, and that of feedback alignment a little more than a half. By this backpropagation is
the most stable here, too. But this is the same setting for all, with the second smallest rate and the largest ε; after
so short a training it tells how fast a method learns with small steps. By the distance between best and median
backpropagation, parallel difference target propagation and both forms of SDTP are the most sensitive, with four to five
points; alternating difference target propagation and AO-SDTP have about three, and the two kinds of feedback alignment
about two. So the paper's second claim does not show clearly here: by the distance backpropagation is about as
sensitive, and by the worst setting the two kinds of feedback alignment are more so.

On CIFAR-10, fully connected, the same settings give another order. The medians of parallel AO-SDTP, backpropagation,
parallel SDTP and direct feedback alignment are about three points below their best settings, that of alternating
difference target propagation between three and four, and those of parallel difference target propagation, feedback
alignment and alternating SDTP about six. The best settings of parallel AO-SDTP and SDTP and of both kinds of feedback
alignment are worse than the median of backpropagation, so that a distance in points means less for them. Eight settings
after an epoch or two neither confirm nor refute the paper's finding here: with none of them has any method many more
than a third of the images right.

On CIFAR-10, locally connected, there are only four settings, and a ninth of the training images. Backpropagation
has the best setting, and is the most sensitive by the distance between best and median, with between six and seven
points. So the paper's first claim does not show here. Alternating difference target propagation, parallel SDTP and
the convolutional network have more than four points, the others about three or less. By the worst setting both
networks of backpropagation and both forms of difference target propagation are the least sensitive, with more than
a sixth of the images right. The others have less than a seventh, most of them little more than chance, all with the
setting of the smallest rate. In every method the best setting has less than a third of the images right, so that
this says little.""",
    "bartunov_figures6_7": """\
The paper's claim is that SDTP fits an autoencoder less well than difference target propagation and backpropagation, but
that its reconstructions look alike. Its first half holds after three epochs of one seed: the error of SDTP is more than
twice that of the other two, and difference target propagation is a little behind backpropagation. For the second half
see the pictures: with SDTP there are artefacts, but the digits are legible.""",
    "bartunov_section3_2": """\
The paper's claim is that on CIFAR-10 larger receptive fields and fully connected inverses lead to no significant
improvement. Nothing here speaks against it. On CIFAR-10, after one epoch of a ninth of the training images, wider
receptive fields change the test accuracy of difference target propagation by {bartunov_section3_2/cifar_lc_wider -
bartunov_section3_2/cifar_lc_same}[[, and fully connected inverses by {bartunov_section3_2/cifar_lc_dense -
bartunov_section3_2/cifar_lc_same}]]. On MNIST, after one epoch of all images, it is {bartunov_section3_2/mnist_lc_wider
- bartunov_section3_2/mnist_lc_same}[[ and {bartunov_section3_2/mnist_lc_dense - bartunov_section3_2/mnist_lc_same}]].
From one seed such differences cannot be told from chance, and so short a training tells little.""",
    "bartunov_section5_6": """\
The paper makes no claim here but an identity, which a test shows to hold: with g_bp alone the gradients are those of
backpropagation up to their scale. After twenty epochs a quarter of g_bp in the targets changes the test accuracy of
difference target propagation by {bartunov_section5_6/bp_25 - bartunov_section5_6/bp_0}, a half by
{bartunov_section5_6/bp_50 - bartunov_section5_6/bp_0}, three quarters by {bartunov_section5_6/bp_75 -
bartunov_section5_6/bp_0}, and g_bp alone by {bartunov_section5_6/bp_100 - bartunov_section5_6/bp_0}. All of them are
ahead of difference target propagation with every seed, and in the mean those with a half or more lie within a tenth of
a point of each other. Most of the gain comes with the first quarter.""",
    "bartunov_table2": """\
The paper's claim is that on ImageNet all other methods are far behind backpropagation. It is not tested here, where the
images are missing; the rows that would test it wait for them. What is measured is the step of every method with a batch
of two images, which fits into memory. Direct feedback alignment, which the paper could not run on 16 GB, needs about a
tenth more than feedback alignment: its feedback is large, but so is that of feedback alignment through locally
connected layers, which have separate weights at every place.""",
    "dkp_table1": """\
The paper's claim is that feedback which learns makes direct feedback better. It holds on CIFAR-10 after two of the
paper's fifty epochs: direct Kolen-Pollack reaches {dkp_table1/cifar10_dkp}, which is {dkp_table1/cifar10_dkp -
dkp_table1/cifar10_dfa} to direct feedback alignment, and it is ahead in each of the three seeds. Backpropagation
({dkp_table1/cifar10_bp}) and Kolen-Pollack ({dkp_table1/cifar10_kp}) are ahead of both, as in the paper. Feedback
alignment, at {dkp_table1/cifar10_fa}, is ahead of direct feedback alignment so far, which is the other order than the
paper's. The paper's second claim, that direct Kolen-Pollack trains the convolutions, cannot be seen so early:
backpropagation with frozen convolutions reaches {dkp_table1/cifar10_bp_fc}. Direct Kolen-Pollack is worse when its
feedback learns at the rate of the forward weights, at {dkp_table1/cifar10_dkp_fast}. Random target projection is far
behind, at {dkp_table1/cifar10_drtp}, and in one of its three seeds it gets worse in the second epoch. With the settings
of the authors' public code, which learn more slowly, backpropagation reaches {dkp_table1/cifar10_code_bp}, direct
Kolen-Pollack {dkp_table1/cifar10_code_dkp} and direct feedback alignment {dkp_table1/cifar10_code_dfa}. With both
recipes the order is backpropagation, direct Kolen-Pollack, direct feedback alignment; the paper's numbers have the
same, and so have those that stand beside the code.

[[Which recipe reproduces the paper's numbers? With each of them direct Kolen-Pollack was trained for half of the fifty
epochs, from one seed. After the last of these epochs the code's recipe comes nearer on the test set: it reaches
{dkp_table1/cifar10_code_dkp_long}, two points less than the number that stands beside the code, and seven tenths more
than that of the table. The text's recipe reaches {dkp_table1/cifar10_dkp_long}, three points less than the table. After
the best epoch by validation, the seventh with the text's recipe and the fifteenth with the code's, the text's is nearer
to its own number: it is one and a half points below, and the code's more than two and a half. After the last epoch the
text's recipe has all but one in a hundred of the training images right, as in the paper, and the code's has seven
eighths. Our images are JPEG copies, and we train on fewer of them.]]

[[What the other rules reach after half of the epochs, from one seed each: with the settings of the text,
backpropagation has all training images right, and {dkp_table1/cifar10_bp_long} of the test images, five points less
than in the paper; so not only direct Kolen-Pollack falls short there.]] [[Direct feedback alignment has more of the
training images right than in the paper after fifty epochs, and {dkp_table1/cifar10_dfa_long} of the test images, two
and a half points less than there. Direct Kolen-Pollack is ahead of it ({dkp_table1/cifar10_dkp_long -
dkp_table1/cifar10_dfa_long}, and two points after the best epoch of each by validation); in the paper the difference is
two points.]] [[With the code's settings direct feedback alignment reaches {dkp_table1/cifar10_code_dfa_long}, one point
less than the number beside the code. Direct Kolen-Pollack is ahead of it ({dkp_table1/cifar10_code_dkp_long -
dkp_table1/cifar10_code_dfa_long}, and four points after the best epoch of each by validation); between the numbers
beside the code the difference is six and a half points.]] [[Backpropagation reaches {dkp_table1/cifar10_code_bp_long}
with them, three points less than the number beside the code.]]

[[The second claim holds, with the settings of the text, after half of the epochs and from one seed: backpropagation
with frozen convolutions has nearly all training images right by then, and {dkp_table1/cifar10_bp_fc_long} of the test
images, one point less than in the paper. The difference of direct Kolen-Pollack to it is {dkp_table1/cifar10_dkp_long -
dkp_table1/cifar10_bp_fc_long}, about half of the paper's.]] [[Direct feedback alignment is ahead of frozen
convolutions, too ({dkp_table1/cifar10_dfa_long - dkp_table1/cifar10_bp_fc_long}), but by less than half as much as in
the paper.]]

On Fashion-MNIST, after two of the fifty epochs, the claim does not show: direct Kolen-Pollack reaches
{dkp_table1/fashion_mnist_dkp}, {dkp_table1/fashion_mnist_dkp - dkp_table1/fashion_mnist_dfa} to direct feedback
alignment. It is ahead in two of the three seeds. In the paper the difference is small there, too, a tenth of a point.
Backpropagation ({dkp_table1/fashion_mnist_bp}) is the best and random target projection
({dkp_table1/fashion_mnist_drtp}) the worst, as in the paper. Kolen-Pollack ({dkp_table1/fashion_mnist_kp}) is ahead of
both direct rules and of frozen convolutions, and in the paper it is behind all three. Backpropagation with frozen
convolutions ({dkp_table1/fashion_mnist_bp_fc}) is ahead of feedback alignment ({dkp_table1/fashion_mnist_fa}), as in
the paper, and also of both direct rules, which it is not there. Feedback alignment is level with the direct rules, and
behind them in the paper. Random target projection gets worse in the second epoch in two of the three seeds. Direct
Kolen-Pollack is worse here, too, when its feedback learns at the rate of the forward weights, in each of the three
seeds: {dkp_table1/fashion_mnist_dkp_fast}.

The paper writes that batch norm was necessary for stable training by both direct rules, and that direct
Kolen-Pollack often had exploding gradients without it. Here, without batch norm and with the paper's rates for
CIFAR-10, the first seed of each rule diverges in the first epoch, on both data sets: a loss grows in size beyond
what training accepts. With direct Kolen-Pollack that comes after fewer steps. Such a row ends there, and its record
says where. So each rule without batch norm also chose its rate on CIFAR-10 among three, of which the largest is the
paper's (`searched`). Backpropagation chose that one, and after two epochs reaches
{dkp_table1/cifar10_bp_no_norm_searched} without batch norm and {dkp_table1/cifar10_bp} with it. Direct feedback
alignment and direct Kolen-Pollack chose a tenth of it, and no longer diverge, but learn far less:
{dkp_table1/cifar10_dfa_no_norm_searched} and {dkp_table1/cifar10_dkp_no_norm_searched}, and with batch norm
{dkp_table1/cifar10_dfa} and {dkp_table1/cifar10_dkp}. The rows without it have one seed, those with it three. The
two direct rules have ten times the rate in the rows with batch norm, so that a part of the difference may be due to
the rate; which part was not tested.""",
    "dkp_figure2": """\
As in the paper, direct feedback fits the network above it better in layers nearer to the output, and it fits better
where it learns, in all layers except the first. Fixed feedback is fitted by the network itself: that is feedback
alignment. With the rate that the paper gives for its 2-conv net the feedback learns too slowly to differ from fixed
feedback, as the paper warns; it does not say which rate its figure has. All of this is from one seed.""",
    "beyond_pipeline": """\
The numbers of the pipeline are those of the sequence, bit by bit. [Speed](speed.md#pipelines-on-two-cores) shows
its speed, as measured and by a model of its cost, O(n + l).""",
    "beyond_resnet": """\
On ResNet-8 with small images, few examples and one rate that was searched for neither rule, Associated Learning does
not lose because of its components alone. After ten epochs, in one component, whose gradient reaches all blocks, it
reaches {beyond_resnet/al_1}, and backpropagation {beyond_resnet/bp}; in two components it reaches {beyond_resnet/al_2}
in one seed. In the paper's four it reaches {beyond_resnet/al_4}, and differs from seed to seed: it stays at chance for
the first three or four of the ten epochs. After three times as many epochs the four components reach
{beyond_resnet/al_4_long}, and backpropagation {beyond_resnet/bp_long}, or {beyond_resnet/bp_matched_long} through the
layers by which they predict, and {beyond_resnet/bp_elu_long} with the ELU of Associated Learning; Associated Learning
is ahead of all three in each of the three seeds. This order is not settled: where both rules searched their rates, on
the same network and images, and Associated Learning had lean codes, backpropagation is ahead after six epochs ([Lean
codes, measured](lean-measured.md#what-the-numbers-say)). Two changes harm: bridges on the spatial mean, like the
network's own readout, the more so the more components there are ({beyond_resnet/al_1_pooled - beyond_resnet/al_1} in
one component, {beyond_resnet/al_2_pooled - beyond_resnet/al_2} in two, where the row without them has one seed, and
{beyond_resnet/al_4_pooled - beyond_resnet/al_4} in four), and L2 on all weights, which, from one seed, keeps Associated
Learning at chance for ten epochs, {beyond_resnet/al_4_l2}: probably because the gradients of encoders and decoders are
so small that Adam follows the decay alone. The paper says only that ResNets have the decay. None of this says what
happens on ResNet-20 with all images and 200 epochs, where Associated Learning is behind in the paper.""",
    "beyond_label_loss": """\
The lowest decoder of Associated Learning says which class its code stands for. Does it learn this better by the squared
error, as in the paper, or by cross entropy? With the smaller rate the two losses are level in the mean. With the larger
one nine of the ten seeds are about as accurate with both, and one ends thirteen points lower with the squared
error.""",
    "beyond_tuning": """\
With its best trial Associated Learning reaches the best of backpropagation, but its median is far lower: among these
choices it is the more sensitive of the two, and it has more of them. Which setting matters most cannot be told from so
few trials, because two that go with failure often come together. Of the six trials with four times the rate for
encoders and decoders, five hardly learn; of the six with codes four times as wide as the layers, four do, and three of
these have the fourfold rate as well. With the same or twice the rate, wide codes learn in two trials and hardly in one.
All trials with narrower codes and the same or twice the rate learn. The best trials of both rules have about the same
rate. The paper's rate is below those that were tried. The activations, initial weights and bridges do not differ
clearly.""",
    "local_errors_cifar10": """\
In the paper, after 400 epochs with dropout and changed images, predsim is better than backpropagation on VGG8B. No row
here has this budget. With a quarter of the features and a part of the images, made smaller, each rule with the best of
three rates after three epochs, backpropagation reaches {local_errors_cifar10/small_bp}, decoupled greedy learning
{local_errors_cifar10/small_dgl}, prediction losses alone {local_errors_cifar10/small_pred}, and both losses of predsim
{local_errors_cifar10/small_predsim}: differences to backpropagation of {local_errors_cifar10/small_dgl -
local_errors_cifar10/small_bp}, {local_errors_cifar10/small_pred - local_errors_cifar10/small_bp} and
{local_errors_cifar10/small_predsim - local_errors_cifar10/small_bp}. With two seeds only the last of these can be told
from zero. After these few epochs backpropagation has nearly all training images right, the local losses two thirds to
three quarters of them. An earlier record of these rows was wrong: a setting of the compiler, which is off now, gave
wrong gradients.""",
}
