"""The page of a run report: what it holds, and its HTML, which needs neither a network nor JavaScript."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

__all__ = ["Page", "Section", "Table", "render"]


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of each row is its head."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A figure of the page.

    Attributes:
        name: its anchor on the page.
        title: its headline.
        reading: how to read it.
        png: the picture.
        width: how wide the picture is shown, in CSS pixels.
        notes: further sentences, such as the runs left out.
    """

    name: str
    title: str
    reading: str
    png: bytes
    width: int
    notes: Sequence[str] = ()

    @property
    def data_uri(self) -> str:
        """The picture as the text of a link that holds it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Page:
    """All that is on the page.

    Attributes:
        title, subtitle: its headline and the line under it.
        summary: the outcome of each run; ``summary_notes`` explain its columns.
        sections: the figures; ``left_out``: title and reason for each that has nothing to show.
        differences: the settings in which the runs differ; None if they do not, or are unknown.
        runs: what else is known of each run: its name, and pairs of a word and its explanation.
        problems: sentences about what could not be read.
    """

    title: str
    subtitle: str
    summary: Table
    summary_notes: Sequence[str]
    sections: Sequence[Section]
    left_out: Sequence[tuple[str, str]]
    differences: Table | None
    runs: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    problems: Sequence[str]


def render(page: Page, refresh: int | None = None) -> str:
    """The page as one HTML document, which a browser loads again after ``refresh`` seconds; None = never."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(page=page, refresh=refresh)


# The policy in the head keeps browsers from loading anything but the pictures that the page itself holds.
_TEMPLATE = """\
{% macro table(content) %}
<div class="wide">
<table>
<thead><tr>{% for column in content.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in content.rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% if refresh is not none %}
<meta http-equiv="refresh" content="{{ refresh }}">
{% endif %}
<title>{{ page.title }}</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 60rem; background: #fff; color: #1d1d1f;
       font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #d5d5da; font-size: 1.2rem; }
.subtitle { margin: .3rem 0 1.6rem; color: #55555c; }
nav { margin: 1.6rem 0 0; font-size: .9rem; }
nav a { display: inline-block; margin-right: 1.1rem; color: #00598c; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid #e3e3e8; text-align: right; vertical-align: bottom; }
td, tbody th { white-space: nowrap; }
th:first-child { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-bottom: 2px solid #1d1d1f; font-weight: 600; line-height: 1.25; }
.notes { margin: .7rem 0 0; padding: 0; list-style: none; color: #55555c; font-size: .88rem; }
.problems { margin: 1.2rem 0; padding: .7rem 1rem .7rem 2rem; border-left: 4px solid #d55e00; background: #fdf4ee; }
figure { margin: 0; }
figcaption { max-width: 48rem; margin-top: .8rem; }
img { display: block; max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .92rem; }
dt { color: #55555c; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { h2 { break-after: avoid; } figure { break-inside: avoid; } nav { display: none; } }
</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="subtitle">{{ page.subtitle }}</p>
</header>
<main>
{% if page.problems %}
<ul class="problems">
{% for problem in page.problems %}
<li>{{ problem }}</li>
{% endfor %}
</ul>
{% endif %}
{{ table(page.summary) }}
<ul class="notes">
{% for note in page.summary_notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
<nav>
{% for section in page.sections %}
<a href="#{{ section.name }}">{{ section.title }}</a>
{% endfor %}
</nav>
{% for section in page.sections %}
<section id="{{ section.name }}">
<h2>{{ section.title }}</h2>
<figure>
<img src="{{ section.data_uri }}" alt="{{ section.title }}" width="{{ section.width }}">
<figcaption>{{ section.reading }}</figcaption>
</figure>
{% if section.notes %}
<ul class="notes">
{% for note in section.notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
</section>
{% endfor %}
{% if page.left_out %}
<section id="left-out">
<h2>Left out</h2>
<dl>
{% for title, reason in page.left_out %}
<dt>{{ title }}</dt><dd>{{ reason }}</dd>
{% endfor %}
</dl>
</section>
{% endif %}
{% if page.differences is not none %}
<section id="settings">
<h2>Settings that differ</h2>
{{ table(page.differences) }}
</section>
{% endif %}
<section id="runs">
<h2>The runs</h2>
{% for name, facts in page.runs %}
<h3>{{ name }}</h3>
<dl>
{% for term, explanation in facts %}
<dt>{{ term }}</dt><dd>{{ explanation }}</dd>
{% endfor %}
</dl>
{% endfor %}
</section>
</main>
</body>
</html>
"""
