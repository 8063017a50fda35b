"""A document of text, tables and pictures, as one self-contained HTML page and as Markdown.

All text comes from settings, files and users' tables: it is escaped here, in one place, and nowhere taken for markup.
The page loads nothing and runs nothing: its content security policy allows its own style and embedded pictures only.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from matplotlib.figure import Figure

DPI = 120
LONG, SHORT = 36, 14  # letters of a cell that gets room on a small screen; of one that is not broken into lines
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUMBER = re.compile(r"[<>]?\s?[-−–]?\d")
STYLE = """
:root { --ink: #1c2733; --soft: #5c6b7a; --line: #e2e7ec; --tint: #f5f8fa; --blue: #0072b2; --warm: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { background: var(--tint); border-bottom: 3px solid var(--blue); padding: 2.2rem 0 1.6rem; }
h1 { margin-bottom: .25rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
header p { color: var(--soft); overflow-wrap: anywhere; }
header p.notice { color: var(--warm); font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: .35rem .9rem; margin-top: .9rem; font-size: .9rem; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
h2 { margin: 2.6rem 0 .6rem; padding-bottom: .3rem; font-size: 1.35rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.6rem 0 .4rem; font-size: 1.05rem; overflow-wrap: anywhere; }
p, ul { margin-top: .5rem; margin-bottom: .5rem; overflow-wrap: anywhere; } li { margin: .2rem 0; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: pre-line; }
th { background: var(--tint); font-weight: 600; } tbody tr:last-child td { border-bottom: 0; }
td.b { font-weight: 650; } td.t { min-width: 15rem; overflow-wrap: anywhere; } td.s { white-space: pre; }
td.n { text-align: right; white-space: pre; } th.n { text-align: right; }
.caption { color: var(--soft); font-size: .86rem; }
figure { margin: 1rem 0; text-align: center; } img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .86rem; text-align: left; }
details { margin: .7rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
summary { cursor: pointer; font-weight: 600; }
header > *, main, footer { max-width: 62rem; margin-left: auto; margin-right: auto; padding: 0 1.25rem; }
footer { margin-top: 3rem; margin-bottom: 2rem; color: var(--soft); font-size: .86rem; }
@media print { nav { display: none; } details { border: 0; } .scroll { overflow: visible; } }
"""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    lines: Sequence[str]


class Strong(str):
    """A cell that stands out."""


@dataclass(frozen=True)
class Grid:
    """A table. A cell may have several lines."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, with the name of its file (letters, digits and hyphens) and what it shows."""

    name: str
    png: bytes
    caption: str

    @classmethod
    def of(cls, name: str, figure: Figure, caption: str) -> Picture:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
        return cls(name, content.getvalue(), caption)


@dataclass(frozen=True)
class Details:
    """Blocks that a reader opens."""

    title: str
    blocks: Sequence[Heading | Paragraph | Items | Grid | Picture]


Block = Heading | Paragraph | Items | Grid | Picture | Details


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    notice: str = ""  # what a reader must not miss
    footer: str = ""
    pictures: list[Picture] = field(init=False)

    def __post_init__(self):
        blocks = [block for section in self.sections for block in section.blocks]
        blocks += [inner for block in blocks if isinstance(block, Details) for inner in block.blocks]
        object.__setattr__(self, "pictures", [block for block in blocks if isinstance(block, Picture)])

    def to_html(self) -> str:
        links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(self.sections))
        sections = "\n".join(
            f'<section id="s{i}"><h2>{escape(section.title)}</h2>\n{_html(section.blocks)}</section>'
            for i, section in enumerate(self.sections)
        )
        notice = f'<p class="notice">{escape(self.notice)}</p>' if self.notice else ""
        lead = "".join(f"<p>{escape(line)}</p>" for line in self.lead)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style></head>\n"
            f"<body><header><h1>{escape(self.title)}</h1>{notice}{lead}<nav>{links}</nav></header>\n"
            f"<main>\n{sections}\n</main>\n<footer>{escape(self.footer)}</footer></body></html>\n"
        )

    def to_markdown(self, pictures: str) -> str:
        """Markdown that shows the pictures in the folder `pictures`."""
        lead = [f"**{_plain(self.notice)}**"] * bool(self.notice) + [_plain(line) for line in self.lead]
        parts = [f"# {_plain(self.title)}", *lead]
        for section in self.sections:
            parts += [f"## {_plain(section.title)}", *_markdown(section.blocks, pictures)]
        return "\n\n".join([*parts, _plain(self.footer)]) + "\n"


def _html(blocks: Sequence[Block]) -> str:
    return "\n".join(map(_html_of, blocks))


def _html_of(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h3>{escape(text)}</h3>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Items(lines):
            return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
        case Picture(_, png, caption):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            shown = escape(caption)
            return f'<figure><img alt="{shown}" src="{source}"><figcaption>{shown}</figcaption></figure>'
        case Details(title, inner):
            return f"<details><summary>{escape(title)}</summary>\n{_html(inner)}</details>"
        case Grid(header, rows, caption):
            numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(header))]
            head = "".join(_cell("th", name, n) for name, n in zip(header, numeric, strict=True))
            body = "".join(
                "<tr>" + "".join(_cell("td", cell, n) for cell, n in zip(row, numeric, strict=True)) + "</tr>\n"
                for row in rows
            )
            note = f'<p class="caption">{escape(caption)}</p>' if caption else ""
            table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
            return f'<div class="scroll">{table}</div>{note}'


def _cell(tag: str, text: str, numeric: bool) -> str:
    letters = max(map(len, text.splitlines()), default=0) if tag == "td" else 0
    size = ["t"] * (letters > LONG) + ["s"] * (0 < letters <= SHORT and not numeric)
    kinds = " ".join(["n"] * numeric + ["b"] * isinstance(text, Strong) + size)
    return f'<{tag} class="{kinds}">{escape(text)}</{tag}>' if kinds else f"<{tag}>{escape(text)}</{tag}>"


def _is_numeric(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell not in ("", "–")]
    return bool(known) and all(NUMBER.match(cell) for cell in known)


def _markdown(blocks: Sequence[Block], pictures: str) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"### {_plain(text)}")
            case Paragraph(text):
                parts.append(_plain(text))
            case Items(lines):
                parts.append("\n".join(f"* {_plain(line)}" for line in lines))
            case Picture(name, _, caption):
                parts.append(f"![{_plain(caption)}]({pictures}/{name}.png)")
            case Details(title, inner):
                parts += [f"### {_plain(title)}", *_markdown(inner, pictures)]
            case Grid(header, rows, caption):
                first, *cells = [[_plain_cell(cell) for cell in line] for line in (header, *rows)]
                grid = [first, ["---"] * len(first), *cells]
                parts.append("\n".join("| " + " | ".join(line) + " |" for line in grid))
                parts += [_plain(caption)] * bool(caption)
    return parts


def _plain_cell(text: str) -> str:
    first, *others = [_plain(line) for line in text.splitlines()] or [""]
    return "<br>".join([f"**{first}**" if isinstance(text, Strong) else first, *others])


def _plain(text: str) -> str:
    """The text as Markdown that shows it as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", " ".join(text.splitlines()))
