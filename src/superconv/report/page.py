"""A page as plain data, and how it becomes one HTML file that loads nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from pathlib import Path

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes

from superconv import files
from superconv.report.style import figure_of


@dataclass(frozen=True)
class Picture:
    """A figure of a page."""

    name: str
    """Distinct within a page; the file name of the PNG too."""
    axes: Axes
    caption: str
    """What is to be seen, for those who look and for those who cannot."""

    @classmethod
    def of(cls, quantity: str, axes: Axes, caption: str) -> "Picture":
        """A picture of something with any name."""
        return cls(re.sub(r"[^A-Za-z0-9]+", "-", quantity), axes, caption)

    @property
    def wide(self) -> bool:
        """Whether it takes the width of the page."""
        return bool(figure_of(self.axes).get_figwidth() > 7)

    @property
    def svg(self) -> Markup:
        """The figure as an inline SVG that loads nothing and whose ids begin with its name."""
        buffer = StringIO()
        with matplotlib.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "path"}):
            figure_of(self.axes).savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        view_box = re.search(r'viewBox="[^"]*"', svg)
        assert view_box is not None, "matplotlib writes a view box"
        start = f'<svg role="img" aria-label="{escape(self.caption)}" {view_box[0]}>'
        return Markup(start + svg[svg.index(">") + 1 :].rstrip())

    def write_png(self, folder: Path) -> None:
        """Write `<name>.png`."""
        with files.whole(folder / f"{self.name}.png") as temporary:
            figure_of(self.axes).savefig(temporary, format="png", dpi=150, metadata={"Software": None})


@dataclass(frozen=True)
class Table:
    """Rows of words; the first column names the row."""

    rows: Sequence[Sequence[str]]
    headers: Sequence[str] = ()
    numbers: bool = False
    """Whether all but the first column are aligned to the right."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands below it, in this order."""

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    commands: Sequence[tuple[str, str]] = ()
    """(what it does, command)."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report."""

    title: str
    subtitle: str = ""
    tiles: Sequence[tuple[str, str]] = ()
    """(what, number): the numbers that matter most."""
    badge: tuple[str, str, str] | None = None
    """(mood, word, sentences); the mood is `good`, `bad` or `open`."""
    sections: Sequence[Section] = ()

    def write(self, path: Path, *, figures: bool = False) -> Path:
        """Write the page; the same data make the same bytes.

        Args:
            path: The HTML file.
            figures: Whether the pictures are also written as PNG files, into the folder ``figures`` beside the page.

        Returns:
            `path`.
        """
        for picture in (p for section in self.sections if figures for p in section.pictures):
            picture.write_png(path.parent / "figures")
        source = resources.files("superconv.report").joinpath("template.html.j2").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        files.write_text(path, environment.from_string(source).render(page=self))
        return path
