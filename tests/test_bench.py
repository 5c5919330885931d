"""The benchmark: its yardsticks compute what the rules compute, and its arithmetic can be done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lab_helpers import Here, main, one_line

import jaxlocal as jl
from experiments.lab import tables
from experiments.lab.experiment import Budget, Job
from experiments.speed import limits
from experiments.speed.bench import __main__ as bench
from experiments.speed.bench import gpu, handwritten, handwritten_layers, programs, worlds
from experiments.speed.bench.__main__ import Program
from experiments.speed.bench.nets import CLASSES, NETS, RULES, TARGET_PROP, Net

MLP = Net(batch=8, inputs=(12,), hidden=(7, 6), steps=2)
CONV = Net(batch=8, inputs=(4, 4, 2), steps=2)
# Two programs do not draw the same noise.
QUIET = {name: {"noise": 0.0} for name in TARGET_PROP} | {"brsf": {"feedback_init": jax.nn.initializers.constant(0.3)}}


def not_random(key, shape, dtype=jnp.float32):
    """Noise that is the same in two programs."""
    return jnp.cos(jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape)


def by_role(name, params):
    """The weights of a rule's parameters, as the hand-written program keeps them."""
    components = params.components
    if len(components) == 1:
        (network,) = components
        feedback = [b for layer in network.weights.get("feedback", ()) for b in layer.values()]
        return {"forward": list(network.weights["forward"])} | ({"feedback": feedback} if name != "bp" else {})
    roles = {role: [c.weights[role] for c in components if role in c.weights] for c in components for role in c.weights}
    roles["forward"] = [weights for c in components for weights in c.weights["forward"]]
    if name == "al":
        roles["bridge"] = [[bridge["layers_0"], bridge["layers_1"]] for bridge in roles["bridge"]]
        roles["encoder"], roles["decoder"] = ([[w] for w in roles[role]] for role in ("encoder", "decoder"))
    if name == "scpl":
        roles["projection"] = [[{"linear": p["hidden"]}, {"linear": p["linear"]}] for p in roles["projection"]]
    if name == "dgl":
        roles["classifier"] = [[{"linear": w} for _, w in sorted(c.items())] for c in roles["classifier"]]
    if "auxiliary" in roles:
        (roles["auxiliary"],) = roles["auxiliary"]
    return roles


def statistics(params):
    """The running mean and variance of each layer that has batch norm."""
    found = [stats.get("batch_stats", {}).get("norm") for c in params.components for stats in c.stats]
    return [(norm["mean"], norm["var"]) if norm else () for norm in found]


def start(rule, batch):
    """Parameters with random weights, not even the biases zero, and without the wait for `init` to compile."""
    params, rng = jax.eval_shape(rule.init, jax.random.key(0), batch), np.random.default_rng(0)

    def fill(component):
        weights = jax.tree.map(
            lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype), component.weights
        )
        opt, stats = (
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
            for tree in (component.opt, component.stats)
        )
        return component.replace(weights=weights, opt=opt, stats=stats, key=jax.random.key(0), count=jnp.int32(0))

    return params.replace(components=tuple(map(fill, params.components)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net"),
    [
        *(pytest.param(name, MLP, id=f"{name}-mlp") for name in RULES),
        *(
            pytest.param(name, CONV, id=f"{name}-conv2") for name in ("bp", "kp", "wm", "dkp")
        ),  # which the others are part of
    ],
)
def test_a_program_written_by_hand_computes_what_the_rule_computes(name, net, monkeypatch):
    monkeypatch.setattr(jax.random, "normal", not_random)
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: low + jnp.arange(*shape) % (high - low))
    tx, batch, net = optax.sgd(0.1, momentum=0.9), programs.batch(net), net.of(name)
    if net.images:
        made = jl.models.conv2()
    else:
        made = jl.models.mlp(net.hidden, CLASSES, activation={"relu": jax.nn.relu, "tanh": jnp.tanh}[net.activation])
    options = QUIET.get(name, {})
    rule = jl.rules.ALL[name](made, tx, **options, **programs.settings(name))
    program = handwritten.ALL[name](handwritten_layers.layers(net), tx, **options)
    params = start(rule, batch)
    mine = before = by_role(name, params)
    state = jax.eval_shape(program.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, state.weights) == jax.tree.map(jnp.shape, mine)
    opt = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state.opt)
    state = handwritten_layers.State(mine, opt, statistics(params)[: len(state.running)], jax.random.key(0))
    update, step = jax.jit(rule.update), jax.jit(program.step)
    for _ in range(2):
        params, state = update(params, batch), step(state, batch)
    close(by_role(name, params), state.weights, before)
    running = statistics(params)[: len(state.running)]
    for mine, theirs in zip(jax.tree.leaves(running), jax.tree.leaves(state.running), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def close(found, expected, start):
    """Sums in another order differ by rounding; batch norm over eight examples magnifies that to some 1e-5."""
    moved = False
    for one, other, before in zip(*map(jax.tree.leaves, (found, expected, start)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5)
        moved |= float(jnp.abs(one - before).max()) > 1e-3
    assert moved


def test_the_operations_of_a_jaxpr():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert limits.operations(jnp.matmul, a, b) == 2 * 3 * 4 * 5
    assert limits.operations(jax.jit(jnp.matmul), a, b) == 2 * 3 * 4 * 5
    square = jnp.ones((3, 3))
    scanned = limits.operations(lambda s: jax.lax.scan(lambda c, _: (c @ s, None), s, length=7)[0], square)
    assert scanned == 7 * 2 * 3**3
    branches = limits.operations(lambda s: jax.lax.cond(s[0, 0] > 0, lambda s: s @ s @ s, lambda s: s @ s, s), square)
    assert branches == 2 * 2 * 3**3
    image, kernel = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 5))
    assert limits.operations(handwritten_layers.linear, kernel, image) == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)


def test_what_a_step_needs():
    net = Net(batch=3, inputs=(4,), hidden=(5,))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 counts with floats
        needs, fixed, carried = (programs.needs(net, name) for name in ("bp", "dfa", "fa"))
    weights = 4 * 5 + 5 + 5 * CLASSES + CLASSES
    assert needs["operations"] == 2 * 3 * (2 * 4 * 5 + 3 * 5 * CLASSES)  # nothing goes back to the inputs
    assert needs["bytes"] == 4 * 7 * weights
    assert fixed["bytes"] - needs["bytes"] == 4 * 5 * CLASSES  # B is read
    assert carried["operations"] == needs["operations"]
    assert bench.limit({"operations": 6, "bytes": 8}, {"rate": 2, "bandwidth": 4}) == (5, 3)


def test_a_ratio_is_that_of_its_round():
    ours, bp = Program("jaxlocal", "kp"), Program("jaxlocal", "bp")
    seconds = {
        bench.UNIT: [2.0, 4.0, 8.0],
        Program("plain", "kp"): [3.0, 6.0, 12.0],
        bp: [1.0, 2.0, 2.0],
        ours: [1.0, 2.0, 4.0],
    }
    facts = {program: {"compile s": 1.5} for program in seconds}
    needs = {"kp": {"operations": 1e9, "bytes": 0.0}}
    row = bench.line(ours, seconds, facts[ours], needs, {"rate": 1e9, "bandwidth": 1.0})
    assert row["times the unit"]["repeats"] == [2, 2, 2]
    assert row["times hand-written"]["repeats"] == [3, 3, 3]
    assert row["of BP's time"]["repeats"] == [1, 1, 2]
    assert (row["GFLOP a step"], row["share of the limit"], row["compile s"]) == (1, 0.5, 1.5)


def test_the_programs_of_a_net():
    planned = bench.programs("conv2", NETS["conv2"], RULES)
    assert planned[0] == bench.UNIT and not {one.rule for one in planned} & set(TARGET_PROP)
    assert {one.form for one in planned if one.world == "jaxlocal"} == {"update", "scan"}
    by_hand = {one.rule for one in bench.programs("deep", NETS["deep"], RULES) if one.world == "plain"}
    assert by_hand == set(RULES) == set(handwritten.ALL) == set(jl.rules.ALL)


def test_an_unknown_rule_is_one_line_and_status_2(capsys):
    assert "--rules: invalid choice: 'hebb'" in one_line(main, bench.EXPERIMENT, ["--rules", "bp", "hebb"], capsys)


@pytest.fixture
def compiled_fast(monkeypatch):
    """The processes of a timing do not get the flags of these tests."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_fast")
def test_end_to_end(tmp_path, capsys):
    """All worlds that are installed, in processes of their own."""
    job = Job(Budget(rounds=9), None, lambda task: bench.run("mlp", MLP, task))
    made = bench.EXPERIMENT._replace(rows={"mlp": job})
    main(made, ["--rules", "bp", "drtp", "--rounds", "2", "--out", str(tmp_path)])
    record = made.record("mlp", tmp_path)
    assert record["command"] == "python -m experiments.speed.bench --rounds 2 --rules bp drtp"
    rows = {(row["world"], row["program"]): row for row in record["rows"]}
    assert rows["plain", "bp, update"]["times the unit"]["repeats"] == [1, 1]
    assert len(rows["jaxlocal", "drtp, scan"]["ms a step"]["repeats"]) == 2
    assert rows["jaxlocal", "drtp, update"]["temp MB"] > 0
    assert record["settings"]["worlds"]["plain"]["XLA_FLAGS"] == ""
    assert record["settings"]["worlds"]["jaxlocal"]["XLA_FLAGS"] != ""
    assert record["settings"]["machine"]["operations a second"] > 0
    assert "drtp, scan" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_fast")
def test_memory_by_depth(tmp_path):
    job = Job(Budget(), None, lambda task: bench.run_memory(MLP._replace(hidden=(5,)), (1, 2), task))
    made = bench.EXPERIMENT._replace(rows={"memory": job})
    main(made, ["--out", str(tmp_path)])
    rows = made.record("memory", tmp_path)["rows"]
    assert [row["depth"] for row in rows] == [1, 2] and rows[0].keys() == rows[1].keys()
    assert all(row["bp MB"] > 0 for row in rows)
    assert (tmp_path / "memory.png").stat().st_size > 0


def test_a_program_that_cannot_run_has_a_line_that_says_why(monkeypatch):
    def missing():
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setitem(worlds.WORLDS, "torch", missing)
    peer = Program("torch", "bp, eager")
    ready, refused = bench.build({"torch": Here(worlds.make, "torch")}, MLP, [peer])
    assert not ready
    ran = bench.line(bench.UNIT, {bench.UNIT: [1.0]}, {}, {}, {})
    (row,) = (bench.blank(one, why, ran) for one, why in refused.items())
    assert row.keys() == ran.keys() and row["ms a step"] == "not run: torch is not installed"
    assert "not run" in tables.text([ran, row])


def test_a_quick_run_times_few_programs():
    planned = bench.programs("mlp", NETS["mlp"], bench.QUICK_RULES, few=True)
    assert planned[0] == bench.UNIT and planned[-1] == Program("torch", "bp, fused")
    assert [one.rule for one in planned[1:-1]] == list(bench.QUICK_RULES)
    options = bench.EXPERIMENT.options
    assert options["few"].quick and options["rules"].quick == list(bench.QUICK_RULES)


def test_without_a_gpu_its_nets_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(gpu.EXPERIMENT, ["--rows", "mlp", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert "mlp: needs a GPU, and JAX finds none" in capsys.readouterr().err


def test_a_graph_is_timed_on_a_gpu_only():
    def names(**others):
        return {one.name for one in bench.programs("mlp", NETS["mlp"], ["bp"], **others) if one.world == "torch"}

    assert names() == {"bp, eager", "bp, fused", "bp, compiled"}
    assert names(others=gpu.PEERS) == names() | {"bp, graph"}
