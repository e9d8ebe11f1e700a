"""Points over the numbers 0, 1, 2 and so on, as in Figs. 1 to 3 of the paper: the components of a latent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from oodattack.report.numbers import count, significant
from oodattack.report.page.charts.frame import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axes, svg
from oodattack.report.page.charts.scale import Scale
from oodattack.report.page.elements import Cell, Figure, Shown, Table

_LARGEST = 4 * max(WIDTH, HEIGHT)  # step within the drawing, in either direction
_NUMBERS = np.array([str(number) for number in range(-_LARGEST, _LARGEST + 1)], dtype=object)


@dataclass(frozen=True)
class Points:
    """A series of points.

    Attributes:
        name: in the legend and the table.
        kind: class in the style sheet: "in" are dots, all others rings.
        values: one per component; those that are not finite are left out of the drawing.
    """

    name: str
    kind: str
    values: np.ndarray


def scatter(
    name: str,
    title: str,
    description: str,
    *,
    points: Sequence[Points],
    limits: tuple[float, float],
    max_points: int = 2048,
    table_rows: int = 8,
    key: str = "",
    note: str = "",
) -> Figure:
    """Points of one or several series over the number of the component.

    Args:
        name: unique on the page, without spaces.
        title: what it shows.
        description: what can be seen in it, in a sentence.
        points: the series, of the same length.
        limits: range of the vertical axis, so that several charts can be compared.
        max_points: of longer series, so many evenly spaced components are drawn.
        key: where the values come from, for tests; by default the name.
        table_rows: the table has this many components, those with the largest values of the first series.
        note: shown below the chart.

    >>> figure = scatter("z", "Latents", "They coincide.", points=[Points("z_in", "in", np.array([0.0, 2.0]))],
    ...     limits=(0.0, 2.0))
    >>> [str(cell) for cell in figure.table.rows[0]][0]
    '0'
    """
    length = len(points[0].values)
    chosen = np.linspace(0, length - 1, min(max_points, length)).round().astype(int)
    x = Scale(0, max(1, length - 1), LEFT + 4, WIDTH - RIGHT - 4)
    low, high = limits
    y = Scale(low, high if high > low else low + 1, HEIGHT - BOTTOM - 3, TOP + 3)
    parts = [axes(Axis(x, "component of z", lambda at: count(round(at))), Axis(y, "value", significant))]
    parts += [_path(series, chosen, x, y) for series in points]
    largest = np.argsort(-np.nan_to_num(np.abs(points[0].values)), kind="stable")[:table_rows]
    rows: list[list[Cell]] = [
        [
            str(component),
            *(
                Shown(
                    f"{key or name}/{series.name}/{component}",
                    float(series.values[component]),
                    significant(float(series.values[component])),
                )
                for series in points
            ),
        ]
        for component in sorted(largest.tolist())
    ]
    largest_of = f"The {len(rows)} components with the largest {points[0].name}"
    return Figure(
        title,
        svg(name, title, description, parts),
        Table(title, ["component", *(series.name for series in points)], rows, note=largest_of),
        [(series.kind, series.name) for series in points],
        note,
    )


def _path(series: Points, chosen: np.ndarray, x: Scale, y: Scale) -> Markup:
    """One path of all points, which the style sheet marks with dots or rings. Its unit is a quarter of the drawing's.

    Whole numbers, each relative to the one before, take half the space of decimal fractions.
    """
    values = series.values[chosen].astype(np.float64)
    finite = np.isfinite(values)
    places = 4 * np.stack([x.places(chosen[finite]), y.places(values[finite])], 1)
    places = places.round().astype(int)
    steps = np.diff(places, axis=0, prepend=np.zeros((1, 2), dtype=int)).ravel()
    path = " ".join(_NUMBERS[steps + _LARGEST].tolist())  # several times as fast as str() of each
    return Markup(f'<path class="dots {escape(series.kind)}" transform="scale(.25)" d="m{path}"/>')  # noqa: S704 -- numbers
