"""The figures of the data path as a picture: a panel for each row, a bar for each library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import as_figure

COLUMNS = 3
# Two blues, a grey and an orange that every eye tells apart.
CORKED, OURS, PEER, GOAL = "#0072b2", "#56b4e9", "#b8b8b8", "#d55e00"


def _colour(name: str) -> str:
    if not name.startswith("wsframe"):
        return PEER
    return CORKED if name.endswith("corked") else OURS


def _fill(panel: Any, row: dict[str, Any], names: list[str]) -> None:
    figures = {name: values["figure"] for name, values in row["peers"].items()}
    own = figures.get(names[0], 0)
    most = max(1e-9, *figures.values())
    for place, name in enumerate(names):
        value = figures.get(name)
        if value is None:
            panel.text(0, place, " -", va="center", fontsize=8)
            continue
        panel.barh(place, value, color=_colour(name), height=0.75)
        goal = own * row["goals"].get(name, 0)
        if goal > 0:
            most = max(most, goal)
            panel.plot([goal, goal], [place - 0.4, place + 0.4], color=GOAL, linewidth=1.5)
        ratio = f"  ({value / own:.2f})" if own > 0 else ""
        label = panel.text(
            max(value, 0), place, f" {as_figure(value)}{ratio}", va="center", fontsize=8
        )
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3})
    panel.set_yticks(range(len(names)), names, fontsize=8)
    for label in panel.get_yticklabels():
        if label.get_text().startswith("wsframe"):
            label.set_fontweight("bold")
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_xlim(0, most * 1.35)
    panel.set_xticks([])
    panel.set_title(f"{row['row']}: {row['unit']}", fontsize=9, loc="left", fontweight="bold")
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)


def draw(result: dict[str, Any], names: list[str], file: Path) -> None:
    """Write the picture; `names` are the libraries, first the one that others are compared with."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window
    from matplotlib import pyplot as plt

    rows = [row for row in result["rows"] if row["peers"]]
    lines = -(-len(rows) // COLUMNS)
    inches = (16, lines * (0.24 * len(names) + 0.6) + 1)
    figure, panels = plt.subplots(lines, COLUMNS, figsize=inches, squeeze=False)
    for row, panel in zip(rows, panels.flat, strict=False):
        _fill(panel, row, names)
    for panel in panels.flat[len(rows) :]:
        panel.set_axis_off()
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    figure.suptitle(
        "CPU time and memory of WebSocket servers and clients: less is better. In brackets: "
        f"divided by that of {names[0]}.\nOrange: the goal is met when the bar reaches the line.\n"
        f"{result['cpu']}, Linux {result['kernel']}, Python {result['python']}; {versions}",
        fontsize=9,
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / inches[1]))
    figure.savefig(file, dpi=110)
    plt.close(figure)
