"""What an encoder is: the report of the `inspect` command, with the receptive field that was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .decoders import describe_decoder
from .dropout import base_model, decoder_layers
from .receptive import (
    BOTH_SIDES,
    LayerField,
    ReceptiveField,
    assert_bidirectional,
    assert_policy,
    fitting_probe,
    receptive_field,
)

if TYPE_CHECKING:
    from .encoder import Encoder

__all__ = [
    "LayerField",
    "ReceptiveField",
    "assert_bidirectional",
    "assert_policy",
    "describe",
    "receptive_field",
    "render",
]

LONG_PROBE_COST = 6e10
"""Layer parameters times tokens up to which a long window is measured to its end (Gemma 3 270M: 5e10)."""


def describe(encoder: Encoder | str | Path, *, folder: str | Path | None = None) -> dict[str, Any]:
    """Everything worth knowing about an encoder, as plain data for JSON.

    Args:
        encoder: The encoder, or the folder of one.
        folder: Where the encoder was loaded from; its `run.json`, if any, tells how it was trained.

    Returns:
        `decoder`, `warm_start`, `backbone`, `attention`, `receptive_field` (one measurement per padding
        side; a longer one when a long window can be measured to its end in seconds), `pooling`, `head`,
        `labels`, `problem_type`, `text`, `special_tokens`, `dropout`, `parameters`, `adapter`, `training`
        (the content of `run.json`, or None).

    Raises:
        CheckpointError: The folder is no encoder.
        AttentionError: A layer gives NaN or infinite states.
    """
    if isinstance(encoder, str | Path):
        from .encoder import Encoder as Loader

        folder = encoder
        encoder = Loader.from_pretrained(folder)
    config, stock = encoder.config, base_model(encoder.backbone).config
    backend = encoder.backend
    tokenizer = encoder.tokenizer
    return {
        "decoder": config.decoder,
        "warm_start": list(config.warm_start),
        "backbone": {
            "family": stock.model_type,
            "class": type(base_model(encoder.backbone)).__name__,
            "layers": stock.num_hidden_layers,
            "hidden_size": stock.hidden_size,
            "heads": stock.num_attention_heads,
            "key_value_heads": getattr(stock, "num_key_value_heads", stock.num_attention_heads),
            "vocabulary": stock.vocab_size,
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "device": str(encoder.device),
        },
        "attention": {
            "policy": config.attention,
            "window_policy": config.window,
            "bidirectional_layers": config.bidirectional_layers,
            "layout": encoder.layout,
            "backend": backend.name,
            "reason": backend.reason,
        },
        "receptive_field": [asdict(measured) for measured in _measure_for_report(encoder)],
        "pooling": {**asdict(config.pooling), "output_size": encoder.pooler.output_size},
        "head": {
            **asdict(config.head),
            "outputs": config.num_labels,
            "output_scale": encoder.head.output_scale,
            "output_shift": encoder.head.output_shift,
        },
        "problem_type": config.problem_type,
        "labels": list(config.labels),
        "text": asdict(config.text),
        "special_tokens": {
            name: getattr(tokenizer, f"{name}_token", None)
            for name in ("bos", "eos", "pad", "unk", "sep", "cls")
        },
        "dropout": asdict(config.dropout),
        "parameters": _count_parameters(encoder),
        "adapter": _describe_adapter(encoder.backbone),
        "training": None if folder is None else _read_run(Path(folder)),
    }


def _measure_for_report(encoder: Encoder) -> list[ReceptiveField]:
    measurements = [receptive_field(encoder, padding_side=side) for side in BOTH_SIDES]
    windows = [field.window for field in measurements[0].layers]
    layers = sum(p.numel() for layer in decoder_layers(encoder.backbone) for p in layer.parameters())
    length = fitting_probe(windows, int(LONG_PROBE_COST / max(layers, 1)))
    # Above the limit of positions rotary embeddings may refuse.
    if (
        measurements[0].probe_length
        < length
        < getattr(base_model(encoder.backbone).config, "max_position_embeddings", 0)
    ):
        measurements.append(receptive_field(encoder, probe_length=length))
    return measurements


def _count_parameters(encoder: Encoder) -> dict[str, int]:
    """Parameters by part; the parts add up to `total`."""
    embedding = {
        id(parameter) for parameter in base_model(encoder.backbone).get_input_embeddings().parameters()
    }
    counts = dict.fromkeys(("embedding", "layers", "adapter", "pooler", "head", "total"), 0)
    for name, parameter in encoder.named_parameters():
        part = name.split(".", 1)[0]
        if part not in ("pooler", "head"):
            part = "embedding" if id(parameter) in embedding else "adapter" if ".lora_" in name else "layers"
        for key in (part, "total"):
            counts[key] += parameter.numel()
    return counts


def _describe_adapter(backbone: nn.Module) -> dict[str, Any] | None:
    """Kind, rank and targets of a PEFT adapter, None without one."""
    configs: dict[str, Any] = getattr(backbone, "peft_config", None) or {}
    for config in configs.values():
        return {
            "type": str(getattr(config.peft_type, "value", config.peft_type)),
            "rank": getattr(config, "r", None),
            "alpha": getattr(config, "lora_alpha", None),
            "target_modules": sorted(getattr(config, "target_modules", None) or ()),
        }
    return None


def _read_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a folder, or None. A broken one is told, not raised: the model may be fine."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"unreadable": str(error)}
    return run if isinstance(run, dict) else {"unreadable": "run.json is not an object"}


def render(description: dict[str, Any]) -> str:
    """The report of `describe` as text for a terminal."""
    backbone, attention, pooling, head = (
        description[key] for key in ("backbone", "attention", "pooling", "head")
    )
    text, tokens = description["text"], description["special_tokens"]
    layers, labels = attention["bidirectional_layers"], description["labels"]
    only = f" in layers {layers}, causal in the others" if layers else ""
    shown = ", ".join(labels[:8]) + (f", ... ({len(labels)})" if len(labels) > 8 else "")
    sections: list[tuple[str, Sequence[str]]] = [
        (
            "decoder",
            [
                describe_decoder(description["decoder"]),
                *(f"trained before as {name}" for name in description["warm_start"]),
                _render_backbone(backbone),
            ],
        ),
        (
            "attention",
            [
                f"{attention['policy']}{only}, window policy {attention['window_policy']}",
                f"layout {attention['layout']}, back end {attention['backend']} ({attention['reason']})",
            ],
        ),
        ("measured", _render_fields(description["receptive_field"])),
        ("pooling", [_render_pooling(pooling)]),
        ("head", [_render_head(head)]),
        ("task", [f"{description['problem_type']}: {shown}"]),
        (
            "text",
            [
                _render_text(text),
                "special tokens " + ", ".join(f"{name} {token}" for name, token in tokens.items() if token),
            ],
        ),
        ("dropout", [", ".join(f"{name} {rate:g}" for name, rate in description["dropout"].items())]),
        ("parameters", _render_parameters(description["parameters"])),
    ]
    if description["adapter"]:
        sections.append(
            ("adapter", [", ".join(f"{name} {value}" for name, value in description["adapter"].items())])
        )
    sections.append(("training", _render_training(description["training"])))
    lines = []
    for title, content in sections:
        for index, line in enumerate(content):
            lines.append(f"{title if index == 0 else '':<12}{line}".rstrip())
    return "\n".join(lines)


def _render_backbone(backbone: dict[str, Any]) -> str:
    return (
        f"{backbone['family']} ({backbone['class']}), {backbone['layers']} layers, hidden size "
        f"{backbone['hidden_size']}, {backbone['heads']} heads ({backbone['key_value_heads']} for keys and "
        f"values), vocabulary {backbone['vocabulary']:,}, {backbone['dtype']} on {backbone['device']}"
    )


def _render_text(text: dict[str, Any]) -> str:
    bos, eos = ("on" if text[name] else "off" for name in ("bos", "eos"))
    return f"template {text['template']!r}, at most {text['max_length']} tokens, bos {bos}, eos {eos}"


def _render_fields(measurements: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for measured in measurements:
        lines.append(f"padding {measured['padding_side']}, probe of {measured['probe_length']} tokens:")
        groups: dict[str, list[int]] = {}
        for field in measured["layers"]:
            groups.setdefault(_render_field(field, measured["probe_length"]), []).append(field["layer"])
        lines += [f"  layers {_ranges(layers)}: {text}" for text, layers in groups.items()]
    return lines


def _render_field(field: dict[str, Any], probe_length: int) -> str:
    """One layer's result, without its index, so that equal layers can share a line."""

    def tokens(measured: int | None, expected: int | None) -> str:
        if measured is not None:
            return str(measured)
        return "all" if expected is None else f"at least {probe_length - 1}"

    window = "global" if field["window"] is None else f"local, window {field['window']}"
    back = tokens(field["reach_back"], field["expected_back"])
    forward = tokens(field["reach_forward"], field["expected_forward"])
    verdict = f"NOT as the policy says: {field['problem']}" if field["problem"] else "as the policy says"
    return f"{window}, {field['kind']}, sees {back} back, {forward} forward; {verdict}"


def _ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` -> `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _render_pooling(pooling: dict[str, Any]) -> str:
    details = {
        "first_k": f" (k {pooling['k']}{', first token skipped' if pooling['skip_bos'] else ''})",
        "last_k": f" (k {pooling['k']})",
        "attention": f" ({pooling['probe']} probe, {pooling['probes']} probes, {pooling['heads']} heads)",
    }
    return f"{pooling['kind']}{details.get(pooling['kind'], '')}, output size {pooling['output_size']}"


def _render_head(head: dict[str, Any]) -> str:
    shape = "linear"
    if head["depth"]:
        width = "input size" if head["width"] is None else head["width"]
        shape = f"{head['depth']} hidden layer(s) of width {width}, {head['activation']}"
    affine = ""
    if (head["output_scale"], head["output_shift"]) != (1.0, 0.0):
        affine = f", scaled by {head['output_scale']:g}, shifted by {head['output_shift']:g}"
    return f"{shape}, norm {head['norm']}, {head['outputs']} output(s){affine}"


def _render_parameters(counts: dict[str, int]) -> list[str]:
    return [f"{part:<10}{count:>14,}" for part, count in counts.items() if count or part == "total"]


def _render_training(run: dict[str, Any] | None) -> list[str]:
    """The short facts of a run, whatever they are: plain values, and groups of plain values, a line each."""
    if run is None:
        return ["no run.json: not trained by this package, or only adapted"]
    lines = []
    for name, value in run.items():
        if isinstance(value, dict):
            plain = [
                f"{key} {_short(item)}" for key, item in value.items() if not isinstance(item, dict | list)
            ]
            if plain:
                lines.append(f"{name}: {', '.join(plain)}")
        elif not isinstance(value, list):
            lines.append(f"{name}: {_short(value)}")
    return lines or ["run.json is empty"]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
