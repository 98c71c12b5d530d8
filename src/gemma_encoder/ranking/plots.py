"""A figure of how a run differs from another, query by query."""

from __future__ import annotations

import io

from .measures import RunComparison

MOST_LABELS = 60  # query ids that can still be read side by side


def gain_figure(
    comparison: RunComparison, name: str = "this run", other: str = "the other run"
) -> str | None:
    """Each query's gain of one run over another as a bar, the largest first, as SVG.

    Bars above zero are filled and those below are hatched, so that they differ in black and white too. Query
    ids are written where there are at most 60.

    Args:
        comparison: What `compare_runs` gave.
        name: What to call the first run.
        other: What to call the other one.

    Returns:
        The SVG; None without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return None
    gains = sorted(comparison.per_query.items(), key=lambda pair: (-pair[1], pair[0]))
    places, heights = range(len(gains)), [gain for _, gain in gains]
    # Text stays text, and ids inside the file don't change from one drawing to the next.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gains"}), io.StringIO() as text:
        drawing = Figure(figsize=(9, 4.5), layout="constrained")
        axes = drawing.subplots()
        bars = axes.bar(places, heights, width=0.8, color="0.6", edgecolor="black", linewidth=0.5)
        for bar, height in zip(bars, heights, strict=True):
            if height < 0:
                bar.set(facecolor="white", hatch="////")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.axhline(comparison.difference, color="black", linewidth=0.8, linestyle="--")
        axes.set_ylabel(f"{comparison.measure}: {name} less {other}", parse_math=False)
        if len(gains) <= MOST_LABELS:
            labels = [query for query, _ in gains]
            axes.set_xticks(places, labels, rotation=90, fontsize=7, parse_math=False)
        axes.set_xlabel("query" if len(gains) <= MOST_LABELS else f"{len(gains):,} queries by gain")
        axes.set_title(
            f"{comparison.wins} wins, {comparison.ties} ties, {comparison.losses} losses; mean "
            f"{comparison.difference:+.4f} (dashed), p = {comparison.p_value:.4f}",
            fontsize=10,
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.3)
        axes.margins(x=0.01)
        drawing.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()
