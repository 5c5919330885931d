"""The papers that the rules come from, in BibTeX: references.bib, where a comment names the rules of each entry."""

from pathlib import Path

from jaxlocal.hints import nearest

FILE = Path(__file__).with_suffix(".bib")


def cite(*rules: str) -> str:
    """The papers of these rules in BibTeX, each once.

    Args:
      rules: names of rules, such as "al" and "dfa"; without any, the papers of all rules.

    Returns:
      The entries, to be added to a .bib file.

    Example:
      >>> print(jl.cite("dtp", "tp").partition(",")[0])
      @inproceedings{bartunov2018assessing
    """
    papers = _papers()
    known = sorted({rule for of, _ in papers for rule in of})
    for rule in rules:
        if rule not in known:
            raise ValueError(f"rules={rule!r}: is no rule of this library; {nearest(str(rule), known)}")
    return "\n\n".join(entry for of, entry in papers if not rules or of & {*rules})


def _papers() -> list[tuple[set[str], str]]:
    """The rules of each entry, and the entry."""
    blocks = FILE.read_text(encoding="utf-8").strip().split("\n\n")
    parted = (block.removeprefix("% ").split("\n", 1) for block in blocks)
    return [({*rules.split()}, entry) for rules, entry in parted]
