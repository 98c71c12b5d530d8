"""`gemma-encoder adapt`: a decoder in, an encoder folder out, its attention switched and verified."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .common import (
    check_writable,
    counted,
    encoder_config,
    is_encoder_folder,
    note,
    print_facts,
    quiet_libraries,
    refuse_changed,
    refuse_existing,
)
from .options import AdaptOptions, EncoderOptions, MaskedTextOptions

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..encoder_config import EncoderConfig
    from ..training import EncoderTrainingArguments

LEARNING_RATES = {"full": 5e-5, "lora": 3e-4}


def run(options: AdaptOptions, masked: MaskedTextOptions, encoder_options: EncoderOptions) -> None:
    """Adapt, verify, learn from text if asked to, save, say what was verified."""
    _refuse_what_does_nothing(masked)
    check_writable(options.output, folder=True)
    if options.overwrite and masked.resume:
        raise ConfigError("--resume keeps the output and --overwrite replaces it", fix="give one of them")
    if not masked.resume:
        refuse_existing(options.output, options.overwrite)
    if is_encoder_folder(options.model):
        raise ConfigError(
            f"{options.model} is an encoder already", fix="give a decoder, or go on with `train`"
        )
    quiet_libraries()
    config = _config(options, masked, encoder_options)
    import torch

    from ..encoder import Encoder

    dtype = getattr(torch, options.dtype)
    encoder = Encoder.from_decoder(options.model, config, dtype=dtype, seed=options.seed)
    if masked.objective:
        _learn(encoder, options, masked)
    elif options.dry_run:
        print_facts(f"Would write {options.output} (dry run, nothing written):", facts(encoder))
    else:
        encoder.save_pretrained(options.output)
        print_facts(f"Wrote {options.output}", facts(encoder))
    if not options.dry_run:
        print(f"\nNext: {_next(options, masked)}")


def _learn(encoder: Encoder, options: AdaptOptions, masked: MaskedTextOptions) -> None:
    """The stage of masked text, and what came of it."""
    from ..adaptation import AdaptationPlan, adapt, read_corpus
    from ..adaptation.stage import check_adaptation, check_warmup, masked_documents

    names = ("objective", "batch_tokens", "mask_rate", "mask_token", "original_share", "evaluations")
    plan = AdaptationPlan(
        tokens=number_of_tokens(masked.tokens), **{name: getattr(masked, name) for name in names}
    )
    args = _training_arguments(options, masked)
    check_adaptation(encoder, args)
    corpus = read_corpus(
        masked.corpus,
        encoder.text,
        most_tokens=plan.tokens,
        column=masked.text_column,
        data_dir=masked.data_dir,
        data_source=masked.data_source,
    )
    items, _ = masked_documents(encoder, corpus, plan, args)
    steps = plan.steps(items)
    check_warmup(args, steps)
    about = round(steps * items.tokens / len(items))
    what = {
        "corpus": f"{corpus.sources}: {corpus.texts:,} texts, {corpus.tokens:,} tokens",
        "objective": f"{plan.objective}, {plan.mask_rate:.0%} masked",
        "training": f"about {about:,} tokens in {counted(steps, 'step')}, {about / items.tokens:.1f} times "
        f"the {items.tokens:,} that are not held out",
    }
    if len(corpus.by_source) > 1:
        for source, read in corpus.by_source.items():
            note(f"{source}: {counted(read['texts'], 'text')}, {counted(read['tokens'], 'token')}")
    if corpus.longest > plan.batch_tokens:
        note(
            f"a step has {corpus.longest:,} tokens at least, as many as the longest document, "
            f"and not {plan.batch_tokens:,} (--batch_tokens)"
        )
    if options.dry_run:
        title = f"Would write {options.output} (dry run, nothing written):"
        print_facts(title, facts(encoder) | what)
        return
    for name, value in what.items():
        note(f"{name}: {value}")
    result = adapt(encoder, corpus, plan, args, resume=masked.resume, overwrite=options.overwrite)
    metrics, before, run = result.metrics, result.before, result.run
    print_facts(
        f"Wrote {options.output}",
        facts(encoder)
        | what
        | {
            "training": f"{run['tokens']:,} tokens in {counted(run['steps'], 'step')}",
            "masked tokens guessed": _change(before, metrics, "masked_accuracy", ".1%"),
            "their loss": _change(before, metrics, "masked_loss", ".3f"),
            "speed": f"{run['tokens_per_second']:,.0f} tokens/s, {run['wall_seconds'] / 60:.1f} min",
        },
    )


def _change(before: dict[str, float], after: dict[str, float], name: str, form: str) -> str:
    """A metric of held-out text before and after; without before if an older version began the run."""
    first = f"{before[name]:{form}} before, " if before else ""
    return f"{first}{after[name]:{form}} after (held-out text)"


def _next(options: AdaptOptions, masked: MaskedTextOptions) -> str:
    """The command that goes on."""
    named = options.task or options.labels or options.problem_type == "regression"
    task = (
        f"--task {options.task}"
        if options.task
        else "--train_file FILE"
        if named
        else "--new_head --task NAME"
    )
    if masked.tune == "lora" and not masked.merge_adapter:  # it is trained on
        task += f" --tune lora --lora_r {masked.lora_r} --lora_alpha {masked.lora_alpha}"
    return f"gemma-encoder train --model {options.output} {task} --output FOLDER"


def _refuse_what_does_nothing(masked: MaskedTextOptions) -> None:
    if masked.objective is None:
        names = [each.name for each in fields(masked)]
        refuse_changed(masked, names, "it is for --objective mntp or mlm")
    elif masked.tune != "lora":
        refuse_changed(masked, ("lora_r", "lora_alpha", "merge_adapter"), "it is for --tune lora")


def number_of_tokens(words: str) -> int:
    """`500K`, `5M`, `1.5B` or plain digits as a number.

    Raises:
        ConfigError: It is none.
    """
    units = {"k": 10**3, "m": 10**6, "b": 10**9}
    text = words.strip().lower().replace("_", "")
    unit = units.get(text[-1:], 1)
    try:
        number = round(float(text[:-1] if text[-1:] in units else text) * unit)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise ConfigError(f"--tokens is {words!r}", fix="give a number such as 500K or 5M")
    return number


def _training_arguments(options: AdaptOptions, masked: MaskedTextOptions) -> EncoderTrainingArguments:
    """Of the options those that training has too; what isn't given is as there, but for the learning rate."""
    from ..training import EncoderTrainingArguments

    given = {name: value for name, value in asdict(masked).items() if value is not None}
    shared = given.keys() & {each.name for each in fields(EncoderTrainingArguments)}
    chosen = {"learning_rate": LEARNING_RATES[masked.tune]} | {name: given[name] for name in shared}
    return EncoderTrainingArguments(
        output_dir=options.output,
        seed=options.seed,
        load_best_model_at_end=False,  # saved are the last weights, or with average_last a mean
        **chosen,
    )


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
        "attention": f"{config.attention_in_words}, window {config.window}; back end {encoder.backend.name}",
        "verified": "; ".join(
            f"{count} of {len(measured.layers)} layers {kind}" for kind, count in layers.items()
        ),
        "pooling": config.pooling.kind,
        "labels": f"{', '.join(config.labels)} ({config.problem_type})",
        "template": repr(config.text.template),
        "parameters": f"{parameters:,}, of them new (pooler and head) {head:,}",
    }


def _config(
    options: AdaptOptions, masked: MaskedTextOptions, encoder_options: EncoderOptions
) -> EncoderConfig:
    if options.task and options.labels:
        raise ConfigError("--task brings its own labels", fix="give --task or --labels, not both")
    if options.task:
        from ..tasks import get_task

        task = get_task(options.task)
        return encoder_config(encoder_options, task.name, task.template, task.problem_type, task.labels)
    labels = options.labels or (["score"] if options.problem_type == "regression" else None)
    if not labels and masked.objective:  # a head that `train --new_head` replaces
        labels = ["0", "1"]
    if not labels:
        raise ConfigError("The labels aren't known", fix="add --task NAME, or --labels negative,positive")
    from ..tasks.files import PAIR_TEMPLATE

    template = PAIR_TEMPLATE if options.pairs else "{text}"
    return encoder_config(encoder_options, "", template, options.problem_type, labels)
