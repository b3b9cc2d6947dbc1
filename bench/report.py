"""The figures of the data path as Markdown: costs, ratios, and which goals are met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import machine

NOTHING = "-"
MANY = 10_000  # connections of the rows that have the most
BUSY = 0.9  # of its core, beyond which the load is at its limit


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))


def as_figure(value: float | None) -> str:
    """Return three digits of it, or what stands for nothing."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _costs(rows: list[dict[str, Any]], names: list[str]) -> Iterator[list[str]]:
    """Give a line for each row, and lines for what else was measured."""
    for row in rows:
        unit = row["unit"]
        wanted = [(unit, "figure", 1)]
        if unit == "µs a handshake":
            wanted.append(("handshakes a second", "a second", 1))
        if any("idle CPU" in values for values in row["peers"].values()):
            wanted.append(("ms of CPU a second", "idle CPU", 1000))
        for what, key, factor in wanted:
            values = {
                name: values[key] * factor for name, values in row["peers"].items() if key in values
            }
            yield [row["row"], what, *(as_figure(values.get(name)) for name in names)]


def _ratios(
    rows: list[dict[str, Any]], ours: str, peers: list[str]
) -> tuple[list[list[str]], int, int]:
    """Return the lines of the table, how many goals there are, and how many are met."""
    lines, goals, met = [], 0, 0

    def judged(text: str, goal: float, fine: bool, sign: str) -> str:
        nonlocal goals, met
        goals, met = goals + 1, met + fine
        return f"{text}, met {sign} {goal:g}" if fine else f"**{text}, missed {sign} {goal:g}**"

    for row in rows:
        if ours not in row["peers"]:
            continue
        own = row["peers"][ours]["figure"]
        cells = [as_figure(own)]
        if row["at most"] is not None:
            cells = [judged(as_figure(own), row["at most"], own <= row["at most"], "≤")]
        for peer in peers:
            if peer not in row["peers"] or own <= 0:
                cells.append(NOTHING)
                continue
            ratio = row["peers"][peer]["figure"] / own
            goal = row["goals"].get(peer)
            if goal is None:
                cells.append(f"{ratio:.2f}")
            else:
                cells.append(judged(f"{ratio:.2f}", goal, ratio >= goal, "≥"))
        lines.append([row["row"], *cells])
    return lines, goals, met


def _at_limit(rows: list[dict[str, Any]]) -> list[str]:
    """Return where the load had no time left."""
    return [
        f"{row['row']} ({name})"
        for row in rows
        for name, values in row["peers"].items()
        if values["load busy"] > BUSY
    ]


def as_markdown(result: dict[str, Any], names: list[str]) -> str:
    """Return the whole report; `names` are the peers in the order of the columns.

    That of a smoke run says first that it means nothing, and has neither ratios nor goals.
    """
    rows = [row for row in result["rows"] if row["peers"]]
    ours = [name for name in names if name.startswith("wsframe")]
    peers = [name for name in names if name not in ours]
    parts = [
        "# The data path\n",
        *([machine.SMOKE + "\n"] if result["smoke"] else ()),
        f"Rounds: {result['rounds']}; all figures are medians. {machine.as_text(result)}\n",
        "## Costs\n",
        "CPU time of the server (in the rows of the client, of the client), and its memory.\n",
        _table(["", "", *names], _costs(rows, names)),
    ]
    if limits := _at_limit(rows):
        parts.append(f"The load was busy all the time in: {', '.join(limits)}.\n")
    for name in ours if peers and not result["smoke"] else ():
        lines, goals, met = _ratios(rows, name, peers)
        parts.append(f"## {name}\n")
        parts.append(f"The figure of each peer, divided by ours. Goals met: {met} of {goals}.\n")
        parts.append(_table(["", "ours", *peers], lines))
    if result["most connections"] < MANY:
        parts.append(f"No row had more than {result['most connections']} connections.\n")
    if result["cores"] == 1:
        parts.append("There was one core: the load and the servers disturbed each other.\n")
    if result["not installed"]:
        left_out = (f"{name} (no {what})" for name, what in result["not installed"].items())
        parts.append(f"Left out: {', '.join(left_out)}.\n")
    return "\n".join(parts)
