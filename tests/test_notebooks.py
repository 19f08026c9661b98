"""The notebooks as files: told of in the README, numbered as they are read, and what they say of one another is there.

That they run is asked by `make notebooks`, that they carry no outputs by `make lint`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def sources(path: Path, kind: str) -> str:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)


def test_they_are_numbered_and_in_the_readme_in_that_order() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
    listed = re.findall(r"^\* \[\w+\]\(notebooks/(\w+\.ipynb)\)", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert listed == [path.name for path in NOTEBOOKS]


def test_names_of_notebooks_in_texts_are_those_of_files() -> None:
    names = {path.name for path in NOTEBOOKS}
    texts = [
        (ROOT / "README.md").read_text("utf-8"),
        *(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")),
    ]
    for text in [*texts, *(sources(path, "markdown") for path in NOTEBOOKS)]:
        assert set(re.findall(r"\b\d\d_\w+\.ipynb", text)) <= names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_begin_with_a_title_and_need_no_network(path: Path) -> None:
    assert sources(path, "markdown").startswith("# ")
    assert "Nothing is downloaded" in re.sub(r"\s+", " ", sources(path, "markdown"))
    assert not re.search(r"https?://(?!127\.0\.0\.1)", sources(path, "code"))
