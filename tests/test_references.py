"""The papers of the rules: each has its entry, and docstrings, pages and entries say the same."""

import inspect
import re

import pytest
from helpers import ROOT

import jaxlocal as jl
from jaxlocal.references import FILE

ENTRY = re.compile(r"@(\w+)\{(\w+),\n(.*?)\n\}", re.DOTALL)
FIELD = re.compile(r"  (\w+) += \{(.*)\}")
VENUES = {"article": {"journal", "volume"}, "inproceedings": {"booktitle"}}


def entries(bibtex):
    """The fields of each entry, by its key; without the braces and commands of LaTeX."""
    found = {}
    for kind, key, body in ENTRY.findall(bibtex):
        fields = [FIELD.fullmatch(line.rstrip(",")).groups() for line in body.splitlines()]
        found[key] = {"kind": kind} | {name: re.sub(r"[{}]", "", value.replace(r"{\o}", "ø")) for name, value in fields}
    return found


def surnames(entry):
    return [author.partition(",")[0] for author in entry["author"].split(" and ")]


def test_every_rule_has_its_papers_and_every_entry_is_whole():
    found = entries(FILE.read_text())
    assert len(found) == FILE.read_text().count("@")
    assert set().union(*(entries(jl.cite(rule)) for rule in jl.rules.ALL)) == found.keys()
    assert entries(jl.cite()) == found
    for key, entry in found.items():
        assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in entry["author"].split(" and "))
        assert key.startswith(surnames(entry)[0].lower().replace("ø", "o") + entry["year"])
        unbound = {"howpublished"} if "howpublished" in entry else {"archiveprefix", "eprint"}
        assert entry.keys() == {"kind", "author", "title", "year"} | VENUES.get(entry["kind"], unbound)


def test_the_entries_are_the_references_of_the_docstrings_and_of_the_page():
    page = (ROOT / "docs" / "rules.md").read_text()
    for key, entry in entries(jl.cite()).items():
        rules = [rule for rule in jl.rules.ALL if key in jl.cite(rule)]
        references = [" ".join(inspect.getdoc(jl.rules.ALL[rule]).partition("Reference:")[2].split()) for rule in rules]
        authors = ", ".join(surnames(entry)), f"{surnames(entry)[0]} et al"
        whole = [f"{names}. {entry['title'].rstrip('?')}" for names in authors]
        assert any(text in reference for text in whole for reference in references), key
        for reference in references:
            assert surnames(entry)[0] in reference and entry["year"] in reference, key
    for rule in jl.rules.ALL:
        (cells,) = re.findall(rf"^\| `{rule}` \|(.*\d{{4}}.*)$", page, re.MULTILINE)
        papers = re.findall(r"(\w+)(?: and \w+| et al\.)? (\d{4})", cells)
        cited = [(surnames(entry)[0], entry["year"]) for entry in entries(jl.cite(rule)).values()]
        assert papers and {*papers} <= {*cited}, rule


def test_an_entry_is_cited_once_and_an_unknown_rule_is_refused():
    assert list(entries(jl.cite("sdtp", "dtp", "tp"))) == ["bartunov2018assessing", "lee2015difference"]
    with pytest.raises(ValueError, match=r"rules='dtb': is no rule of this library; did you mean dtp\?"):
        jl.cite("dtb")
