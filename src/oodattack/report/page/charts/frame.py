"""What all charts share: the drawing with its title and description, axes and grid lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from oodattack.report.page.charts.scale import Scale

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 44  # margins, which contain the labels of the axes


@dataclass(frozen=True)
class Axis:
    """An axis with its label and the format of its numbers."""

    scale: Scale
    label: str
    text: Callable[[float], str]
    marks: Sequence[float] | None = None  # instead of round numbers


def svg(
    name: str, title: str, description: str, parts: Sequence[Markup], *, buttons: bool = False, height: float = HEIGHT
) -> Markup:
    """An SVG element that assistive technology reads as its title and description.

    Args:
        name: unique on the page.
        title: what the chart shows.
        description: what can be seen in it, in a sentence.
        parts: its elements.
        buttons: whether elements can be operated; otherwise the chart is one image.
        height: of the drawing, which is always `WIDTH` wide.
    """
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="{role}" aria-labelledby="{name}-t {name}-d">'
        '<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>{parts}</svg>'
    ).format(
        w=WIDTH,
        h=height,
        role="group" if buttons else "img",
        name=name,
        title=title,
        description=description,
        parts=Markup("").join(parts),
    )


def axes(x: Axis, y: Axis, height: float = HEIGHT) -> Markup:
    """Grid lines, the numbers beside them, and the labels of both axes."""
    bottom, stop = height - BOTTOM, WIDTH - RIGHT
    found = []
    for value in y.scale.ticks(4) if y.marks is None else y.marks:
        place = y.scale(value)
        found.append(
            f'<line class="grid" x1="{LEFT}" x2="{stop}" y1="{place:.1f}" y2="{place:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{place + 4:.1f}" class="tick end">{escape(y.text(value))}</text>'
        )
    for value in x.scale.ticks() if x.marks is None else x.marks:
        place = x.scale(value)
        found.append(
            f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{place:.1f}" y="{bottom + 16}" class="tick middle">{escape(x.text(value))}</text>'
        )
    found.append(
        f'<line class="axis" x1="{LEFT}" x2="{stop}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label middle" x="{(LEFT + stop) / 2}" y="{height - 6}">{escape(x.label)}</text>'
        f'<text class="label" x="4" y="12">{escape(y.label)}</text>'
    )
    return Markup("".join(found))  # noqa: S704 -- numbers, and text that is escaped


def mark(x: Scale, value: float, text: str, height: float = HEIGHT) -> Markup:
    """A dotted vertical line at a value, with its name; nothing if the value is outside the axis."""
    if not x.low <= value <= x.high:
        return Markup("")
    left = x(value) > (LEFT + WIDTH - RIGHT) / 2
    return Markup(
        '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        '<text class="tick {3}" x="{4:.1f}" y="{5}">{6}</text>'
    ).format(x(value), TOP, height - BOTTOM, "end" if left else "", x(value) + (-4 if left else 4), TOP + 10, text)
