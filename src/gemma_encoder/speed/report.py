"""Measured speed as table and figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..compiling import why_not_compiled
from ..machine import hardware, versions
from ..whole_files import whole_file
from .contenders import Settings
from .measuring import Speed


def facts(speed: Speed, settings: Settings) -> dict[str, str]:
    """What was scored, how, and on what."""
    mean = speed.tokens / speed.rows
    found = {
        "rows": f"{speed.rows:,}, {mean:.0f} tokens on average, {speed.longest:,} at most",
        "settings": f"ours max_tokens {settings.max_tokens:,}, the others batch_size {settings.batch_size}",
        "layers": layers(settings.compile_layers, settings.device),
        "limit": "the products of the linear layers alone, with the same tokens in each pass as ours",
        "machine": machine(settings.device),
    }
    for each in speed.contenders:
        if each.batch_size:
            found[f"batch_size of {each.name}, {each.dtype}"] = f"{each.batch_size}, the fastest tried"
    for name, reasons in speed.left_out.items():
        if len(set(reasons.values())) == 1 and set(reasons) >= set(speed.limits):
            found[f"{name} left out"] = next(iter(reasons.values()))
        else:
            found |= {f"{name} left out in {dtype}": why for dtype, why in reasons.items()}
    return found | {
        f"{each.name}, {each.dtype}": each.not_alone for each in speed.contenders if each.not_alone
    }


def layers(compiled: bool, device: str = "cpu") -> str:
    """Whether our layers are compiled, if they shall be."""
    if not compiled:
        return "ours not compiled"
    obstacle = why_not_compiled(device)
    return "ours compiled before the first round" if obstacle is None else f"ours not compiled: {obstacle}"


def machine(device: str) -> str:
    """Processor or GPU, threads and versions, in a line."""
    found = versions(("torch", "transformers", "sentence-transformers"))
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if name != "python")
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {packages}"
    parts = hardware()
    return f"{parts['cpu']}, {parts['threads']} thread{'s' * (parts['threads'] > 1)}, {packages}"


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows as `Speed.table` has them, in words; what none has is no column."""
    in_words = [_in_words(row) for row in rows]
    columns = dict.fromkeys(name for row in in_words for name in row)
    return [{name: row.get(name, "–") for name in columns} for row in in_words]


def _in_words(row: Mapping[str, Any]) -> dict[str, str]:
    middle, low, high = row["times_as_long_as_ours"]
    words = {"contender": row["contender"], "precision": row["dtype"]}
    if "rows_per_second" in row:
        words["rows/s"] = f"{row['rows_per_second']:,.1f}"
    words |= {
        "tokens/s": f"{row['tokens_per_second']:,.0f}",
        "of the limit": f"{row['share_of_limit']:.0%}",
        "time, ours = 1": "1" if middle == low == high == 1 else f"{middle:.2f} ({low:.2f} to {high:.2f})",
    }
    if "peak_mib" in row:
        words |= {"memory, MiB": f"{row['peak_mib']:,.0f}", "start-up, s": f"{row['start_up_seconds']:.1f}"}
    return words


def write_figure(speed: Speed, path: str | Path) -> bool:
    """Write the figure, whole or not at all; False without matplotlib."""
    drawn = figure(speed)
    if drawn is None:
        return False
    with whole_file(path) as file:
        file.write(drawn.encode())
    return True


def figure(speed: Speed) -> str | None:
    """Rows a second of each contender as bars, precision by precision, as SVG; None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows = speed.table()
    names = list(dict.fromkeys(row["contender"] for row in rows))
    height = 0.8 / len(names)
    # Text stays text, and ids inside the file don't change from one drawing to the next.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "speed"}), io.StringIO() as text:
        drawing = Figure(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
        axes = drawing.subplots()
        for number, name in enumerate(names):
            of_name = [row for row in rows if row["contender"] == name]
            places = [
                list(speed.limits).index(row["dtype"]) + (number - (len(names) - 1) / 2) * height
                for row in of_name
            ]
            bars = axes.barh(
                places,
                [row["rows_per_second"] for row in of_name],
                height=0.9 * height,
                color=str(0.35 + 0.5 * number / max(1, len(names) - 1)),
                edgecolor="black",
                linewidth=0.5,
                label=name,
            )
            axes.bar_label(bars, [f"{row['share_of_limit']:.0%}" for row in of_name], padding=3, fontsize=9)
        axes.set_yticks(range(len(speed.limits)), list(speed.limits))
        axes.invert_yaxis()
        axes.set_xlabel("rows a second; behind each bar its share of the limit")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.margins(x=0.08)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names), frameon=False)
        drawing.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()
