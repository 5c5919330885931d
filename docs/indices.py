"""A hook of the site: in sentences and tables s_i and W_{l+1} get indices that hang below the line, as on paper."""

import re
from typing import Any

UNTOUCHED = re.compile(r"(<(?P<tag>pre|code|math)\b.*?</(?P=tag)>|<[^>]+>)", re.DOTALL)
# A letter with an index, or a word whose index is l or i: the number of a layer or a component.
INDEXED = re.compile(r"(?<![^\WΔ])([^\W\d_]\u2032?|[a-z]+(?=_[li]\b))_(?:\{([^{}]+)\}|([^\W_]))(?![A-Za-z0-9_])")


def on_page_content(html: str, **kwargs: Any) -> str:
    """Called for each page, after its Markdown has become HTML; code stays as it is."""
    pieces, begin = [], 0
    for found in UNTOUCHED.finditer(html):
        pieces += [INDEXED.sub(_lowered, html[begin : found.start()]), found[0]]
        begin = found.end()
    return "".join([*pieces, INDEXED.sub(_lowered, html[begin:])])


def _lowered(found: re.Match[str]) -> str:
    index = (found[2] or found[3]).replace("-", "&minus;")
    return f"{found[1]}<sub>{index}</sub>"
