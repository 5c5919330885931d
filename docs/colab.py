"""A hook of the site: links that open the notebooks in Colab, if the repository is on GitHub and its address is known.

    JAXLOCAL_REPOSITORY=https://github.com/OWNER/NAME mkdocs build

This or any other address gives every page a link to the repository.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

COLAB = "https://colab.research.google.com/github/{repository}/blob/main/docs/{notebook}"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
NOTEBOOK = re.compile(r"\[[^\]]+\]\((notebooks/[\w-]+\.ipynb)\)")
INSTALL = '\nIn Colab, install the library first, in a cell of its own: `%pip install "git+{address}"`.\n'


def on_page_markdown(markdown: str, config: "MkDocsConfig", **kwargs: Any) -> str:
    """Called for each page, before its Markdown becomes HTML."""
    repository = GITHUB.fullmatch(config.repo_url or "")
    if not (repository and NOTEBOOK.search(markdown)):
        return markdown

    def linked(link: re.Match[str]) -> str:
        return f"{link[0]} ([open in Colab]({COLAB.format(repository=repository[1], notebook=link[1])}))"

    return NOTEBOOK.sub(linked, markdown) + INSTALL.format(address=repository[0])
