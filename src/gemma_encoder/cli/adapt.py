"""`gemma-encoder adapt`: a decoder in, an encoder folder out, its attention switched and verified."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .common import (
    check_writable,
    encoder_config,
    is_encoder_folder,
    print_facts,
    quiet_libraries,
    refuse_existing,
)
from .options import AdaptOptions, EncoderOptions

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..encoder_config import EncoderConfig


def run(options: AdaptOptions, encoder_options: EncoderOptions) -> None:
    """Adapt, verify, save, say what was verified."""
    check_writable(options.output, folder=True)
    refuse_existing(options.output, options.overwrite)
    if is_encoder_folder(options.model):
        raise ConfigError(
            f"{options.model} is an encoder already", fix="give a decoder, or go on with `train`"
        )
    quiet_libraries()
    config = _config(options, encoder_options)
    import torch

    from ..encoder import Encoder

    dtype = getattr(torch, options.dtype)
    encoder = Encoder.from_decoder(options.model, config, dtype=dtype, seed=options.seed)
    if options.dry_run:
        print_facts(f"Would write {options.output} (dry run, nothing written):", facts(encoder))
        return
    encoder.save_pretrained(options.output)
    print_facts(f"Wrote {options.output}", facts(encoder))
    task = f"--task {options.task}" if options.task else "--train_file FILE"
    print(f"\nNext: gemma-encoder train --model {options.output} {task} --output FOLDER")


def facts(encoder: Encoder) -> dict[str, Any]:
    """An encoder in a few lines, the receptive field as measured."""
    from ..decoders import describe_decoder
    from ..receptive import receptive_field

    config = encoder.config
    measured = receptive_field(encoder)
    layers = Counter(
        f"{layer.kind}, {'global' if layer.window is None else f'local (window {layer.window})'}"
        for layer in measured.layers
    )
    parameters = sum(p.numel() for p in encoder.parameters())
    head = sum(p.numel() for part in (encoder.pooler, encoder.head) for p in part.parameters())
    return {
        "decoder": describe_decoder(config.decoder),
        "attention": f"{config.attention}, window {config.window}; back end {encoder.backend.name}",
        "verified": "; ".join(
            f"{count} of {len(measured.layers)} layers {kind}" for kind, count in layers.items()
        ),
        "pooling": config.pooling.kind,
        "labels": f"{', '.join(config.labels)} ({config.problem_type})",
        "template": repr(config.text.template),
        "parameters": f"{parameters:,}, of them new (pooler and head) {head:,}",
    }


def _config(options: AdaptOptions, encoder_options: EncoderOptions) -> EncoderConfig:
    if options.task and options.labels:
        raise ConfigError("--task brings its own labels", fix="give --task or --labels, not both")
    if options.task:
        from ..tasks import get_task

        task = get_task(options.task)
        return encoder_config(encoder_options, task.name, task.template, task.problem_type, task.labels)
    labels = options.labels or (["score"] if options.problem_type == "regression" else None)
    if not labels:
        raise ConfigError("The labels aren't known", fix="add --task NAME, or --labels negative,positive")
    from ..tasks.files import PAIR_TEMPLATE

    template = PAIR_TEMPLATE if options.pairs else "{text}"
    return encoder_config(encoder_options, "", template, options.problem_type, labels)
