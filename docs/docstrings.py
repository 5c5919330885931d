"""What the site makes of our docstrings: formulas in MathML, which browsers draw themselves, and code as code."""

import ast
import re
from typing import Any

import griffe
from latex2mathml.converter import convert


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is read; a comment beside a field is one, and so is the help of a flag."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.is_attribute and not obj.docstring:
            _, _, comment = (obj.source or "").partition("  # ")
            if flag := re.search(r'Flag\(".*?", "(.*?)"\)', obj.source or ""):
                comment = flag[1]
            obj.docstring = griffe.Docstring(comment, parent=obj) if comment else None
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^\.\. math::\n((?:    .*\n?)+)", lambda found: display(found[1]), text, flags=re.MULTILINE)
            if obj.is_module:
                text = "\n\n".join(map(_as_code, text.split("\n\n")))
            obj.docstring.value = text


def display(tex: str) -> str:
    """A formula in a line of HTML: a row for each of its parts, aligned at their first equals signs."""
    rows = []
    for part in re.split(r"\\\\|\\qquad", tex.replace("&", "")):
        left, equals, right = part.partition("=")
        cells = (left, "right"), (equals + right, "left")
        rows.append("".join(f'<mtd style="text-align: {side}">{_mathml(cell)}</mtd>' for cell, side in cells))
    table = "".join(f"<mtr>{row}</mtr>" for row in rows)
    return f'<div class="maths"><math display="block"><mtable displaystyle="true">{table}</mtable></math></div>\n'


def _mathml(tex: str) -> str:
    """A formula without the element `math` around it."""
    shown = convert(tex).partition(">")[2].removesuffix("</math>")
    if unknown := re.search(r"\\\w+", shown):
        raise ValueError(f"{tex!r}: {unknown[0]} is not known to latex2mathml")
    return shown


def _as_code(paragraph: str) -> str:
    """The paragraph, indented if it is Python."""
    try:
        statements = ast.parse(paragraph).body
    except SyntaxError:
        return paragraph
    if any(isinstance(statement, ast.Assign) for statement in statements):
        return "\n".join(f"    {line}" for line in paragraph.splitlines())
    return paragraph
