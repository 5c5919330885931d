"""Texts: files of them, tokenizers, the cache, and what is said when a file is no table."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest

import jaxlocal as jl
from jaxlocal.data import text
from jaxlocal.data.sentences import sentences

tokenizers = pytest.importorskip("tokenizers")

GOOD, BAD = "a very good day", "a really bad day"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "data"


def write(path, rows, header=("text", "label"), **form):
    with (gzip.open if path.lower().endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file, **form).writerows([header, *rows])
    return path


@pytest.fixture
def reviews():
    """20 texts, without splits."""
    return write("reviews.csv", [(GOOD, "good"), (BAD, "bad")] * 10)


def decoded(texts, split):
    """The pairs of words and label of one split."""
    names = {number: word for word, number in json.loads(texts.tokenizer.json)["model"]["vocab"].items()}
    x, y = getattr(texts.splits, split)
    return [
        (" ".join(names[token] for token in row if token), texts.classes[label])
        for row, label in zip(x.tolist(), y.argmax(1), strict=True)
    ]


def test_a_file_becomes_ids_and_classes(reviews):
    texts = jl.data.load_text(reviews)
    assert [x.shape for x, _ in texts.splits] == [(17, 4), (1, 4), (2, 4)]
    assert (texts.classes, texts.length, texts.tokenizer.size) == (("bad", "good"), 4, 8)
    for split in jl.data.SPLITS:
        x, y = getattr(texts.splits, split)
        assert (x.dtype, y.dtype) == (np.int32, np.uint8) and isinstance(x, np.memmap) and x.min() > 1
        assert set(decoded(texts, split)) <= {(GOOD, "good"), (BAD, "bad")}
    assert decoded(texts, "train") != ([(GOOD, "good"), (BAD, "bad")] * 9)[:17]  # shuffled
    for pair, other in zip(jl.data.load(reviews), texts.splits, strict=True):
        np.testing.assert_array_equal(pair[0], other[0])
    assert [len(x) for x, _ in jl.data.load(reviews, validation=5)] == [13, 5, 2]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz", "A.TSV.GZ"])
def test_other_kinds_of_files_say_the_same(name, reviews):
    rows = [(label, "x,y", words) for words, label in [(GOOD, "good"), (BAD, "bad")] * 10]
    file = write(name, rows, (" Label", "other", "TEXT"), delimiter="\t" if "tsv" in name.lower() else ",")
    for pair, other in zip(jl.data.load(file), jl.data.load(reviews), strict=True):
        for array, same in zip(pair, other, strict=True):
            np.testing.assert_array_equal(array, same)


def test_splits_of_the_file_and_a_vocabulary_of_its_training_set_alone():
    new = "a day which nobody knows , a day"
    rows = [("train", GOOD, 1), ("all", BAD, 2)] * 3 + [("dev", new, 10), ("test", new, 1), ("Valid", GOOD, 1)]
    file = write("a.csv", [*rows, ("train", BAD, 10)], ("split", "text", "label"))
    texts = jl.data.load_text(file, length=20)
    assert texts.classes == ("1", "2", "10")  # sorted by number
    assert [len(x) for x, _ in texts.splits] == [7, 2, 1]
    assert decoded(texts, "validation") == [("a day [UNK] [UNK] [UNK] [UNK] a day", "10"), (GOOD, "1")]
    held = jl.data.load_text(write("b.csv", [(str(i) * 2 + " " + str(i) * 2, i % 2) for i in range(20)]))
    assert 17 == len(held.splits.train[0]) == held.tokenizer.size - 2  # without the words of the texts held out


def test_labels_that_are_not_all_numbers_are_names():
    texts = jl.data.load_text(write("a.csv", [("a b a b", "10"), ("a b", "09"), ("a", "x")] * 5))
    assert texts.classes == ("10", "9", "x")


def test_texts_are_cut_off_filled_up_and_never_empty():
    rows = [("", "0"), ("a b " * 300, 1), ('"a", \n b', 1), (" \t", 0)] * 5
    file = write("a.csv", rows)
    assert jl.data.load_text(file).length == text.LONGEST
    short = jl.data.load_text(file, length=3)
    assert {words for words, _ in decoded(short, "train")} <= {"[UNK]", "a b a", '" a "'}
    x = short.splits.train[0]
    assert (x[:, 0] > 0).all() and (x == 0).any()


def test_the_usual_length_leaves_five_texts_in_a_hundred_too_long():
    rows = [("a " * (1 + i % 20), i % 2) for i in range(400)]
    assert jl.data.load_text(write("a.csv", rows)).length == 19


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
def test_tokenizers_are_deterministic_and_survive_a_file(kind):
    texts = ["Don't stop me, now!", "stop it now", "日本 now", "[PAD] [UNK] Don't"] * 2
    first, again = (jl.data.Tokenizer.train(texts, kind=kind, vocabulary=400) for _ in range(2))
    assert first == again
    ids = first.encode(texts, 12)
    assert ids.shape == (8, 12) and ids.dtype == np.int32 and ids.max() < first.size <= 400
    assert (ids[3, : (ids[3] > 0).sum()] > 0).all() and ids[3, 0] > 1  # [PAD] in a text is no padding
    first.save("tokenizer.json")
    loaded = jl.data.Tokenizer.load("tokenizer.json")
    np.testing.assert_array_equal(loaded.encode(texts, 12), ids)
    assert loaded.size == first.size
    library = tokenizers.Tokenizer.from_file("tokenizer.json")  # which reads it as well
    assert library.encode(texts[1]).ids == ids[1][ids[1] > 0].tolist()
    assert first.encode(["\ud800 stop"], 9).max() > 1  # half a character


def test_words_are_lower_case_with_apostrophes_and_single_marks():
    tokenizer = jl.data.Tokenizer.train(["DON'T stop...", "don't STOP once"], kind="word")
    assert json.loads(tokenizer.json)["model"]["vocab"] == {
        "[PAD]": 0,
        "[UNK]": 1,
        ".": 2,
        "don't": 3,
        "stop": 4,
    }  # fmt: skip - "once" occurs once
    assert tokenizer.encode(["once, don't STOP."], 6).tolist() == [[1, 1, 3, 4, 2, 0]]
    assert jl.data.Tokenizer.train(["c b b c a a a"], vocabulary=4).encode(["a b c"], 3).tolist() == [[2, 3, 1]]


def test_byte_pairs_know_every_text_and_characters_the_most_frequent():
    pairs = jl.data.Tokenizer.train(["low lower lowest"] * 2, kind="bpe", vocabulary=300)
    assert 1 not in pairs.encode(["日本 ☃ xyz"], 40) and pairs.lengths(["lower"]) < 3
    chars = jl.data.Tokenizer.train(["aaabbbc"], kind="char", vocabulary=3)
    assert chars.encode(["abca"], 5).tolist() == [[2, 1, 1, 2, 0]]


def test_a_given_tokenizer_and_an_encoding_read_other_files(reviews):
    first = jl.data.load_text(reviews, length=3)
    other = write("other.csv", [("a good film", "good"), ("day", "bad")] * 3)
    given = jl.data.load_text(other, tokenizer=first.tokenizer, length=3)
    assert given.tokenizer == first.tokenizer and given.length == 3
    encoded = jl.data.load_encoded(other, first.encoding)
    np.testing.assert_array_equal(given.splits.train[0], encoded.train[0])
    write("other.csv", [("a", "good"), ("b", "fine"), ("c", "bad")])
    with pytest.raises(ValueError, match="line 3 has the label 'fine', which is none of the known classes"):
        jl.data.load_encoded("other.csv", first.encoding)


def test_the_second_load_reads_neither_rows_nor_texts(reviews, cache, monkeypatch):
    first = jl.data.load_text(reviews)
    monkeypatch.setattr(text, "read_table", lambda path: pytest.fail("reads rows"))
    again = jl.data.load_text(reviews)
    assert again.encoding == first.encoding
    np.testing.assert_array_equal(again.splits.train[0], first.splits.train[0])
    assert len(list(cache.iterdir())) == 2  # the encoding, and the arrays


def test_another_content_or_setting_is_encoded_anew(reviews, cache):
    for settings in ({}, {"length": 3}, {"vocabulary": 5}, {"validation": 3}, {"tokenizer": "char"}):
        jl.data.load_text(reviews, **settings)
    assert len(list(cache.iterdir())) == 10
    with open(reviews, "a") as file:
        file.write("more,good\n")
    assert sum(len(x) for x, _ in jl.data.load(reviews)) == 21


def test_a_damaged_cache_of_texts_is_made_anew(reviews, cache):
    first = jl.data.load_text(reviews)
    x = np.array(first.splits.train[0])
    for file in (*cache.glob("*/tokenizer.json"), *cache.glob("*/train_x.npy")):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="is damaged; reviews.csv is decoded again"):
        again = jl.data.load_text(reviews)
    assert again.encoding == first.encoding
    np.testing.assert_array_equal(again.splits.train[0], x)


def test_the_sentences():
    table = sentences()
    rows = [row for some in table.values() for row in some]
    assert {split: len(some) for split, some in table.items()} == {"train": 700, "validation": 100, "test": 100}
    assert len({row.text for row in rows}) == 900  # no sentence is in two splits
    texts = jl.data.load_text("sentences")
    assert texts.classes == ("negative", "positive")
    assert all(0.4 < y[:, 0].mean() < 0.6 for _, y in texts.splits)
    assert 1 not in texts.splits.train[0]
    for pair, other in zip(jl.data.load("sentences"), texts.splits, strict=True):
        np.testing.assert_array_equal(pair[0], other[0])
    assert [len(x) for x, _ in jl.data.load("sentences", validation=40)] == [660, 40, 100]


START = "text,label\na,0\nb,1\nc,0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; write a line of column names, and a row for each example"),
        ("\n \r\n", "is empty; write a line of column names"),
        ("\n \n" + START + "d, \n", "line 7 has no label; give it one"),
        (
            "review,label\na,0\n",
            "column 'review': row 1 holds 'a', which is no number; .* call it text",
        ),
        ("text,stars\na,0\n", "must name one column label, but it names 0, among text, stars"),
        ("text,text,label\na,b,0\n", "must name one column text, but it names 2"),
        ("text,label\n", "has a header and no rows"),
        ("text,label\na,0\n", "has 1 row of the training set; give at least 3"),
        ("text,label,split\na,0,test\n", "has 0 rows of the training set; give at least 3, or leave out the column"),
        (START + "\nd, \n", "line 6 has no label; give it one"),
        ("text,label,split,split\n", "names 2 columns split; leave one"),
        (f"text,label\n{'a' * 140_000},0\n", "shorten texts of more than 131072 characters"),
        (START + "d,0,1\n", "line 5 has 3 columns, but the header has 2; put texts"),
        (START + 'e,"f\ng"\nd\n', "line 7 has 1 columns"),
        (START + 'd,"0" x\n', "line 5 begins a row that is not one of a table"),
        (START + '"d,0\n' + "x,1\n" * 9, "line 5 begins a row that is not one of a table .*unexpected end of data"),
        (START + '"d,0\n' + "x,1\n" * 50_000, "line 5 begins a row that is not one of a table .*field larger"),
        (START + "d\0,0\n", "line 5 holds a NUL character"),
        ("text,label\na,0\nb,0\nc,0\n", "has one class, '0', so that there is nothing to learn"),
        ("text,label,split\na,x,train\nb,y,all\nc,x,train\nd,z,test\n", "line 5 of the test set has the label 'z'"),
        ("text,label,split\na,x,train\nb,y,later\n", "line 3 has split='later'; use train, validation or test"),
        (b"\xff\xfet\0e\0", "is not UTF-8 .*; save the file as UTF-8"),
        (START.encode() + b"\xff,0\n", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(content, message, tmp_path, cache):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        jl.data.load("a.csv")
    assert str(error.value).startswith("name='a.csv': ") and "\n" not in str(error.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_label_with_an_underscore_is_no_number(tmp_path):
    (tmp_path / "a.csv").write_text(START + "d,1_0\ne,10\n" * 3)
    assert jl.data.load_text("a.csv").classes == ("0", "1", "10", "1_0")


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + START.encode())
    assert jl.data.load_text("a.csv").classes == ("0", "1")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a.csv.gz").write_text(START)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(START.encode())[:-9])
    for name, message in (
        ("folder.csv", "is a folder; name a file of texts"),
        ("none.csv", "there is no such file; check the path"),
        ("a.csv.gz", "is no whole gzip file"),
        ("b.csv.gz", "is no whole gzip file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=f"name='{name}': {message}"):
            jl.data.load(name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jl.data.load("sentences", size=8),
            "size=8: sentences holds texts, which have no such size; leave out --image-size, or size=… in Python",
        ),
        (lambda: jl.data.load_text("sentences", length=0), "length=0: must be at least 1"),
        (lambda: jl.data.load_text("sentences", tokenizer="wrd"), "tokenizer='wrd': unknown name; did you mean word?"),
        (lambda: jl.data.load_text("sentences", tokenizer=["word"]), "unknown name; "),
        (lambda: jl.data.load_text("sentences", validation=800), "the training set has 700 examples"),
        (lambda: jl.data.Tokenizer.train(["a"], kind="syllable"), "kind='syllable': unknown name; choose from word"),
        (lambda: jl.data.Tokenizer.train(["a"], kind="bpe", vocabulary=99), "vocabulary=99: must be at least 258"),
        (lambda: jl.data.Tokenizer.train(["a"], vocabulary=2), "vocabulary=2: must be at least 3 for kind='word'"),
        (lambda: jl.data.Tokenizer.load("none.json"), "path='none.json': cannot be read as a tokenizer"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        call()


def test_what_is_no_text_and_a_tokenizer_without_padding():
    tokenizer = jl.data.Tokenizer.train(["a a"])
    with pytest.raises(TypeError, match="texts: 3 is no text"):
        tokenizer.encode([3], 2)
    with pytest.raises(TypeError, match=r"texts='a text': must be a list of texts, such as \['a text'\]"):
        tokenizer.encode("a text", 2)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save("other.json")
    with pytest.raises(ValueError, match="the token 0 is 'a', but 0 is padding here"):
        jl.data.Tokenizer.load("other.json")


def test_without_the_extra_one_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"install it with pip install 'jaxlocal\[text\]'"):
        jl.data.load("sentences")


def test_a_kept_encoding_that_is_damaged(reviews, tmp_path):
    encoding = jl.data.load_text(reviews).encoding
    encoding.save(tmp_path)
    assert jl.data.Encoding.load(tmp_path) == encoding
    for name, old, new in (("text.json", "good", "goad"), ("tokenizer.json", '"day"', '"dey"'), ("text.json", "{", "")):
        kept = (tmp_path / name).read_text()
        (tmp_path / name).write_text(kept.replace(old, new))
        with pytest.raises(ValueError, match=r"text.json or tokenizer.json is damaged or missing; restore both"):
            jl.data.Encoding.load(tmp_path)
        (tmp_path / name).write_text(kept)
