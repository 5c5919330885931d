"""What the site makes of our docstrings: formulas in MathML, which browsers draw themselves, and code as code."""

import ast
import re
from html import escape
from typing import Any

import griffe

NAMES = "alpha", "beta", "delta", "Delta", "eta", "lambda", "sigma", "tau", "theta", "top", "xi", "zeta"
LETTERS = {name: f"&{name};" for name in NAMES}
LETTERS |= {"partial": "&part;", "dots": "&hellip;"}
OPERATORS = {"odot": "&odot;", "cdot": "&sdot;", "sim": "&sim;", "neq": "&ne;", "sum": "&sum;", "|": "&Vert;"}
OPERATORS |= {"-": "&minus;"} | dict.fromkeys(("lVert", "rVert"), "&Vert;")
ACCENTS = {"hat": "^", "tilde": "~"}
FUNCTIONS = {"arg", "log", "min", "tanh"}
SPACES = {",": 0.17, ";": 0.28, "quad": 1.0}  # in em
SCRIPT = {"L": "&Lscr;", "N": "&Nscr;"}
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+|[^\s]")


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
        rows.append("".join(f'<mtd style="text-align: {side}">{_inner(cell)}</mtd>' for cell, side in cells))
    table = "".join(f"<mtr>{row}</mtr>" for row in rows)
    return f'<div class="maths"><math display="block"><mtable displaystyle="true">{table}</mtable></math></div>\n'


def _as_code(paragraph: str) -> str:
    """The paragraph, indented if it is Python."""
    try:
        statements = ast.parse(paragraph).body
    except SyntaxError:
        return paragraph
    if any(isinstance(statement, ast.Assign) for statement in statements):
        return "\n".join(f"    {line}" for line in paragraph.splitlines())
    return paragraph


def _inner(tex: str) -> str:
    tokens = TOKEN.findall(tex.replace("\\ ", "\\; "))
    shown = _row(tokens)
    if tokens:
        raise ValueError(f"{tex!r}: a brace is closed that was not opened")
    return shown


def _row(tokens: list[str]) -> str:
    """What stands there up to the closing brace, or the end."""
    items: list[str] = []
    while tokens and tokens[0] != "}":
        if tokens[0] in "_^'":
            items.append(_scripts(items.pop(), tokens))
        else:
            items.append(_one(tokens))
    return f"<mrow>{''.join(items)}</mrow>"


def _scripts(base: str, tokens: list[str]) -> str:
    below, above = "", ""
    while tokens and tokens[0] in "_^'":
        if (sign := tokens.pop(0)) == "_":
            below = _one(tokens)
        else:
            above += "<mo>&prime;</mo>" if sign == "'" else _one(tokens)
    if below and above:
        return f"<msubsup>{base}{below}<mrow>{above}</mrow></msubsup>"
    return f"<msub>{base}{below}</msub>" if below else f"<msup>{base}<mrow>{above}</mrow></msup>"


def _one(tokens: list[str]) -> str:
    """The next symbol or group."""
    token = tokens.pop(0)
    name = token.removeprefix("\\")
    if token == "{":
        shown = _row(tokens)
        tokens.pop(0)
        return shown
    if token in ("\\frac", "\\tfrac"):
        over, under = _one(tokens), _one(tokens)
        fraction = f"<mfrac>{over}{under}</mfrac>"
        return f'<mstyle displaystyle="false">{fraction}</mstyle>' if name == "tfrac" else fraction
    if name in ACCENTS:
        return f'<mover accent="true">{_one(tokens)}<mo stretchy="false">{ACCENTS[name]}</mo></mover>'
    if token in ("\\mathrm", "\\operatorname", "\\mathcal"):
        tokens.pop(0)
        end = tokens.index("}")
        text = "".join(tokens[:end])
        del tokens[: end + 1]
        return f"<mi>{SCRIPT[text] if name == 'mathcal' else text}</mi>"
    if name in LETTERS:
        return f"<mi>{LETTERS[name]}</mi>"
    if name in OPERATORS:
        return f'<mo stretchy="false">{OPERATORS[name]}</mo>'
    if name in FUNCTIONS:
        return f'<mo lspace="0.17em" rspace="0.17em">{name}</mo>'
    if token[0] == "\\":  # what is in no list stops the build
        return f'<mspace width="{SPACES[name]}em"/>'
    if token.isdigit():
        return f"<mn>{token}</mn>"
    if token.isalpha():
        return f"<mi>{token}</mi>"
    return f'<mo stretchy="false">{escape(token)}</mo>'
