"""The picture of a prompt's visits: success rate and estimate above, rollouts below, coloured by the rule; an SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from recipe.knapsack.view.prompt_record import Visit

__all__ = ["RULE_COLORS", "draw_visits"]

RULE_COLORS = {  # Okabe and Ito (2008): distinguishable with every kind of colour blindness
    "unseen": "#6b6b6b",
    "knapsack": "#0072B2",
    "fallback": "#D55E00",
    "minimum": "#009E73",
    "review": "#E69F00",
    "remainder": "#CC79A7",
    "homogeneous": "#56B4E9",
    "unknown": "#000000",
}
_WIDTH, _LEFT, _RIGHT = 880, 56, 16
_RATES = (16, 176)  # top and bottom of the upper panel
_BUDGETS = (200, 280)
_HEIGHT = 316
_MOST_LABELS = 12
_INK, _GRID = "#333333", "#d9d9d9"


def draw_visits(visits: Sequence[Visit], name: str) -> Markup:
    """An SVG of at least one visit; pointing at a mark tells its numbers.

    Args:
        visits: in the order of their steps.
        name: of the run, for readers that do not see the picture.
    """
    by_epoch = all(visit.epoch is not None for visit in visits) and len({v.epoch for v in visits}) == len(visits)
    places = [(visit.epoch or 0) if by_epoch else visit.step for visit in visits]
    most = max(visit.budget for visit in visits)
    horizontal = [_scaled(place, min(places), max(places), _LEFT + 14, _WIDTH - _RIGHT - 14) for place in places]
    parts = [
        *_axes(places, horizontal, most, "epoch" if by_epoch else "step"),
        _line(horizontal, visits),
        *(_estimate(x, visit) for x, visit in zip(horizontal, visits, strict=True)),
        *(_outcome(x, visit) for x, visit in zip(horizontal, visits, strict=True)),
        *(_bar(x, visit, most, len(visits)) for x, visit in zip(horizontal, visits, strict=True)),
    ]
    label = f"{name}: success rate and rollouts of the prompt by {'epoch' if by_epoch else 'step'}"
    return Markup(
        '<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="12" fill="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, label, _INK, Markup("").join(parts))


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)


def _axes(places: Sequence[int], horizontal: Sequence[float], most: int, unit: str) -> list[Markup]:
    line = Markup(
        '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke="{}"/><text x="{}" y="{t}" text-anchor="end">{}</text>'
    )
    parts = []
    for rate in (0.0, 0.5, 1.0):
        y = _height_of_rate(rate)
        parts.append(line.format(_LEFT, _WIDTH - _RIGHT, _GRID, _LEFT - 8, f"{rate:.0%}", y=y, t=y + 4))
    for budget in sorted({0, most}):
        y = _height_of_budget(budget, most)
        parts.append(line.format(_LEFT, _WIDTH - _RIGHT, _GRID, _LEFT - 8, budget, y=y, t=y + 4))
    label = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    every = -(-len(places) // _MOST_LABELS)
    for place, x in list(zip(places, horizontal, strict=True))[::every]:
        parts.append(label.format(f"{x:.1f}", _BUDGETS[1] + 16, place))
    parts.append(label.format((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, unit))
    return parts


def _height_of_rate(rate: float) -> float:
    return round(_scaled(rate, 0.0, 1.0, _RATES[1] - 8, _RATES[0] + 8), 1)


def _height_of_budget(budget: float, most: int) -> float:
    return round(_scaled(budget, 0, most, _BUDGETS[1], _BUDGETS[0]), 1)


def _line(horizontal: Sequence[float], visits: Sequence[Visit]) -> Markup:
    known = [(x, visit.rate) for x, visit in zip(horizontal, visits, strict=True) if visit.rate is not None]
    points = " ".join(f"{x:.1f},{_height_of_rate(rate)}" for x, rate in known)
    return Markup('<polyline points="{}" fill="none" stroke="#9a9a9a" stroke-width="1.2"/>').format(points)


def _estimate(x: float, visit: Visit) -> Markup:
    if visit.estimate is None:
        return Markup("")
    y = _height_of_rate(visit.estimate)
    mark = '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke="#000000" stroke-width="2.5"><title>{}</title></line>'
    return Markup(mark).format(f"{x - 9:.1f}", f"{x + 9:.1f}", f"estimate {visit.estimate:.0%}", y=y)


def _outcome(x: float, visit: Visit) -> Markup:
    if visit.rate is None:
        return Markup("")
    mark = '<circle cx="{}" cy="{}" r="{}" fill="{}" fill-opacity="0.85" stroke="#ffffff"><title>{}</title></circle>'
    radius = min(2.5 + 0.9 * visit.budget**0.5, 14.0)
    color = RULE_COLORS[visit.rule]
    return Markup(mark).format(f"{x:.1f}", _height_of_rate(visit.rate), f"{radius:.1f}", color, _told(visit))


def _bar(x: float, visit: Visit, most: int, count: int) -> Markup:
    width = min(24.0, max(2.0, 0.7 * (_WIDTH - _LEFT - _RIGHT) / count))
    top = _height_of_budget(visit.budget, most)
    mark = '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>'
    color = RULE_COLORS[visit.rule]
    return Markup(mark).format(
        f"{x - width / 2:.1f}", top, f"{width:.1f}", round(_BUDGETS[1] - top, 1), color, _told(visit)
    )


def _told(visit: Visit) -> Markup:
    successes = "?" if visit.successes is None else visit.successes
    return escape(f"step {visit.step}: {successes} of {visit.budget} succeeded ({visit.rule})")
