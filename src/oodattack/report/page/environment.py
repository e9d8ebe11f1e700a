"""Templates, the style sheet and the scripts of pages, and what makes a page safe to open.

Everything that is inserted into a template is escaped. The Content-Security-Policy allows one style sheet and one
script, by their hashes, and the scripts that this script loads; no address outside the page's own folder.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from oodattack.report.numbers import count

HERE = Path(__file__).parent
SCRIPTS = ("state.js", "gallery.js", "bars.js", "audit.js", "dialog.js", "tables.js")


def render(template: str, /, **context: Any) -> str:
    """Fill a template of the folder ``templates``."""
    return _environment().get_template(template).render(context)


def render_part(template: str, macro: str, *arguments: Any) -> Markup:
    """Call a macro of a template.

    >>> from oodattack.report.page.elements import Table
    >>> "&lt;b&gt;" in render_part("parts.html", "table", Table("a", ["<b>"], []))
    True
    """
    filled: Markup = getattr(_environment().get_template(template).module, macro)(*arguments)
    return filled


def script_json(value: Any) -> Markup:
    r"""A value as JSON that may stand within a ``<script>`` element.

    Raises:
        ValueError: for NaN and infinities, which JSON lacks.

    >>> print(script_json({"name": "</script>"}))
    {"name":"\u003c/script>"}
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    # `<` could end the element; the two separators end a line in older JavaScript.
    for character in "<\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 -- escaped above


def style() -> Markup:
    """The style sheet.

    >>> "prefers-color-scheme" in style()
    True
    """
    return _asset("page.css")


@cache
def script() -> Markup:
    """The script: all files, in one scope of their own.

    >>> script().startswith('"use strict"')
    True
    """
    return Markup('"use strict";(() => {{\n{}}})();\n').format(Markup("").join(map(_asset, SCRIPTS)))


@cache
def policy() -> str:
    """The Content-Security-Policy.

    From file://, scripts that the page adds later are only allowed by 'strict-dynamic'. Styles are set by the style
    sheet alone, never by attributes.

    >>> policy().startswith("default-src 'none'; img-src 'self' file: data:")
    True
    """
    return (
        "default-src 'none'; img-src 'self' file: data:;"
        f" style-src '{_hash(style())}'; script-src '{_hash(script())}' 'strict-dynamic';"
        " base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(script_json=script_json, count=count)
    environment.globals.update(style=style, script=script, policy=policy)
    return environment


@cache
def _asset(name: str) -> Markup:
    return Markup((HERE / "assets" / name).read_text(encoding="utf-8"))  # noqa: S704 -- our own file


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
