"""Generated pages are what their scripts print."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_methods_page_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (DOCS / "methods.md").read_text() == generate.page(), "run python docs/generate.py"
