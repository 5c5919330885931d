"""A hook of the site: a page with the code of each file that the gallery links to, code/FOLDER/FILE.md."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((code/(\S+)\.md)\)")
PAGE = """---
search:
  exclude: true
hide: [toc]
---

# {path}

````py
{code}````
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called with the files of the site, before pages are made of them."""
    gallery = files.get_file_from_path("gallery.md")
    assert gallery is not None
    for page, name in sorted(set(LINK.findall(gallery.content_string))):
        path = f"{name}.py"
        code = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=PAGE.format(path=path, code=code)))
    return files
