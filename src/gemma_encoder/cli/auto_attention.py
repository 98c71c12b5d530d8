"""What `--attention auto` stands for in a run of `train` or `study`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .common import counted, is_encoder_folder
from .options import EncoderOptions, PoolingOptions

if TYPE_CHECKING:
    from ..tasks import TaskData
    from ..training.recommendations import Recommendation


def resolved(
    options: EncoderOptions, model: str, data: TaskData, max_train_rows: int | None = None
) -> tuple[EncoderOptions, Recommendation | None]:
    """The options with an attention and a pooling in place of `auto`, and why these.

    The backbone of a folder keeps its attention; a pooling that was given stays.

    Args:
        options: What was asked for.
        model: A decoder, or a folder that `adapt` or `train` wrote.
        data: What is learnt.
        max_train_rows: How many of its rows are drawn, if not all.

    Returns:
        The options, and None if nothing was left to choose.
    """
    if options.attention != "auto":
        return options, None
    from ..training.recommendations import Recommendation, recommended

    made: dict[str, Any] = {}
    if is_encoder_folder(model):
        from ..checkpoint import saved_config

        config = saved_config(model)
        made = {name: getattr(config, name) for name in ("window", "bidirectional_layers")}
        made["pooling"] = PoolingOptions(**asdict(config.pooling))
        choice = Recommendation(config.attention, config.pooling.kind, f"{model} keeps its own")
    else:
        rows = data.items if max_train_rows is None else min(data.items, max_train_rows)
        choice = recommended(rows, data.task.problem_type)
        unit = "list" if data.task.problem_type == "ranking" else "row"
        choice = replace(choice, why=f"for {counted(rows, unit)}: {choice.why}")
        made["pooling"] = PoolingOptions(kind=choice.pooling)
    if "pooling" in options.given:
        choice = replace(choice, pooling=options.pooling.kind, why=f"{choice.why}; the pooling was given")
    left_open = {name: value for name, value in made.items() if name not in options.given}
    return replace(options, attention=choice.attention, **left_open), choice


def in_a_line(choice: Recommendation) -> str:
    """What was chosen and why, to print."""
    return f"--attention auto: {choice.attention} attention, {choice.pooling} pooling; {choice.why}"
