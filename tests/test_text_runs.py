"""Runs that learn texts, and predictions of texts, images and arrays on the command line."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

import jaxlocal as jl
from jaxlocal import app
from jaxlocal.app import Config, build, text
from jaxlocal.app.prediction import meaning

pytestmark = [pytest.mark.usefixtures("drawn_once", "elsewhere"), pytest.mark.xdist_group("text runs")]

pytest.importorskip("tokenizers")
SMALL = ("features=8", "hidden=[8]", "bidirectional=false")
TEXTS = Config(
    rule="bp", model="lstm_classifier", data="reviews.csv", epochs=3, lr=0.05, batch_size=8, model_args=SMALL
)


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


REVIEWS = [("a good day", "fine"), ("a bad day , a bad film", "poor")] * 40


@pytest.fixture(scope="module")
def trained_on_texts(tmp_path_factory):
    """The folder of a run, and the file that it was trained on."""
    place = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("JAXLOCAL_CACHE", str(place / ".cache"))
        write("reviews.csv", REVIEWS)
        app.train(TEXTS, "run", say=lambda line: None)
    return place


@pytest.fixture
def texts(trained_on_texts):
    """A copy of them, here."""
    for name in ("run", "reviews.csv"):
        (shutil.copytree if name == "run" else shutil.copy)(trained_on_texts / name, name)


def test_a_run_of_texts_keeps_their_encoding(texts, run):
    encoding = jl.data.Encoding.load(Path("run"))
    assert encoding == jl.data.load_text("reviews.csv").encoding
    assert (encoding.classes, encoding.length) == (("fine", "poor"), 7)
    code, out, _ = run("eval run")
    assert code == 0 and out.splitlines()[1].split()[-2:] == ["100.00", "%"]


def test_the_settings_of_texts_reach_the_data(run):
    write("reviews.csv", REVIEWS)
    data = build.load_data(Config(data="reviews.csv", tokenizer="char", vocabulary=9, length=5, validation=3))
    assert [x.shape for x, _ in data.splits] == [(69, 5), (3, 5), (8, 5)]
    assert data.encoding.tokenizer == jl.data.load_text("reviews.csv", tokenizer="char", vocabulary=9).tokenizer
    assert text.encoding(data.encoding) == "texts: 2 classes, 9 known tokens, the first 5 tokens of each text"


def test_texts_are_predicted_without_the_file_that_was_learned(texts, run, monkeypatch):
    Path("reviews.csv").unlink()
    code, out, error = run("predict run 'A GOOD day' 'bad bad film' ''")
    lines = [line.split("\t") for line in out.splitlines()]
    assert (code, error) == (0, "") and [label for label, _ in lines][:2] == ["fine", "poor"] and len(lines) == 3
    assert all(0.5 <= float(probability) <= 1 for _, probability in lines)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a good day\n\nbad film\n"))
    code, out, _ = run("predict --json run")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["label"] for row in rows][::2] == ["fine", "poor"] and len(rows) == 3
    for row in rows:
        assert row["probabilities"].keys() == {"fine", "poor"} and row["probability"] == max(
            row["probabilities"].values()
        )
        assert sum(row["probabilities"].values()) == pytest.approx(1)
    again = list(app.predict("run", ["a good day"] * 300))  # more than one piece
    assert [one.probability for one in again] == pytest.approx([rows[0]["probability"]] * 300)


def test_a_file_is_no_text_but_a_piped_line_is(texts, run, monkeypatch):
    code, out, error = run("predict run 'a good day' reviews.csv")
    assert (code, out) == (2, "") and error == (
        "jaxlocal predict: TEXT=reviews.csv: is a file, and this run takes texts; give the texts themselves, or pipe "
        "them into the command, one a line\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("reviews.csv\n"))
    code, out, _ = run("predict run")
    assert code == 0 and out.count("\n") == 1


def test_a_resumed_run_has_its_own_tokenizer(texts, run, monkeypatch):
    monkeypatch.setattr(jl.data.Tokenizer, "train", None)
    code, out, _ = run("train --resume --out run --epochs 4")
    assert code == 0 and "resuming after epoch 3" in out
    assert run("eval run --best")[0] == 0


def test_a_changed_file_is_refused_but_may_be_measured(texts, run):
    write("reviews.csv", [("a fine day", "poor"), ("an odd film", "fine")] * 10)
    for line in ("train --resume --out run", "eval run", "plot run"):
        code, _, error = run(line)
        assert code == 2 and "data=reviews.csv: has changed since the run began; restore the file" in error
    code, out, _ = run("eval run --data reviews.csv")
    assert code == 0 and "last (epoch 3)" in out
    write("other.csv", [("a good day", "fine"), ("a bad day", "bad")] * 3)
    code, _, error = run("eval run --data other.csv")
    assert code == 2 and "has the label 'bad', which is none of the known classes" in error and error.count("\n") == 1
    code, _, error = run("eval run --data digits")
    assert code == 2 and "--data=digits: holds no texts, but the run was trained on texts" in error
    code, _, error = run("train --resume --out run --length 3")
    assert code == 2 and "--length=3: the run in run has none" in error


@pytest.mark.parametrize("name", ["text.json", "tokenizer.json"])
def test_a_damaged_encoding_is_one_sentence(name, texts, run):
    kept = Path("run", name).read_bytes()
    for content in (b"", b"\xff", kept.replace(b"o", b"u", 1), None):
        Path("run", name).unlink() if content is None else Path("run", name).write_bytes(content)
        for line in ("train --resume --out run --epochs 4", "eval run", "predict run good"):
            code, _, error = run(line)
            assert code == 2 and error.endswith("text.json or tokenizer.json is damaged or missing; restore both\n")


@pytest.mark.slow
def test_a_run_of_texts_is_drawn(texts, run):
    code, out, _ = run("plot run")
    assert code == 0 and out.split() == [f"run/{name}.png" for name in ("curves", "alignment", "distances", "tsne")]


@pytest.mark.slow
def test_a_search_over_texts(run):
    write("reviews.csv", REVIEWS)
    code, out, _ = run(
        "search bp --trials 2 --epochs 1 --batch-size 8 --data reviews.csv --vocabulary 6 --model gru_classifier "
        "--model-args features=4 hidden=[4] bidirectional=false --out s"
    )
    assert code == 0 and "test accuracy of the best setting" in out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("train --data none.csv", "--data=none.csv: there is no such file; check the path"),
        (
            "train --data sentences",
            "--model=mlp: takes no texts, and sentences holds texts; take lstm_classifier or ",
        ),
        ("train --data sentences --tokenizer wrd", "--tokenizer=wrd: unknown name; did you mean word?"),
        ("train --data sentences --vocabulary 0", "--vocabulary=0: must be at least 1"),
        ("train --data sentences --vocabulary 2", "vocabulary=2: must be at least 3 for kind='word'"),
        ("train --data sentences --length 1000000", "--length=1000000: must be at most 100000"),
        ("train --data sentences --image-size 8", "--image-size=8: sentences holds texts, not images; leave it out"),
        ("train --length 8", "--length=8: digits holds no texts; leave it out, or take a .csv file"),
        ("predict", "RUN: is missing; name the folder of a run"),
        ("predict none text", "'none' holds no run; name a folder that jaxlocal train has made"),
        (
            "train --model lstm_classifier",
            "--model=lstm_classifier: takes texts, and digits holds none; take another network, or --data sentences",
        ),
        (
            "train --model lstm_classifier --data sentences --augment jitter",
            "--augment: changes images, but the examples are texts; leave it out",
        ),
        (
            "train --model lstm_classifier --data sentences --model-args vocabulary=5",
            "--model-args=vocabulary: is the number of tokens of the data; limit it by --vocabulary",
        ),
        (
            "train --model transformer_classifier --data sentences --model-args positions=cosine",
            "--model-args positions=cosine: unknown name; choose from sinusoidal, none",
        ),
    ],
)
def test_a_mistake_with_texts_is_one_sentence(line, complaint, run):
    code, out, error = run(line)
    assert (code, out) == (2, "") and complaint in error
    assert error.startswith("jaxlocal") and error.count("\n") == 1 and len(error) < 600
    assert not os.listdir()


def test_texts_without_the_extra_are_one_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, _, error = run("train --data sentences")
    assert code == 2 and error.endswith("install it with pip install 'jaxlocal[text]'\n") and error.count("\n") == 1


# Images and arrays.


@pytest.fixture(scope="module")
def trained_on_digits(tmp_path_factory):
    """A run of two seeds, whose images are standardised."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    config = Config(rule="dfa", epochs=3, lr=0.01, augment=("standardise",), seeds=2, model_args=("hidden=[16]",))
    app.train(config, folder, say=lambda line: None)
    return folder


def test_images_and_arrays_are_predicted_as_in_training(trained_on_digits, run):
    x, y = (np.asarray(leaf[:4]) for leaf in jl.data.digits().test)
    PIL.Image.fromarray(np.uint8(x[0, :, :, 0] * 255)).save("0.png")
    PIL.Image.fromarray(np.uint8(x[1, :, :, 0] * 255)).resize((24, 16)).convert("RGB").save("1.png")
    np.savez("all.npz", x=x[..., 0])
    predicted = list(app.predict(trained_on_digits, ["0.png", "1.png", "all.npz"]))
    assert len(predicted) == 6 and predicted[0].label == str(y[0].argmax())
    rule, params, data = jl.load(str(trained_on_digits))  # its predict standardises, too
    expected = np.asarray(jax.nn.softmax(rule.predict(params, x)).mean(0))
    found = np.array([list(one.probabilities.values()) for one in predicted])
    np.testing.assert_allclose(found[2:], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[0], expected[0], atol=0.02)  # the pixels of the file are rounded
    code, out, _ = run(f"predict {trained_on_digits} 0.png")
    assert code == 0 and out == f"{predicted[0].label}\t{predicted[0].probability:.4f}\n"
    plain = app.runs.restored(trained_on_digits, best=False)[1].plain
    assert rule != plain and not np.allclose(plain.predict(params, x), rule.predict(params, x))
    measured = app.evaluate(trained_on_digits).measured[0].parts["test"]
    assert jl.training.evaluate(rule, params, data.test) == measured


PREDICT = """
import json, sys
import jax, numpy as np

facts = json.load(open("out/model.json"))
program = jax.export.deserialize(open("out/predict.jax_export", "rb").read())
x = np.load("x.npy")
np.savez("scores.npz", few=program.call(x[:2]), many=program.call(x))
assert list(x.shape[1:]) == facts["input"]["shape"][1:] and str(x.dtype) == facts["input"]["dtype"]
assert not any(name.startswith(("jaxlocal", "flax")) for name in sys.modules)
"""


def test_an_exported_run_predicts_without_the_library(trained_on_digits, run):
    """In a process that has only JAX: the seeds, the standardised images, and batches of any size."""
    shutil.copytree(trained_on_digits, "mine")
    summary = json.loads(Path("mine/summary.json").read_text())
    Path("mine/summary.json").write_text(json.dumps(summary | {"command": "as it was trained"}))
    rule, params, data = jl.load("mine")
    x = data.test[0][:5]
    code, out, error = run("export mine --out out")
    assert (code, error) == (0, "")
    assert out.split() == ["out/model.json", "out/predict.jax_export", "out/weights.safetensors"]
    np.save("x.npy", x)
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", PREDICT], env=environment, check=True)
    with np.load("scores.npz") as scores:
        np.testing.assert_allclose(scores["many"], rule.predict(params, x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores["few"], scores["many"][:, :2], rtol=1e-5, atol=1e-6)
    facts = json.loads(Path("out/model.json").read_text())
    assert (facts["output"], facts["members"], facts["epoch"]) == ("logits", 2, 3)
    assert facts["classes"] == list("0123456789") and facts["settings"]["rule"] == "dfa"
    assert facts["command"] == "as it was trained"
    loaded = jl.load_weights("out/weights.safetensors", rule, jax.tree.map(jax.numpy.zeros_like, params))
    np.testing.assert_array_equal(rule.predict(loaded, x), rule.predict(params, x))


def test_an_export_into_a_folder_that_cannot_be_written_to(trained_on_digits, run):
    Path("file").touch()
    code, out, error = run(f"export {trained_on_digits} --out file/export")
    assert (code, out) == (2, "") and "--out=file/export: cannot be written to (Not a directory); name anoth" in error


def test_an_exported_run_of_texts_brings_its_tokenizer(texts, run, monkeypatch):
    Path("reviews.csv").unlink()
    code, _, error = run("export run")
    assert (code, error) == (0, "")
    program = jax.export.deserialize(Path("run/export/predict.jax_export").read_bytes())
    scores = program.call(jl.data.Encoding.load("run/export").ids(["a good day"]))
    (predicted,) = app.predict("run", ["a good day"])
    assert predicted.probability == pytest.approx(float(jax.nn.softmax(scores).max()))
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    code, _, error = run("export run")
    assert code == 2 and error == (
        "jaxlocal export: the export needs flatbuffers; install it with pip install 'jaxlocal[export]'\n"
    )


def test_an_export_in_place_of_another_leaves_nothing_of_it(trained_on_digits, texts, run):
    Path("out").mkdir()
    for name in ("predict.jax_export", "tokenizer.json", "text.json", "mine.txt"):
        Path("out", name).touch()
    code, out, _ = run(f"export {trained_on_digits} --out out")
    assert code == 0 and "mine.txt" not in out and "json" in out
    assert not Path("out/tokenizer.json").exists() and not Path("out/text.json").exists()
    code, out, error = run(f"export {trained_on_digits} --out run")
    assert (code, out) == (2, "") and error == "jaxlocal export: --out=run: holds a run; name another folder\n"


def test_without_the_tokenizers_a_run_of_texts_is_one_sentence(texts, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for command in ("predict run good", "export run", "eval run", "plot run", "train --resume --out run"):
        code, out, error = run(command)
        assert (code, out) == (2, "") and "pip install 'jaxlocal[text]'" in error and error.count("\n") == 1


def test_bytes_are_not_predicted_by_a_run_of_floats_on_another_scale(run):
    rng = np.random.default_rng(0)
    np.savez("large.npz", x=rng.uniform(0, 255, (40, 8, 8, 1)).astype("f4"), y=np.arange(40) % 2)
    assert run("train --rule bp --epochs 1 --model-args hidden=[4] --data large.npz --out large")[0] == 0
    PIL.Image.fromarray(np.full((8, 8), 220, np.uint8)).save("bright.png")
    code, _, error = run("predict large bright.png")
    assert code == 2 and "bright.png holds bytes, which stand for 0 to 1, but the run was trained on numbers" in error
    assert len(list(app.predict("large", [Path("large.npz")]))) == 40
    with pytest.raises(TypeError, match=r"inputs='bright\.png': must be a list of texts or of files, such as"):
        app.predict("large", "bright.png")


def test_files_that_cannot_be_predicted_are_one_sentence(trained_on_digits, run, monkeypatch):
    Path("notes.txt").write_text("no image")
    np.savez("y.npz", y=np.zeros(3))
    np.savez("wide.npz", x=np.zeros((2, 9, 8), np.float32))
    Path("text.npz").write_text("no arrays")
    for file, complaint in (
        ("great", "great: there is no such file; name images, .npz files or tables, as the run takes no texts"),
        ("''", "'': there is no such file"),
        ("notes.txt", "notes.txt cannot be read (cannot identify image file"),
        ("y.npz", "y.npz cannot be read (it holds y, and no x)"),
        ("text.npz", "text.npz cannot be read (it holds Python objects, or is no file of its kind)"),
        ("wide.npz", "wide.npz has examples of shape (9, 8, 1), but the run was trained on (8, 8, 1)"),
    ):
        code, out, error = run(f"predict {trained_on_digits} {file}")
        assert (code, out) == (2, "") and complaint in error and error.count("\n") == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8"))
    code, _, error = run(f"predict {trained_on_digits}")
    assert code == 2 and "stdin: is not UTF-8" in error
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, out, error = run(f"predict {trained_on_digits}")
    assert (code, out) == (2, "") and "stdin: is empty; pipe texts or names of files into the command" in error
    monkeypatch.setattr(sys, "stdin", None)
    code, _, error = run(f"predict {trained_on_digits}")
    assert code == 2 and "TEXT: is missing; name a text or a file, or pipe lines into the command" in error


def test_scores_of_associated_learning_are_shares_where_its_lowest_decoder_ends_in_a_sigmoid():
    config = Config(model_args=("hidden=[4]",))
    built = build.build(config)
    found = {
        arguments: meaning(replace(config, rule_args=tuple(arguments.split())), built)
        for arguments in (
            "",
            "codes=paper",
            "codes=paper readout=linear",
            "codes=paper label_loss=cross_entropy",
            "readout=one_layer",
            "readout=one_layer label_loss=cross_entropy",
        )
    }
    assert [arguments for arguments, scores in found.items() if scores == "shares"] == [
        "codes=paper",
        "readout=one_layer",
    ]
    assert {*found.values()} == {"shares", "logits"}


@pytest.mark.slow
def test_the_probabilities_of_associated_learning_and_a_run_without_classes(run):
    config = Config(epochs=1, lr=0.01, model_args=("hidden=[16]",), rule_args=("codes=paper",))
    app.train(config, "al", say=lambda line: None)
    np.savez("x.npz", x=jl.data.digits().test[0][:50])
    predicted = list(app.predict("al", ["x.npz"]))
    rule, params, data = jl.load("al")
    scores = np.asarray(rule.predict(params, data.test[0][:50]))
    found = [list(one.probabilities.values()) for one in predicted]
    np.testing.assert_allclose(found, scores / scores.sum(1, keepdims=True), rtol=1e-5)
    np.savez("real.npz", x=np.random.default_rng(0).random((40, 5)), y=np.random.default_rng(1).random((40, 2)))
    real = replace(config, data="real.npz", rule="bp", rule_args=(), model_args=("hidden=[4]", "loss=squared_error"))
    app.train(real, "real", say=lambda line: None)
    rule, params, _ = jl.load("real")
    values = np.asarray(rule.predict(params, np.load("real.npz")["x"].astype(np.float32)))
    np.testing.assert_allclose([one.values for one in app.predict("real", ["real.npz"])], values, rtol=1e-5)
    _, printed, _ = run("predict real real.npz")
    assert printed.splitlines()[0] == f"{values[0, 0]:.6g}\t{values[0, 1]:.6g}"
