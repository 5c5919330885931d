"""Weights by name: out, in, to other rules, from other libraries, in files; and what is refused."""

import copy
import errno
import pickle
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, HEADLESS, NETS, by_rule, code_blocks, drawn, make_batch, same, start
from jax.sharding import NamedSharding, PartitionSpec
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file, save_file

import jaxlocal as jl


def fresh(rule, net):
    """Parameters that share no array with those of `start`."""
    return drawn(rule, make_batch(net), seed=1)


def learned(params):
    """What get_weights returns, as the parameters hold it."""
    return [(component.weights, component.stats) for component in params.components]


@by_rule(FAMILIES)
def test_round_trip(name, tmp_path):
    """Through NumPy and through a file: all that was learned, bit for bit, and nothing else."""
    net = NETS["norm dropout"]
    rule, _, step, params, batch = start(name, net)
    other = fresh(rule, net)
    weights = jl.get_weights(rule, params)
    assert sum(array.size for array in weights.values()) == sum(leaf.size for leaf in jax.tree.leaves(learned(params)))
    moved = jl.set_weights(rule, other, weights)
    jl.save_weights(tmp_path / "net.safetensors", rule, params)
    loaded = jl.load_weights(str(tmp_path / "net.safetensors"), rule, other)
    assert jax.tree.structure(moved) == jax.tree.structure(loaded) == jax.tree.structure(params)
    assert same(learned(moved), learned(params)) and same(loaded, moved)
    for before, after in zip(other.components, moved.components, strict=True):
        assert same((before.opt, before.key, before.count), (after.opt, after.key, after.count))
    assert not same(learned(other), learned(params))  # they are left as they were
    jax.eval_shape(step, moved, batch)


ROLES = dict.fromkeys(("fa", "kp", "usf", "frsf", "wm", "dfa", "drtp", "dkp", "pepita"), "feedback")
ROLES |= dict.fromkeys(("tp", "dtp", "sdtp"), "inverse")
ROLES |= {
    "bp": "",
    "brsf": "",
    "ff": "",
    "predsim": "prediction similarity",
    "dgl": "classifier",
    "scpl": "projection",
    "al": "bridge decoder encoder",
    "ao_sdtp": "auxiliary inverse",
}


@by_rule(jl.rules.ALL)
def test_the_network_has_the_same_names_in_every_rule(name):
    """What else there is, is of the rule's own roles."""
    net = NETS["conv"]
    names, of_bp = (jl.get_weights(start(of, net).rule, start(of, net).params).keys() for of in (name, "bp"))
    network = {n for n in of_bp if not (name in HEADLESS and n.startswith("layers.3/"))}
    assert network <= names
    assert {other.split("/")[1] for other in names - network} == set(ROLES[name].split())


def test_several_layers_of_one_component():
    """The numbers of layers count through the components; what belongs to a component has its own number."""
    net = NETS["dense"]
    rule = jl.rules.al(net, optax.sgd(0.1), components=(2, 1))
    weights = jl.get_weights(rule, fresh(rule, net))
    biases = {name: array.size for name, array in weights.items() if name.endswith("forward/linear/bias")}
    assert biases == {f"layers.{i}/forward/linear/bias": size for i, size in enumerate((7, 6, 5))}
    assert {name.split("/")[0] for name in weights if "bridge" in name} == {"components.0", "components.1"}


def test_a_layer_that_is_a_linear_module_itself():
    """Its feedback has no name inside the layer."""
    net = jl.Network((jl.layers.dense(4), nn.Dense(3)), jl.layers.Head(2))
    rule = jl.rules.fa(net, optax.sgd(0.1))
    params = rule.init(jax.random.key(0), (jnp.ones((2, 5)), jnp.eye(2)))
    assert jl.get_weights(rule, params)["layers.1/feedback"].shape == (4, 3)


def test_backpropagation_and_direct_feedback_predict_the_same():
    net = NETS["conv"]
    bp, dfa = start("bp", net), start("dfa", net)
    other = fresh(dfa.rule, net)
    moved = jl.set_weights(dfa.rule, other, jl.get_weights(bp.rule, bp.params))
    x, _ = bp.batch
    assert same(dfa.rule.predict(moved, x), bp.rule.predict(bp.params, x))
    feedback = "components.1/feedback"
    assert same(*(jl.get_weights(dfa.rule, params)[feedback] for params in (moved, other)))


def test_the_arrays_are_copies():
    """Neither side sees a change of the other."""
    rule, *_, params, _ = start("bp", NETS["dense"])
    name = "layers.0/forward/linear/bias"
    weights = jl.get_weights(rule, params)
    moved = jl.set_weights(rule, params, weights)
    weights[name][:] = 7
    assert (jl.get_weights(rule, params)[name] != 7).all() and (jl.get_weights(rule, moved)[name] != 7).all()
    moved.components[0].weights["forward"][0]["linear"]["bias"] = None
    assert (jl.get_weights(rule, params)[name] != 7).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.update(forward=()),
        lambda weights: weights.pop("forward"),
        lambda weights: weights.__setitem__("forward", ()),
        lambda weights: weights.__delitem__("forward"),
        lambda weights: weights.__ior__({"forward": ()}),
    ],
)
def test_a_component_cannot_be_changed_in_place(change):
    component = start("dfa", NETS["dense"]).params.components[0]
    for by_role in (component.weights, component.opt):
        with pytest.raises(TypeError, match=r"cannot be changed in place: jl.set_weights\(rule, params"):
            change(by_role)
    moved = component.replace(weights={**component.weights, "forward": ()})
    assert moved.weights["forward"] == () != component.weights["forward"]
    with pytest.raises(TypeError, match="in place"):
        change(moved.weights)


def test_components_are_copied_and_mapped_like_dicts():
    rule, *_, params, batch = start("al", NETS["dense"])
    for other in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), jax.device_get(params)):
        assert same(other, params) and type(other.components[0].weights) is type(params.components[0].weights)
    component, lesson = params.components[0], jax.jit(rule.lessons)(params, batch)[0]
    moved = jax.tree.map(lambda w, g: w - 0.1 * g, component.weights, lesson.grads)
    assert sorted(moved) == sorted(component.weights) and not same(moved, component.weights)


def test_other_types_become_the_parameters_own():
    rule, *_, params, _ = start("bp", NETS["dense"])
    name = "layers.0/forward/linear/bias"
    for value in (np.arange(7, dtype=np.float64), np.arange(7), list(range(7)), jnp.arange(7.0)):
        found = jl.set_weights(rule, params, {name: value}).components[0].weights["forward"][0]["linear"]["bias"]
        assert found.dtype == jnp.float32 and found.tolist() == list(range(7))


def test_ensembles_have_the_members_first():
    net = NETS["dense"]
    rule = jl.ensemble(jl.rules.dkp(net, optax.sgd(0.1)), 2)
    params = rule.init(jax.random.key(1), make_batch(net))
    weights = jl.get_weights(rule, params)
    name = "layers.0/forward/linear/bias"
    assert weights[name].shape == (2, 7)
    assert same(jl.set_weights(rule, params, weights), params)
    with pytest.raises(ValueError, match=r"has shape \(7,\), but must have \(2, 7\); the first axis is the 2 members"):
        jl.set_weights(rule, params, {name: np.ones(7)})
    single = jl.rules.dkp(net, optax.sgd(0.1))
    with pytest.raises(ValueError, match="members"):
        jl.get_weights(rule, fresh(single, net))
    with pytest.raises(ValueError, match="has shape"):
        jl.get_weights(single, params)


def test_weights_stay_on_their_devices():
    mesh = jl.pipeline.mesh(data=2)
    rule = jl.data_parallel(jl.rules.bp(NETS["dense"], optax.sgd(0.1)), mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(fresh(rule, NETS["dense"]), everywhere)
    moved = jl.set_weights(rule, params, jl.get_weights(rule, params))
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(learned(moved)))
    assert same(moved, params)


def test_weights_can_be_set_inside_jit():
    rule, *_, params, _ = start("bp", NETS["dense"])
    weights = {name: array + 1 for name, array in jl.get_weights(rule, params).items()}
    wanted = jl.set_weights(rule, params, weights)
    assert same(jax.jit(lambda p: jl.set_weights(rule, p, weights))(params), wanted)
    assert same(jax.jit(lambda w: jl.set_weights(rule, params, w))(weights), wanted)
    with pytest.raises(TypeError, match="outside"):
        jax.jit(lambda p: jl.get_weights(rule, p))(params)


BIAS, KERNEL = "layers.0/forward/linear/bias", "layers.0/forward/linear/kernel"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"layers.0/forward/linear/kernle": np.ones((4, 7))}, f"did you mean {KERNEL}?"),
        ({0: np.ones(7)}, "has no 0"),
        ({KERNEL: np.ones((7, 4))}, r"has shape \(7, 4\), but must have \(4, 7\); transpose it"),
        ({KERNEL: np.ones((4, 8))}, r"has shape \(4, 8\), but must have \(4, 7\); take it from a network"),
        ({BIAS: 1.0}, r"has shape \(\), but must have \(7,\)"),
        ({BIAS: np.full(7, np.nan)}, "NaN or infinity"),
        ({BIAS: np.full(7, 1e300)}, "NaN or infinity as float32"),
        ({BIAS: np.ones(7, complex)}, "complex128, but must hold real numbers"),
        ({BIAS: "ones"}, "must hold real numbers"),
        ({BIAS: [[1], [1, 2]]}, "cannot be read as a NumPy array"),
        ([np.ones(7)], "must be a dict"),
        (None, "must be a dict"),
    ],
)
def test_what_is_no_weight_is_refused(weights, message):
    rule, *_, params, _ = start("bp", NETS["dense"])
    with pytest.raises((TypeError, ValueError), match=message):
        jl.set_weights(rule, params, weights)


def test_kernels_with_their_axes_in_another_order():
    rule, *_, params, _ = start("bp", NETS["conv"])
    with pytest.raises(ValueError, match="move its axes"):
        jl.set_weights(rule, params, {KERNEL: np.ones((3, 2, 3, 3))})


def test_numpy_arrays_in_parameters():
    """Parameters that were moved to the host."""
    rule, *_, params, _ = start("bp", NETS["dense"])
    (component,) = params.components
    host = params.replace(components=(component.replace(weights=jax.tree.map(np.asarray, component.weights)),))
    assert same(jl.set_weights(rule, host, jl.get_weights(rule, host)), params)


def test_other_rules_and_their_parameters_are_refused():
    rule, *_, params, _ = start("bp", NETS["dense"])
    images = jl.rules.bp(jl.models.conv2(3), optax.sgd(0.5))
    with pytest.raises(ValueError, match=r"made for x of shape \(B, 4\) and y of shape \(B, 3\).*another rule"):
        jl.get_weights(images, params)
    for other in (start("fa", NETS["dense"]), start("dfa", NETS["dense"]), start("bp", NETS["norm dropout"])):
        with pytest.raises(ValueError, match="another rule"):
            jl.get_weights(rule, other.params)
        with pytest.raises(ValueError, match="another rule"):
            jl.set_weights(rule, other.params, {})
        with pytest.raises(ValueError, match=r"^params .*another rule"):  # before any file is read
            jl.load_weights("no file", rule, other.params)
    with pytest.raises(TypeError, match="what the rule's init or update returned"):
        jl.get_weights(rule, None)
    al = start("al", NETS["dense"])
    pipe = jl.pipelined(al.rule, jl.pipeline.mesh(component=3))
    with pytest.raises(TypeError, match=r"pass pipe\.rule"):
        jl.get_weights(pipe, al.params)
    for wrong in ("bp", None, jl.rules.bp):
        with pytest.raises(TypeError, match="must be a rule"):
            jl.get_weights(wrong, params)


def torch_like_scores(state, images):
    """PyTorch's arithmetic in NumPy, for the model on the page: channels first, padding on all sides, float64."""
    x = images.transpose(0, 3, 1, 2).astype(np.float64)
    for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        patches = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
        channel = (slice(None), None, None)
        x = np.einsum("bchwij,ocij->bohw", patches, state[f"{conv}.weight"]) + state[f"{conv}.bias"][channel]
        x = (x - state[f"{norm}.running_mean"][channel]) / np.sqrt(state[f"{norm}.running_var"][channel] + 1e-5)
        x = np.maximum(x * state[f"{norm}.weight"][channel] + state[f"{norm}.bias"][channel], 0)
    x = np.maximum(x.reshape(len(x), -1) @ state["dense.weight"].T + state["dense.bias"], 0)
    return x @ state["head.weight"].T + state["head.bias"]


def test_the_pages_weights_from_pytorch():
    """Its conversion, beside a NumPy reference with PyTorch's layouts: strides, batch norm, flattened images."""
    (block,) = [block for block in code_blocks("docs/weights.md") if "def from_torch" in block]
    page = {"jax": jax, "jl": jl, "np": np, "optax": optax}
    exec(block, page)
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (8, 3, 3, 3),
        "conv2.weight": (16, 8, 3, 3),
        "dense.weight": (32, 256),
        "head.weight": (10, 32),
        **dict.fromkeys(("conv1.bias", "norm1.weight", "norm1.bias", "norm1.running_mean"), (8,)),
        **dict.fromkeys(("conv2.bias", "norm2.weight", "norm2.bias", "norm2.running_mean"), (16,)),
        "dense.bias": (32,),
        "head.bias": (10,),
    }
    state = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    state |= {"norm1.running_var": rng.uniform(0.5, 2, 8), "norm2.running_var": rng.uniform(0.5, 2, 16)}
    params = jl.set_weights(page["rule"], page["params"], page["from_torch"](state))
    wanted = torch_like_scores(state, page["images"])
    np.testing.assert_allclose(page["rule"].predict(params, page["images"]), wanted, rtol=1e-3, atol=1e-3)


# Files.


@pytest.fixture
def saved(tmp_path):
    """A rule, its parameters, and the file with their weights."""
    rule, *_, params, _ = start("bp", NETS["dense"])
    path = tmp_path / "net.safetensors"
    jl.save_weights(path, rule, params)
    return rule, params, path


def refused(path, rule, params):
    """The sentence with which a file is refused; it names the file."""
    with pytest.raises(ValueError, match=r"path='.*net\.safetensors'") as error:
        jl.load_weights(path, rule, params)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_file_has_the_names_and_arrays(saved):
    rule, params, path = saved
    assert same(load_file(path), jl.get_weights(rule, params))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_changed_byte_is_found(saved):
    rule, params, path = saved
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "is damaged" in refused(path, rule, params)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_cut_file_is_refused(size, saved):
    rule, params, path = saved
    path.write_bytes(path.read_bytes()[:size])
    assert "is no safetensors file, or a damaged one" in refused(path, rule, params)


def test_files_of_other_kinds_and_networks_are_refused(saved):
    rule, params, path = saved
    with path.open("wb") as file:
        np.savez(file, x=np.ones(3))
    assert "is no safetensors file" in refused(path, rule, params)
    save_file({"conv1.weight": np.ones(3)}, path)
    assert "has no 'conv1.weight'" in refused(path, rule, params)
    weights = jl.get_weights(rule, params)
    save_file(weights | {BIAS: np.ones(3)}, path)
    assert "has shape (3,), but must have (7,)" in refused(path, rule, params)
    del weights[BIAS]
    save_file(weights, path)
    assert f"lacks '{BIAS}'" in refused(path, rule, params)


def test_files_that_are_not_there(saved):
    rule, params, path = saved
    for missing in (path.parent / "other", path.parent):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            jl.load_weights(missing, rule, params)
    with pytest.raises(FileNotFoundError, match="in a folder that exists; make the folder first"):
        jl.save_weights(path.parent / "no folder" / "net", rule, params)
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        jl.save_weights(path.parent, rule, params)
    for wrong in (None, 3, "", "a\0b"):
        with pytest.raises(TypeError, match=r"must be a path, such as 'net\.safetensors'"):
            jl.load_weights(wrong, rule, params)


def test_a_failed_write_leaves_nothing_behind(saved, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    rule, _, path = saved
    before = path.read_bytes()
    monkeypatch.setattr(type(path), "replace", no_room)
    with pytest.raises(OSError, match="no space"):
        jl.save_weights(path, rule, fresh(rule, NETS["dense"]))
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_name_of_another_program_brings_a_short_list():
    net = jl.models.mlp((3,) * 20, 3)
    rule = jl.rules.bp(net, optax.sgd(0.1))
    params = rule.init(jax.random.key(0), make_batch(NETS["dense"]))
    with pytest.raises(ValueError, match=r"has no 'XYZ'; choose from .*, …$") as error:
        jl.set_weights(rule, params, {"XYZ": np.ones(3)})
    assert len(str(error.value)) < 200


def test_without_the_library(saved, monkeypatch):
    rule, params, path = saved
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (jl.save_weights, jl.load_weights):
        with pytest.raises(ImportError, match="pip install safetensors"):
            call(path, rule, params)
