"""The pages of what is refused quote messages that the code has."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAST = 6  # letters of a part of a message that are worth looking for


@cache
def said() -> str:
    """All source text, with strings that go over several lines joined, and no markers of f-strings."""
    files = sorted((ROOT / "src").rglob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def messages(page: str) -> list[str]:
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split("refused\n", 1)[1]
    cells = re.findall(r"^\|[^|]*\|(.*)\|$", section, re.MULTILINE)[2:]
    return [quoted for cell in cells for quoted in re.findall("`([^`]*)`", cell)]


@pytest.mark.parametrize(
    ("page", "message"),
    [(page, message) for page in ("curves.md", "data.md", "tasks.md") for message in messages(page)],
)
def test_a_message_of_the_pages_stands_in_the_code(page, message):
    parts = [part.strip() for part in message.split("…")]
    text = said()
    assert [part for part in parts if len(part) >= LEAST], message
    for part in parts:
        assert part in text, part
