"""Deliberate defects, each a mistake that a person could make, and the test that must catch it.

    python tests/defects.py [--only NAME …] [--jobs N]

For each defect the package and its tests are copied to a temporary folder, one snippet is changed there, and the named
test runs on the copy. The defect is caught if an assertion of that test fails. A crash, an import error or a test that
is not found does not count. Before that, every named test must pass on an unchanged copy.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
COPIED = "jaxlocal", "tests", "docs/adding-a-rule.md", "README.md", "pyproject.toml"
# How the message begins if an assertion, `pytest.raises` or `pytest.fail` has failed.
FOUND = "AssertionError", "assert ", "Failed"


class Defect(NamedTuple):
    """`before`, which is in the file exactly once, becomes `after`; then `test` must fail."""

    name: str  # the rule or module, and the mistake
    file: str  # in jaxlocal/
    before: str
    after: str
    test: str  # in tests/


def equations(case: str) -> str:
    return f"test_equations.py::test_float64[{case}]"


def contract(test: str, case: str) -> str:
    return f"test_contract.py::test_{test}[{case}]"


def frozen(rule: str) -> str:
    return contract("frozen_layers_keep_their_weights_and_nothing_else_does", rule)


def locality(case: str) -> str:
    return contract("locality_is_what_the_rule_declares", case)


def details(test: str) -> str:
    return f"test_details.py::test_{test}"


def training(test: str) -> str:
    return f"test_training.py::test_{test}"


def parallel(test: str) -> str:
    return f"test_parallel.py::test_{test}"


def sequences(test: str) -> str:
    return f"test_sequences.py::test_{test}"


def tokens(test: str) -> str:
    return f"test_tokens.py::test_{test}"


def pipeline(test: str) -> str:
    return f"test_pipeline.py::test_{test}"


DEFECTS = (
    # Backpropagation.
    Defect(
        "bp: the loss is the sum over the batch, not its mean",
        "network.py",
        "return jnp.mean(values) if values.ndim == 1",
        "return jnp.sum(values) if values.ndim == 1",
        equations("bp-dense tanh"),
    ),
    Defect(
        "bp: the squared error has lost its one half",
        "network.py",
        "return 0.5 * jnp.sum(",
        "return jnp.sum(",
        equations("bp-dense real"),
    ),
    Defect(
        "bp: batch norm trains with its running statistics",
        "network.py",
        "options = _options(layer, train=key is not None)",
        "options = _options(layer, train=False)",
        equations("bp-dense norm"),
    ),
    Defect(
        "bp: the running statistics are not kept",
        "rules/backprop.py",
        "scores, stats = apply_layers(",
        "scores, _ = apply_layers(",
        frozen("bp"),
    ),
    # Associated learning.
    Defect(
        "al: the associated loss trains the code of the target too",
        "rules/associated.py",
        "predicted - stop_gradient(t)",
        "predicted - t",
        equations("al-dense tanh"),
    ),
    Defect(
        "al: the autoencoder does not train its encoder",
        "rules/associated.py",
        'weights["decoder"], codes, h_key)',
        'weights["decoder"], stop_gradient(codes), h_key)',
        equations("al-dense tanh"),
    ),
    Defect(
        "al: the losses sum over the units",
        "rules/associated.py",
        "return jnp.mean(values if self.mask is None",
        "return values.shape[-1] * jnp.mean(values if self.mask is None",
        equations("al-dense tanh"),
    ),
    Defect(
        "al: the bridge has the autoencoder's optimizer",
        "rules/associated.py",
        '"bridge": bridge_tx or tx,',
        '"bridge": autoencoder_tx,',
        equations("al-dense tanh"),
    ),
    Defect(
        "al: an encoder is said to be nobody else's concern",
        "rules/associated.py",
        '"encoder": upward(n)',
        '"encoder": own(n)',
        locality("norm dropout-al"),
    ),
    Defect(
        "al by class: every class counts the same, however many examples it has",
        "rules/associated.py",
        "jnp.mean(examples.mean_of_columns(member) @ values)",
        "jnp.mean(values)",
        "test_equations.py::test_other_codes_of_associated_learning[by class]",
    ),
    Defect(
        "al by class: a compiled program takes soft labels",
        "rules/associated.py",
        "jnp.where(_are_labels(y), 1.0, jnp.nan)",
        "jnp.where(_are_labels(y), 1.0, 1.0)",
        "test_errors.py::test_codes_by_class_need_labels",
    ),
    Defect(
        "compare: settings that its runs refuse are kept",
        "app/comparison.py",
        "folders.check_same(place, one)",
        "pass",
        "test_cli.py::test_compare_a_rule_with_itself_by_settings_of_its_own",
    ),
    Defect(
        "al: a last window that is cut short is divided by the size of a whole one",
        "fast/pooling.py",
        "np.minimum(window, side - window * np.arange(count))",
        "np.full(count, window)",
        "test_equations.py::test_other_codes_of_associated_learning[lean conv, squared]",
    ),
    Defect(
        "costs: the ratio is upside down",
        "costs.py",
        "ours / theirs for ours",
        "theirs / ours for ours",
        "test_diagnostics.py::test_costs_are_those_that_can_be_counted_by_hand",
    ),
    Defect(
        "costs: one round of a loop counts, as XLA counts it",
        "costs.py",
        "return _counted(compiled) + _left_out(needed)",
        "return _counted(compiled)",
        "test_diagnostics.py::test_every_round_of_a_loop_counts_but_no_loop_that_nothing_needs",
    ),
    Defect(
        "costs: a loop counts whose result nothing needs",
        "costs.py",
        "return _counted(compiled) + _left_out(needed)",
        "return _counted(compiled) + _left_out(program)",
        "test_diagnostics.py::test_every_round_of_a_loop_counts_but_no_loop_that_nothing_needs",
    ),
    Defect(
        "data: a validation set becomes the test set",
        "data/sets.py",
        'if "test" not in found:',
        "if False:",
        "test_data.py::test_arrays_are_the_same_as_a_file_of_them",
    ),
    # Local losses.
    Defect(
        "predsim: vectors are compared without subtracting their means",
        "rules/local_losses.py",
        "direction(v - jnp.mean(v, axis=1, keepdims=True))",
        "direction(v)",
        equations("predsim-dense tanh"),
    ),
    Defect(
        "predsim: the gradient of a direction has a part along it",
        "fast/lengths.py",
        "(error - along * unit) * inverse",
        "error * inverse",
        equations("predsim-dense tanh"),
    ),
    Defect(
        "predsim: β and 1 - β have changed places",
        "rules/local_losses.py",
        'losses["prediction"] = (1 - self.beta)',
        'losses["prediction"] = self.beta',
        equations("predsim-dense norm"),
    ),
    Defect(
        "predsim: images are compared pixel by pixel",
        "rules/local_losses.py",
        "if positions == 1 or channels <= FEW:",
        "if positions > 0:",
        equations("predsim-conv strided"),
    ),
    Defect(
        "predsim: a head is said to be everybody's concern",
        "rules/local_losses.py",
        '"prediction": own(n)',
        '"prediction": upward(n)',
        locality("norm dropout-predsim"),
    ),
    # Decoupled greedy learning.
    Defect(
        "dgl: a classifier does not teach its component",
        "rules/decoupled.py",
        'weights["classifier"], read)',
        'weights["classifier"], jax.lax.stop_gradient(read))',
        equations("dgl-dense tanh"),
    ),
    Defect(
        "dgl: a classifier has no activations",
        "rules/decoupled.py",
        "a = nn.relu(layer(a))",
        "a = layer(a)",
        equations("dgl-dense tanh"),
    ),
    Defect(
        "dgl: a classifier is said to be everybody's concern",
        "rules/decoupled.py",
        '"classifier": own(n)',
        '"classifier": upward(n)',
        locality("norm dropout-dgl"),
    ),
    # Contrastive learning.
    Defect(
        "scpl: an example is compared with itself",
        "rules/contrastive.py",
        "axis=1, keepdims=True, where=others)",
        "axis=1, keepdims=True)",
        equations("scpl-dense tanh"),
    ),
    Defect(
        "scpl: all examples attract one another",
        "rules/contrastive.py",
        "jnp.where(alike & others,",
        "jnp.where(others,",
        equations("scpl-dense norm"),
    ),
    Defect(
        "scpl: a projection is said to be everybody's concern",
        "rules/contrastive.py",
        '"projection": own(n)',
        '"projection": upward(n)',
        locality("norm dropout-scpl"),
    ),
    # Forward-Forward.
    Defect(
        "ff: the goodness of a block reaches the block above",
        "rules/forward_forward.py",
        "return values * scale.reshape(-1, *(1,) * (values.ndim - 1))",
        "return values",
        equations("ff-dense tanh"),
    ),
    Defect(
        "ff: a wrong label may be the right one",
        "rules/forward_forward.py",
        "right.shape, 1, classes)",
        "right.shape, 0, classes)",
        equations("ff-dense norm"),
    ),
    Defect(
        "ff: the positive and the negative stream have changed places on the way up",
        "rules/forward_forward.py",
        "return losses, (new_stats,), _apart(a)",
        "return losses, (new_stats,), _apart(a)[::-1]",
        equations("ff-dense tanh"),
    ),
    Defect(
        "ff: the first block's goodness is in the scores",
        "rules/forward_forward.py",
        "goodness[1:] or goodness",
        "goodness",
        details("forward_forward_scores_a_label_by_the_goodness_of_all_blocks_but_the_first[conv]"),
    ),
    # PEPITA.
    Defect(
        "pepita: layers learn from the input of the first pass",
        "rules/input_modulation.py",
        "components[i].stats[0], second[i], keys[i]",
        "components[i].stats[0], first[i], keys[i]",
        equations("pepita-dense tanh"),
    ),
    Defect(
        "pepita: the modulation is divided by the size of the batch",
        "rules/input_modulation.py",
        "modulation = len(x) * error @",
        "modulation = error @",
        equations("pepita-dense norm"),
    ),
    Defect(
        "pepita: the error is subtracted from the input",
        "rules/input_modulation.py",
        "x + modulation.reshape",
        "x - modulation.reshape",
        equations("pepita-conv strided"),
    ),
    # Target propagation.
    Defect(
        "tp: targets come from what the layer above is, not from its target",
        "rules/target_prop.py",
        "return g(target)",
        "return g(above)",
        equations("tp-dense tanh"),
    ),
    Defect(
        "tp: an inverse has the activation of the layer that it inverts, not of the one below",
        "targets.py",
        'getattr(self.net.layers[i - 1], "activation", identity)',
        'getattr(self.net.layers[i], "activation", identity)',
        equations("tp-dense tanh"),
    ),
    Defect(
        "tp: squared distances are the mean over the units",
        "targets.py",
        "return jnp.sum(jnp.square(a - b)) / a.shape[0]",
        "return jnp.mean(jnp.square(a - b))",
        equations("tp-dense tanh"),
    ),
    Defect(
        "dtp: the first target is a step up the loss",
        "rules/target_prop.py",
        "h[-2] - alpha * jax.grad(summed_loss)",
        "h[-2] + alpha * jax.grad(summed_loss)",
        equations("dtp-dense tanh"),
    ),
    Defect(
        "dtp: the first target's step has the factor 1/B",
        "rules/target_prop.py",
        "return jnp.sum(net.loss.value(",
        "return jnp.mean(net.loss.value(",
        equations("dtp-dense tanh"),
    ),
    Defect(
        "dtp: the inverses reconstruct h, not h + ε",
        "targets.py",
        "noisy if self.noise_preserving else h",
        "h",
        equations("dtp-dense tanh"),
    ),
    Defect(
        "dtp: hybrid targets have the two parts the other way round",
        "targets.py",
        "share * g_bp + (1 - share) * g_tp(v)",
        "(1 - share) * g_bp + share * g_tp(v)",
        "test_equations.py::test_hybrid_targets[dense tanh]",
    ),
    Defect(
        "sdtp: the inverses reconstruct h + ε, not h",
        "targets.py",
        "noisy if self.noise_preserving else h",
        "noisy",
        equations("sdtp-dense tanh"),
    ),
    Defect(
        "sdtp: the correction of the targets has the wrong sign",
        "rules/target_prop.py",
        "return h - g(above) + g(target)",
        "return h + g(above) - g(target)",
        equations("sdtp-dense tanh"),
    ),
    Defect(
        "sdtp: the head's inverse reads the scores, not their distribution",
        "targets.py",
        "h[-1] = self.output.read(components[-1].weights, self.net.loss.output(h[-1]), h[-2])",
        "h[-1] = self.output.read(components[-1].weights, h[-1], h[-2])",
        equations("sdtp-dense tanh"),
    ),
    Defect(
        "sdtp: layers and inverses have each other's optimizer",
        "targets.py",
        '{"forward": tx, "inverse": inverse_tx or tx}',
        '{"forward": inverse_tx or tx, "inverse": tx}',
        equations("sdtp-dense tanh"),
    ),
    Defect(
        "ao_sdtp: z has lost its tanh",
        "rules/target_prop.py",
        'z = jnp.tanh(apply_helper(W_z, weights["auxiliary"], flat(h)))',
        'z = apply_helper(W_z, weights["auxiliary"], flat(h))',
        equations("ao_sdtp-dense tanh"),
    ),
    Defect(
        "ao_sdtp: the head's inverse is trained with the z of h, not of h + ε",
        "targets.py",
        "v = self._forward(i, component, noisy, key)",
        "v = self._forward(i, component, noisy, key)\n"
        "        if self._is_head(i):  # the targets are of three classes\n"
        "            v = jnp.concatenate([v[:, :3], self._forward(i, component, h, key)[:, 3:]], 1)",
        equations("ao_sdtp-dense tanh"),
    ),
    # Feedback alignment and Kolen-Pollack learning.
    Defect(
        "fa: the error comes back through the weights themselves",
        "transport.py",
        'linear({**weights, "kernel": feedback}, x), x)',
        "linear(weights, x), x)",
        equations("fa-dense tanh"),
    ),
    Defect(
        "fa: B learns",
        "rules/feedback.py",
        '{"forward": tx}, frozen, drawn(',
        '{"forward": tx, "feedback": tx}, frozen, drawn(',
        equations("fa-conv pooled"),
    ),
    Defect(
        "fa: all layers drop the same units",
        "transport.py",
        "jax.random.fold_in(key, i)",
        "key",
        "test_identities.py::test_feedback_through_the_transposed_weights_is_backprop[fa-norm dropout]",
    ),
    Defect(
        "kp: B has the opposite update of W",
        "rules/feedback.py",
        'grads = transport.kernels_with_feedback(lesson.grads["forward"], feedback)',
        'grads = transport.kernels_with_feedback(jax.tree.map(lambda g: -g, lesson.grads["forward"]), feedback)',
        equations("kp-dense tanh"),
    ),
    Defect(
        "kp: B has the optimizer of W",
        "rules/feedback.py",
        "decayed(feedback_tx, feedback_decay)",
        "decayed(tx, feedback_decay)",
        equations("kp-dense tanh"),
    ),
    Defect(
        "kp: B, where it takes the moves of W, has the decay of W",
        "rules/feedback.py",
        'weights["feedback"], feedback_decay),',
        'weights["feedback"], decay),',
        "test_identities.py::test_kp_with_one_optimizer_for_both_is_kp_with_two_of_the_same",
    ),
    Defect(
        "kp: the decay is multiplied by the learning rate",
        "decay.py",
        "optax.chain(tx, optax.add_decayed_weights(-rate, mask=kernels))",
        "optax.chain(optax.add_decayed_weights(rate, mask=kernels), tx)",
        equations("kp-dense tanh"),
    ),
    Defect(
        "kp: biases decay too",
        "decay.py",
        "optax.add_decayed_weights(-rate, mask=kernels)",
        "optax.add_decayed_weights(-rate)",
        equations("kp-dense tanh"),
    ),
    # Sign symmetry and the weight mirror.
    Defect(
        "usf: the magnitude is the square of the one meant",
        "rules/sign_symmetry.py",
        "jnp.sqrt(jnp.mean(jnp.square(b)))",
        "jnp.mean(jnp.square(b))",
        details("feedback_init_is_used[usf]"),
    ),
    Defect(
        "usf: the magnitudes have the signs of their own",
        "rules/sign_symmetry.py",
        "jnp.abs(m) * jnp.sign(w)",
        "m * jnp.sign(w)",
        "test_identities.py::test_magnitudes_that_are_always_drawn_alike_are_fixed_ones",
    ),
    Defect(
        "frsf: the weights themselves in the place of their signs",
        "rules/sign_symmetry.py",
        "jnp.abs(m) * jnp.sign(w)",
        "jnp.abs(m) * w",
        equations("frsf-dense tanh"),
    ),
    Defect(
        "frsf: the magnitudes without the signs",
        "rules/sign_symmetry.py",
        "jnp.abs(m) * jnp.sign(w)",
        "jnp.abs(m)",
        equations("frsf-conv strided"),
    ),
    Defect(
        "brsf: the magnitudes are those of the first batch",
        "rules/sign_symmetry.py",
        "own_key(net, key)",
        "own_key(net, component.key)",
        equations("brsf-dense tanh"),
    ),
    Defect(
        "brsf: a layer's magnitudes are drawn as its dropout",
        "rules/sign_symmetry.py",
        "own_key(net, key)",
        "key",
        equations("brsf-conv strided"),
    ),
    Defect(
        "wm: B turns away from the weights",
        "rules/weight_mirror.py",
        '{"feedback": jax.tree.map(jnp.negative, mirrored)}',
        '{"feedback": mirrored}',
        "test_identities.py::test_a_weight_mirror_shows_the_weights[dense]",
    ),
    Defect(
        "wm: a weight at the border counts as often as one in the middle",
        "rules/weight_mirror.py",
        "(len(noise) * _products(found, kernel))",
        "(len(noise) * jnp.max(_products(found, kernel)))",
        equations("wm-conv strided"),
    ),
    Defect(
        "wm: the decay of B is its rate",
        "rules/weight_mirror.py",
        "decayed(optax.sgd(mirror_rate), mirror_decay)",
        "decayed(optax.sgd(mirror_rate), mirror_rate)",
        equations("wm-dense tanh"),
    ),
    # Direct feedback.
    Defect(
        "dfa: the target in the place of the error",
        "rules/direct.py",
        "error = net.loss.error(scores, y)",
        "error = y / len(y)",
        equations("dfa-dense tanh"),
    ),
    Defect(
        "dfa: the blocks' error lacks the factor 1/B",
        "rules/direct.py",
        "error = net.loss.error(scores, y)",
        "error = len(y) * net.loss.error(scores, y)",
        equations("dfa-dense tanh"),
    ),
    Defect(
        "dfa: only the signs of the signal reach a block",
        "rules/direct.py",
        "self.back(wanted)",
        "self.back(jnp.sign(wanted))",
        equations("dfa-dense tanh"),
    ),
    Defect(
        "dfa: layers are counted within their component, so that to freeze 0 is to freeze all",
        "make.py",
        "tuple(layer in frozen for layer in part.layers)",
        "tuple(number in frozen for number, _ in enumerate(part.layers))",
        frozen("dfa"),
    ),
    Defect(
        "drtp: the target lacks the factor 1/B",
        "rules/direct.py",
        'passed.lesson(weights["feedback"], _scaled(net.loss, y))',
        'passed.lesson(weights["feedback"], y)',
        equations("drtp-dense tanh"),
    ),
    Defect(
        "drtp: the scaled target is handed on, and scaled again",
        "rules/direct.py",
        "(passed.a, y)",
        "(passed.a, y / y.shape[0])",
        equations("drtp-dense tanh"),
    ),
    Defect(
        "drtp: the gradient of a component goes on into those below",
        "make.py",
        "stop_gradient(message), key)",
        "message, key)",
        contract("no_gradient_enters_a_component_from_outside", "drtp"),
    ),
    Defect(
        "dkp: B does not learn",
        "rules/direct.py",
        '"feedback": signals.T @ self.rows',
        '"feedback": jnp.zeros_like(feedback)',
        equations("dkp-dense tanh"),
    ),
    Defect(
        "dkp: weights and feedback have each other's optimizer",
        "rules/direct.py",
        '{"forward": decayed(tx, decay), "feedback": decayed(feedback_tx or tx, feedback_decay)}',
        '{"forward": decayed(feedback_tx or tx, decay), "feedback": decayed(tx, feedback_decay)}',
        equations("dkp-dense tanh"),
    ),
    Defect(
        "dkp: the decay makes weights grow",
        "decay.py",
        "optax.add_decayed_weights(-rate, mask=kernels)",
        "optax.add_decayed_weights(rate, mask=kernels)",
        equations("dkp-dense tanh"),
    ),
    # What all rules share.
    Defect(
        "rule: a component hands on what it makes of its weights after the update",
        "make.py",
        "return descent.step(component, lesson, descent.txs.keys()), onward, lesson",
        "new = descent.step(component, lesson, descent.txs.keys()); "
        "return new, part.teach(new.weights, component.stats, message, key)[1], lesson",
        equations("al-dense tanh"),
    ),
    Defect(
        "rule: frozen layers are those that learn",
        "descent.py",
        "None if frozen else leaf",
        "leaf if frozen else None",
        frozen("tp"),
    ),
    Defect(
        "rule: new batch statistics are dropped",
        "descent.py",
        "stats=lesson.stats,",
        "stats=component.stats,",
        frozen("kp"),
    ),
    Defect(
        "rule: every batch has the same random key",
        "make.py",
        "jax.random.fold_in(component.key, component.count)",
        "component.key",
        equations("sdtp-dense tanh"),
    ),
    Defect(
        "rule: layers have the first turn, not inverses",
        "make.py",
        "(params.components[0].count // alternate) % 2 == 0",
        "(params.components[0].count // alternate) % 2 == 1",
        "test_equations.py::test_inverses_and_layers_take_turns[tp]",
    ),
    Defect(
        "rule: turns change every other step, whatever their length",
        "make.py",
        "(params.components[0].count // alternate) % 2 == 0",
        "params.components[0].count % 2 == 0",
        "test_equations.py::test_inverses_and_layers_take_turns[dtp]",
    ),
    # Layers.
    Defect(
        "layers: an inverse of a locally connected layer has one bias a channel",
        "layers.py",
        "self.shape[-1:] if isinstance(self.linear, nn.Conv) else self.shape",
        "self.shape[-1:]",
        "test_layers.py::test_transposed_is_the_transposed_matrix[size0-3-1-local]",
    ),
    Defect(
        "layers: an inverse has no activation",
        "layers.py",
        "return self.activation(x + bias.reshape(",
        "return (x + bias.reshape(",
        "test_layers.py::test_transposed_dense_is_the_transposed_matrix",
    ),
    Defect(
        "layers: an inverse does not learn its kernel",
        "layers.py",
        "lambda x: forward(kernel, x), zeros",
        "lambda x: forward(jax.lax.stop_gradient(kernel), x), zeros",
        "test_layers.py::test_transposed_learns_its_kernel[conv]",
    ),
    # Slips that no equation shows.
    Defect(
        "rule: optimizer states are not kept",
        "descent.py",
        "moves[role], states[role] = self.txs[role].update(",
        "moves[role], _ = self.txs[role].update(",
        details("optimizers_keep_their_states"),
    ),
    Defect(
        "rule: predict is in training mode",
        "make.py",
        "return (scores or layer_by_layer)(params, x, key)",
        "return (scores or layer_by_layer)(params, x, jax.random.key(0))",
        details("predict_is_in_evaluation_mode_unless_it_has_a_key[bp]"),
    ),
    Defect(
        "rule: all layers start from one key",
        "parts.py",
        "init_layer(layer, layer_key, x)",
        "init_layer(layer, key, x)",
        details("equal_layers_start_differently_and_draw_from_keys_of_their_own[bp]"),
    ),
    Defect(
        "rule: all components draw from one key",
        "make.py",
        "init_key, own_key = jax.random.split(part_key)",
        "init_key, own_key = jax.random.split(key)",
        details("equal_layers_start_differently_and_draw_from_keys_of_their_own[dfa]"),
    ),
    Defect(
        "al: in prediction all components drop the same units",
        "rules/associated.py",
        "_module_keys(key_of(key, i))",
        "_module_keys(key)",
        details("each_block_has_a_dropout_of_its_own_in_prediction[al]"),
    ),
    Defect(
        "programs: those of all rules are kept",
        "programs.py",
        "@lru_cache(maxsize=KEPT)",
        "@lru_cache(maxsize=None)",
        training("a_rule_that_is_used_no_more_is_forgotten"),
    ),
    Defect(
        "rule names: a file is looked for in the folder where a command runs later",
        "app/rule_names.py",
        'return f"{path}:{function}"',
        "return name",
        "test_rule_names.py::test_a_rule_in_a_file_is_trained_measured_and_resumed_from_any_folder",
    ),
    Defect(
        "rule names: a file gets the modules that lie beside another one",
        "app/rule_names.py",
        "del sys.modules[name]",
        "pass",
        "test_rule_names.py::test_each_file_imports_what_lies_beside_it_and_is_read_again_when_it_has_changed",
    ),
    Defect(
        "rule names: settings of a rule's own share the folder of the rule",
        "app/comparison.py",
        'return " ".join([short(rule), *pairs])',
        "return short(rule)",
        "test_rule_names.py::test_rules_of_ones_own_are_compared_and_searched",
    ),
    Defect(
        "bar: the line of an epoch shows the losses of its last steps",
        "training/bar.py",
        "sum(map(np.mean, row['losses']))",
        "progress.loss",
        "test_training.py::test_the_line_of_an_epoch_shows_its_mean_losses",
    ),
    Defect(
        "predict: bright pixels pass",
        "app/prediction.py",
        "TOO_BRIGHT = 2.0",
        "TOO_BRIGHT = 512.0",
        "test_cli.py::test_eval_of_the_best_and_of_other_data",
    ),
    Defect(
        "folders: a comparison writes into the folder of a run",
        "app/folder.py",
        '    if (folder / "config.yaml").exists():\n        raise ConfigError(f"--out={folder}: holds a run of',
        '    if False:\n        raise ConfigError(f"--out={folder}: holds a run of',
        "test_runs.py::test_the_folder_of_a_run_takes_no_comparison_search_or_ranking",
    ),
    Defect(
        "author: statistics of another kind pass",
        "author.py",
        "if containers[0] != containers[1]:",
        "if False:",
        "test_author.py::test_a_lesson_is_checked_by_the_first_step[other statistics]",
    ),
    Defect(
        "al: in the average a component takes the place of the one below it",
        "rules/associated.py",
        "[down(i, others), across(i - 1)]",
        "[down(i, others), across(i)]",
        details("the_average_is_over_the_predictions_of_all_components[dense]"),
    ),
    Defect(
        "al: with the paper's codes all components predict",
        "codes.py",
        "    average=False,",
        "    average=True,",
        details("with_the_papers_codes_the_last_component_predicts"),
    ),
    Defect(
        "dfa: the head learns with another dropout than that which made the error",
        "parts.py",
        'apply_layer(net.head, weights["forward"][0], stats[0], a, key)',
        'apply_layer(net.head, weights["forward"][0], stats[0], a, jax.random.fold_in(key, 0))',
        details("direct_feedback_has_the_error_of_the_network_that_the_head_learns_from"),
    ),
    Defect(
        "session: a checkpoint within the first epoch is the best one",
        "training/checkpoints.py",
        "if score is not None and score > -np.inf",
        "if score is not None",
        "test_session.py::test_before_the_first_epoch_ends_there_is_no_best_one_and_batch_size_and_seed_are_kept",
    ),
    Defect(
        "rule: the head's statistics stand still",
        "parts.py",
        'return {"task": net.loss.mean(scores, y)}, (new_stats,), message',
        'return {"task": net.loss.mean(scores, y)}, stats, message',
        details("so_do_those_of_a_head[drtp]"),
    ),
    Defect(
        "rule: l2 is halved",
        "decay.py",
        "optax.add_decayed_weights(strength, mask=kernels)",
        "optax.add_decayed_weights(strength / 2, mask=kernels)",
        details("l2_is_the_gradient_of_half_the_square"),
    ),
    Defect(
        "al: g and h have the same rate as f and b by default",
        "rules/associated.py",
        "optax.scale(2.0)",
        "optax.scale(1.0)",
        details("associated_learnings_second_rate_is_twice_the_first_by_default"),
    ),
    Defect(
        "al: the last components take the blocks that are left over",
        "network.py",
        "+ (i < count % groups)",
        "+ (i >= groups - count % groups)",
        details("associated_learnings_components_and_widths[even]"),
    ),
    Defect(
        "dfa: B has the scale of a layer from the output",
        "rules/direct.py",
        "(inputs, outputs), y.dtype).T",
        "(outputs, inputs), y.dtype)",
        details("direct_feedback_has_the_scale_of_a_layer_from_its_block_to_the_output"),
    ),
    Defect(
        "dtp: a layer is taught under another dropout mask than it was run with",
        "targets.py",
        "self._forward_loss, i, component, h[i], wanted, forward_keys[i])",
        "self._forward_loss, i, component, h[i], wanted, noise_keys[i])",
        details("one_dropout_mask_a_step[dtp]"),
    ),
    Defect(
        "kp: the weights have B's decay",
        "rules/feedback.py",
        'shrunk(moves["forward"], weights["forward"], decay)',
        'shrunk(moves["forward"], weights["forward"], feedback_decay)',
        details("each_decay_is_its_own_and_spares_biases_and_scales[kp-conv]"),
    ),
    Defect(
        "dkp: the weights have B's decay",
        "rules/direct.py",
        "decayed(tx, decay)",
        "decayed(tx, feedback_decay)",
        details("each_decay_is_its_own_and_spares_biases_and_scales[dkp-norm dropout]"),
    ),
    Defect(
        "pipeline: a stage learns from a message that holds no batch",
        "pipeline/program.py",
        "else state.notes[0, -1] > 0",
        "else state.notes[0, -1] >= 0",
        pipeline("ticks_and_a_drain_are_sequential_updates[dense-2-None]"),
    ),
    Defect(
        "pipeline: a drain stops one tick early",
        "pipeline/pipeline.py",
        "lambda params, _: self._tick(params, None), params, length=len(self.stages) - 1)",
        "lambda params, _: self._tick(params, None), params, length=len(self.stages) - 2)",
        pipeline("ticks_and_a_drain_are_sequential_updates[dense-2-None]"),
    ),
    Defect(
        "pipeline: what idle stages among alike ones have learnt is kept",
        "pipeline/program.py",
        "return jnp.where(busy.reshape(-1, *(1,) * (new.ndim - 1)), new, old)",
        "return new",
        pipeline("alike_stages_of_a_device_run_as_one[1-stages0-groups0]"),
    ),
    Defect(
        "pipeline: messages go two stages on within a device",
        "pipeline/program.py",
        "return jnp.concatenate([received, sent[:-1]])",
        "return jnp.roll(jnp.concatenate([received, sent[:-1]]), 1, axis=0)",
        pipeline("alike_stages_of_a_device_run_as_one[1-stages0-groups0]"),
    ),
    Defect(
        "pipeline: the losses of a later component take the place of the first one's",
        "pipeline/layout.py",
        "[sum(map(len, self.losses[: stage[0]])) for stage in self.stages]",
        "[0 for stage in self.stages]",
        pipeline("run_is_a_scan_of_the_rule_with_losses_by_batch[dense-2-None]"),
    ),
    Defect(
        "pipeline: all devices of a team write their losses in the place of the first one's",
        "pipeline/program.py",
        "first_losses = layout.first_losses(device)",
        "first_losses = layout.first_losses(jnp.minimum(device, 1))",
        pipeline("run_is_a_scan_of_the_rule_with_losses_by_batch[alike-6-None]"),
    ),
    Defect(
        "pipeline: devices of the same shapes are taken to do the same",
        "pipeline/layout.py",
        "tuple(map(program, numbers[device])) if sharing[own] > 1 else ()",
        "()",
        pipeline("ticks_and_a_drain_are_sequential_updates[shapes-5-None]"),
    ),
    Defect(
        "pipeline: what a stage does not read is left out of the comparison",
        "pipeline/layout.py",
        ", keep_unused=True)",
        ")",
        pipeline("devices_are_a_team_only_if_they_do_the_same[input]"),
    ),
    Defect(
        "pipeline: components of one function are taken to be alike, whatever they hold",
        "kinds.py",
        "return type(value), _made_of(value.func), _made_of(value.args), _made_of(value.keywords)",
        "return type(value), _made_of(value.func), _made_of(value.args)",
        pipeline("devices_are_a_team_only_if_they_do_the_same[number]"),
    ),
    Defect(
        "pipeline: of a stage only the first component is compared",
        "pipeline/layout.py",
        "kind_of(tuple(steps[i] for i in stage), given)",
        "kind_of(tuple(steps[i] for i in stage[:1]), given)",
        pipeline("every_component_of_a_stage_is_compared"),
    ),
    Defect(
        "pipeline: of layers that are made alike one is measured, whether it learns or not",
        "kinds.py",
        "return learn_alone, _made_of(teach), _made_of(descent)",
        "return learn_alone, _made_of(teach)",
        pipeline("each_kind_of_component_is_measured_by_its_own_program"),
    ),
    Defect(
        "pipeline: components are taken to cost the same, whatever they do",
        "costs.py",
        "kind_of((learn,), (component, message))",
        "kind_of((), (component, message))",
        pipeline("each_kind_of_component_is_counted_once"),
    ),
    Defect(
        "pipeline: stages that call other Python functions are taken to be alike",
        "pipeline/layout.py",
        'or "callback" in str(traced.jaxpr)',
        "",
        pipeline("devices_are_a_team_only_if_they_do_the_same[callback]"),
    ),
    Defect(
        "pipeline: a fed batch goes to every device",
        "pipeline/devices.py",
        "return own if start < size else np.zeros_like(own)",
        "return own",
        pipeline("fed_batches_lie_on_the_first_device_only"),
    ),
    Defect(
        "pipeline: the data axes are left out",
        "pipeline/devices.py",
        "return tuple(name for name in self.mesh.axis_names if name != self.axis)",
        "return ()",
        pipeline("two_dimensions_are_one_device_on_the_whole_batch"),
    ),
    Defect(
        "pipeline: the cut that is dearest",
        "pipeline/cut.py",
        "            n: min(",
        "            n: max(",
        pipeline("balance_finds_the_best_cut"),
    ),
    Defect(
        "pipeline: the schedule counts a tick too few",
        "pipeline/schedule.py",
        "return self.batches + self.stages - 1",
        "return self.batches + self.stages - 2",
        pipeline("the_schedule_is_that_of_the_paper[3-4]"),
    ),
    Defect(
        "packing: more room than was given",
        "pipeline/packing.py",
        "if other[0].nbytes <= spare:",
        "if other[0].nbytes <= spare + 8:",
        "test_packing.py::test_room_is_kept_to_and_goes_to_the_largest",
    ),
    Defect(
        "convolution: the gradient of the input is moved by the padding",
        "fast/convolution.py",
        "x_padding.append((reach - 1 - low, image + low - spread))",
        "x_padding.append((reach - 1, image - spread))",
        "test_convolution.py::test_values_and_gradients_are_jaxs[routine-2-True]",
    ),
    Defect(
        "convolution: the kernel is not turned round",
        "fast/convolution.py",
        "jnp.flip(kernel, tuple(spatial)).swapaxes(-1, -2)",
        "kernel.swapaxes(-1, -2)",
        "test_convolution.py::test_values_and_gradients_are_jaxs[shifted products-2-False]",
    ),
    Defect(
        "fit: every epoch takes the examples in the same order",
        "training/feed.py",
        "jax.random.fold_in(key, epoch)",
        "jax.random.fold_in(key, 0)",
        training("fit_is_the_loop_over_shuffled_batches"),
    ),
    Defect(
        "fit: every chunk takes the first rows of the epoch",
        "training/learner.py",
        "chunk.rows[chunk.begin + i]",
        "chunk.rows[i]",
        training("an_epoch_in_chunks_is_the_same[whole-None-False]"),
    ),
    Defect(
        "fit: every chunk draws the augmentation of the first",
        "training/learner.py",
        "chunk.begin + i], chunk.first + i",
        "chunk.begin + i], i",
        training("an_epoch_in_chunks_is_the_same[whole_shaken-augmentation1-False]"),
    ),
    Defect(
        "fit: an epoch that was interrupted begins anew",
        "training/feed.py",
        "for step in range(first, self.order.steps, self.length)",
        "for step in range(0, self.order.steps, self.length)",
        training("a_stopped_run_continues_as_if_it_had_not_stopped[1]"),
    ),
    Defect(
        "fit: the mean loss is over a step too few",
        "training/account.py",
        "(value / self._steps).tolist()",
        "(value / (self._steps - 1)).tolist()",
        training("fit_is_the_loop_over_shuffled_batches"),
    ),
    Defect(
        "fit: patience is an epoch too long",
        "training/state.py",
        ">= patience",
        "> patience",
        training("patience"),
    ),
    Defect(
        "fit: members of an ensemble have other seeds than single runs",
        "training/feed.py",
        "seed + jnp.arange(members)",
        "seed + 1 + jnp.arange(members)",
        training("members_of_an_ensemble_are_runs_of_their_own"),
    ),
    Defect(
        "evaluate: the examples that fill up the last piece count",
        "training/evaluation.py",
        "counted = rows < count",
        "counted = rows <= count",
        training("whole_sets_are_evaluated_in_pieces[37]"),
    ),
    Defect(
        "evaluate: images are not prepared as in training",
        "training/evaluation.py",
        "augmentation.test(x) if augmentation else x",
        "x",
        training("augmentation_is_for_training_and_its_other_half_for_both"),
    ),
    Defect(
        "session: what was written after the checkpoint stays in the metrics",
        "training/session.py",
        "        self._begin_metrics()\n",
        "",
        "test_session.py::test_what_a_killed_process_had_not_saved_is_trained_again",
    ),
    Defect(
        "session: a run that diverges loses its best epoch",
        "training/session.py",
        "if self._unsaved_best:\n                    self._save",
        "if self._unsaved_best is None:\n                    self._save",
        "test_session.py::test_the_best_epoch_is_kept_if_the_run_diverges",
    ),
    Defect(
        "session: the best epoch is the last one",
        "training/session.py",
        '== state.history[-1]["epoch"]',
        "> 0",
        "test_session.py::test_the_best_epoch_is_kept",
    ),
    Defect(
        "data_parallel: every device does all the work",
        "parallel.py",
        "with_sharding_constraint(array, split)",
        "with_sharding_constraint(array, on_every_device)",
        parallel("devices_that_share_a_batch_compute_the_same[dtp-norm dropout]"),
    ),
    Defect(
        "data_parallel: devices sum in every turn of a loop",
        "fast/shards.py",
        "if split is None:",
        "if True:",
        parallel("devices_that_share_a_batch_sum_outside_of_loops[lstm]"),
    ),
    Defect(
        "mixed_precision: it stays switched on",
        "network.py",
        "_COMPUTES_IN.reset(token)",
        "pass",
        parallel("layers_compute_in_fewer_bits_and_nothing_else_does[bp]"),
    ),
    Defect(
        "mixed_precision: weights are rounded, but not what they are applied to",
        "network.py",
        "weights, x = _in_type((weights, x), dtype)",
        "weights = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(leaf.dtype), weights)",
        parallel("layers_compute_in_fewer_bits_and_nothing_else_does[bp]"),
    ),
    Defect(
        "rule: parameters of another rule are taken",
        "make.py",
        "outlines[params.shapes].check(params.components)",
        "pass",
        "test_errors.py::test_parameters_of_another_rule_are_recognised_by_their_arrays[role]",
    ),
    Defect(
        "author: a gradient of another shape is taken",
        "author.py",
        """_check_alike(f"{whose}: grads[{role!r}]", lesson.grads[role], component.weights[role])""",
        "pass",
        "test_author.py::test_a_lesson_is_checked_by_the_first_step[a shape]",
    ),
    Defect(
        "diagnostics: measured locality has components and weights exchanged",
        "diagnostics.py",
        "mask[:, j] = [_differ(*pair)",
        "mask[j] = [_differ(*pair)",
        "test_author.py::test_measured_locality_is_the_declared_one_where_there_are_weights[al]",
    ),
    Defect(
        "layers: of the input the least of each window is taken",
        "layers.py",
        "x = max_pool(x, self.pool_input)",
        "x = -max_pool(-x, self.pool_input)",
        "test_layers.py::test_pooling_the_input_is_pooling_the_output_of_the_block_below",
    ),
    Defect(
        "data: a damaged cache is used",
        "data/cache.py",
        "if folder.is_dir() and not _is_whole(folder):",
        "if False:",
        "test_data.py::test_a_damaged_cache_is_decoded_anew[a flipped bit]",
    ),
    Defect(
        "data: the vocabulary knows the words of the texts held out",
        "data/text.py",
        "for row in _splits(table, validation)[0]]",
        "for some in _splits(table, validation) for row in some]",
        "test_text.py::test_splits_of_the_file_and_a_vocabulary_of_its_training_set_alone",
    ),
    Defect(
        "data: a file of texts without splits is cut as it is sorted",
        "data/text.py",
        'np.random.default_rng(0).permutation(len(some)) if split == "train" else',
        "",
        "test_text.py::test_a_file_becomes_ids_and_classes",
    ),
    Defect(
        "data: a text may ask for padding by its name",
        "data/tokenizer.py",
        'json.dumps({**content, "added_tokens": []}, ensure_ascii=False)',
        "json.dumps(content)",
        "test_text.py::test_tokenizers_are_deterministic_and_survive_a_file[bpe]",
    ),
    Defect(
        "app: images are predicted as they are, without the preparation of the training",
        "app/prediction.py",
        "augmentation.test(x)",
        "x",
        "test_text_runs.py::test_images_and_arrays_are_predicted_as_in_training",
    ),
    Defect(
        "sequences: padding counts in the mean",
        "network.py",
        "jnp.sum(self.values * here, axis=1)",
        "jnp.sum(self.values, axis=1)",
        sequences("what_stands_in_padding_and_how_long_it_is_counts_nowhere[mean]"),
    ),
    Defect(
        "sequences: the backward direction reads padding",
        "sequences.py",
        "bound(values, initial_carry=start, seq_lengths=lengths)",
        "bound(values, initial_carry=start)",
        "test_sequences_reference.py::test_associated_learning_is_the_reference[lstm both]",
    ),
    Defect(
        "sequences: tokens attend to padding",
        "sequences.py",
        "jnp.ones_like(seen), seen, dtype=bool",
        "jnp.ones_like(seen), jnp.ones_like(seen), dtype=bool",
        sequences("what_stands_in_padding_and_how_long_it_is_counts_nowhere[encoder]"),
    ),
    Defect(
        "sequences: the first map of a recurrent layer sends no error to the embedding",
        "transport.py",
        "return True  # of the loop",
        "return False  # of the loop",
        "test_identities.py::test_feedback_through_the_transposed_weights_is_backprop[fa-lstm]",
    ),
    # A target for each token.
    Defect(
        "tokens: padded places and tokens without a target count in the mean of the loss",
        "network.py",
        "mean_where(values, has_target(y))",
        "jnp.mean(values)",
        tokens("the_cross_entropy_is_the_mean_over_all_tokens_that_have_a_target"),
    ),
    Defect(
        "tokens: a readout gives padded places scores",
        "sequences.py",
        "x.clear(linear(x.values)) if",
        "linear(x.values) if",
        tokens("what_a_padded_place_holds_changes_no_weight_by_a_bit[bp]"),
    ),
    Defect(
        "al: padded places count like tokens",
        "rules/associated.py",
        "mask & has_target(t_below) if self.of_classes else mask",
        "jnp.ones_like(mask)",
        "test_sequences_reference.py::test_associated_learning_of_tokens_is_the_reference[steps-squared-False]",
    ),
    Defect(
        "al: a token without a target counts",
        "rules/associated.py",
        "mask & has_target(t_below) if self.of_classes else mask",
        "mask",
        tokens("a_token_without_a_target_teaches_nothing[paper]"),
    ),
    Defect(
        "rules with other functions are taken for the same one",
        "rule.py",
        "isinstance(other, Rule) and all(mine is theirs for mine, theirs in zip(self, other, strict=True))",
        "isinstance(other, Rule) and self.step is other.step",
        "test_contract.py::test_a_rule_is_a_static_argument_even_if_its_modules_hold_lists",
    ),
    Defect(
        "the angle of small vectors is that of their rounded squares",
        "diagnostics.py",
        "vector = vector / jnp.max(jnp.abs(vector))",
        "pass",
        "test_diagnostics.py::test_the_angle_does_not_depend_on_the_lengths[1e-20]",
    ),
    Defect(
        "the gradients of diverged parameters depend on nothing",
        "diagnostics.py",
        "np.isfinite(leaf).all() for lesson",
        "True for lesson",
        "test_diagnostics.py::test_the_locality_of_diverged_parameters_is_not_measured",
    ),
    Defect(
        "dfa: every token receives the mean of the errors",
        "rules/direct.py",
        "wanted = signals @ feedback",
        "wanted = (0 * signals + jnp.mean(signals, axis=0, keepdims=True)) @ feedback",
        "test_sequences_reference.py::test_direct_feedback_of_tokens_is_the_reference",
    ),
    Defect(
        "dgl: a classifier gives padded places scores",
        "rules/decoupled.py",
        "scores = masked(a).clear(scores.reshape(y.shape))",
        "scores = scores.reshape(y.shape)",
        tokens("real_targets_at_padded_places_teach_nothing[dgl]"),
    ),
    Defect(
        "training: tokens without a class count in the accuracy",
        "training/evaluation.py",
        "tokens = has_target(y) & counted",
        "tokens = jnp.ones_like(losses, bool) & counted",
        tokens("evaluation_counts_tokens_that_have_a_class"),
    ),
    # What is written for speed.
    Defect(
        "fast: a product's error comes back through the kernel's size alone",
        "fast/product.py",
        "lax.dot_general(kernel, error,",
        "lax.dot_general(abs(kernel), error,",
        "test_fast.py::test_a_product_and_its_gradients_are_jaxs",
    ),
    Defect(
        "fast: max pooling sends the error to the last of the greatest",
        "fast/pooling.py",
        "windows[:, :, row, :, column] > greatest",
        "windows[:, :, row, :, column] >= greatest",
        "test_fast.py::test_max_pooling_and_its_gradient_are_flaxs[2-shape0]",
    ),
    Defect(
        "fast: a dilated kernel sees its neighbours",
        "fast/convolution.py",
        "start = np.array(offset) * steps",
        "start = np.array(offset)",
        "test_convolution.py::test_values_and_gradients_are_jaxs[one product-2-True]",
    ),
    Defect(
        "fast: shifted products are those of the kernel mirrored",
        "fast/convolution.py",
        "start, stop = np.array(offset), np.array(offset) + length",
        "start, stop = (at := np.array(reach) - 1 - np.array(offset)), at + length",
        "test_convolution.py::test_values_and_gradients_are_jaxs[shifted products-2-False]",
    ),
    Defect(
        "fast: a kernel's gradient is that of the last examples alone",
        "fast/convolution.py",
        "return total + _routine(",
        "return _routine(",
        "test_convolution.py::test_values_and_gradients_are_jaxs[routine-2-True]",
    ),
    Defect(
        "fast: a setting of the compiler changes gradients",
        "fast/xla_flags.py",
        "SETTINGS = (\n",
        'SETTINGS = (\n    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true",\n',
        "test_fast.py::test_the_settings_do_not_change_gradients",
    ),
    Defect(
        "weights: the numbers of layers do not count those of the components below",
        "weights.py",
        "first += len(stats)",
        "first += 1",
        "test_weights.py::test_several_layers_of_one_component",
    ),
    Defect(
        "weights: batch statistics keep their old values",
        "weights.py",
        "replace(component, weights=own, stats=stats)",
        "replace(component, weights=own)",
        "test_weights.py::test_round_trip[bp]",
    ),
    Defect(
        "weights: the digest of a file is not compared",
        "weights.py",
        "if digest not in (None, _digest(weights)):",
        "if digest not in (None, digest):",
        "test_weights.py::test_a_changed_byte_is_found",
    ),
)


class Outcome(NamedTuple):
    """The outcome of a run of pytest."""

    passed: bool
    found: bool  # whether a test failed by an assertion and nothing crashed
    words: str  # the message of the first failure, or the last line of pytest's output
    seconds: float


def copy(source: Path, folder: Path) -> None:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, folder / name)


def with_defect(defect: Defect, source: Path) -> str:
    """The text of the defect's file with the defect in it."""
    text = (source / "jaxlocal" / defect.file).read_text()
    if (count := text.count(defect.before)) != 1:
        sys.exit(
            f"{defect.name}: jaxlocal/{defect.file} holds {defect.before!r} {count} times, but must hold it once; the "
            "code has changed, so renew this defect in tests/defects.py"
        )
    return text.replace(defect.before, defect.after)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the jaxlocal of that folder in place of an installed one."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run(folder: Path, tests: Collection[str]) -> Outcome:
    start = time.monotonic()
    report = folder / "report.xml"
    options = "-n0", "-q", "-x", "-m", "slow or not slow", "-p", "no:cacheprovider", f"--junitxml={report}"
    done = python(folder, "-m", "pytest", *options, *(f"tests/{test}" for test in tests))
    failures, errors = [], []
    if report.exists():
        tree = ElementTree.parse(report)
        failures, errors = ([e.get("message", "") for e in tree.iter(tag)] for tag in ("failure", "error"))
    said = [*failures, *errors, *(done.stdout + done.stderr).strip().splitlines()[-1:], "nothing"]
    return Outcome(
        passed=done.returncode == 0,
        found=done.returncode == 1 and len(failures) == 1 and not errors and failures[0].startswith(FOUND),
        words=" ".join(said[0].split())[:150],
        seconds=time.monotonic() - start,
    )


def check_unchanged(folder: Path, defects: Collection[Defect]) -> None:
    """Check that the named tests pass without a defect, and that they test this folder."""
    imported = python(folder, "-c", "import jaxlocal; print(jaxlocal.__file__)").stdout.strip()
    if imported != str(folder / "jaxlocal" / "__init__.py"):
        sys.exit(f"the tests must import jaxlocal from {folder}, but Python imports {imported or 'nothing'}")
    outcome = run(folder, dict.fromkeys(defect.test for defect in defects))
    if not outcome.passed:
        sys.exit(f"the tests fail without a defect: {outcome.words}")
    print(f"without a defect all these tests pass ({outcome.seconds:.0f} s)", flush=True)


def run_with(defect: Defect, source: Path) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        copy(source, Path(name))
        (Path(name) / "jaxlocal" / defect.file).write_text(with_defect(defect, source))
        return run(Path(name), [defect.test])


def main() -> None:
    parser = argparse.ArgumentParser(description="Shows that each deliberate defect is caught by its test.")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="the defects whose name begins with one of these: al, dtp, rule …"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="defects at the same time (default 1)")
    args = parser.parse_args()
    defects = [d for d in DEFECTS if not args.only or d.name.startswith(tuple(args.only))]
    if not defects:
        parser.error(f"--only {' '.join(args.only)}: no defect has a name that begins like this")

    start, escaped = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        unchanged = Path(name).resolve()  # edits of the original no longer matter
        copy(ROOT, unchanged)
        for defect in defects:
            with_defect(defect, unchanged)
        check_unchanged(unchanged, defects)
        for defect, outcome in zip(defects, pool.map(partial(run_with, source=unchanged), defects), strict=True):
            escaped += not outcome.found
            verdict = f"caught by {defect.test}" if outcome.found else f"ESCAPED {defect.test}: {outcome.words}"
            print(f"{defect.name}\n    {verdict} ({outcome.seconds:.0f} s)", flush=True)
    print(f"{len(defects) - escaped} of {len(defects)} defects caught ({time.monotonic() - start:.0f} s)")
    sys.exit(escaped > 0)


if __name__ == "__main__":
    main()
