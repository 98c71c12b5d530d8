"""The models that a benchmark compares: the one under test, its decoder as transformers' own classifier, an
established encoder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..decoders import quiet, what_is_wrong
from ..dropout import DropoutConfig
from ..encoder import Encoder, EncoderConfig, seeded
from ..errors import DecoderError, first_line
from ..pooling import PoolingConfig
from ..tasks import Task
from ..text import TextConfig
from .plan import Plan


def main_encoder(plan: Plan, task: Task, seed: int) -> Encoder:
    """The model under test: the decoder, adapted as the plan says."""
    recipe = plan.recipes[task.name]
    config = EncoderConfig.from_dict(
        {
            "dropout": recipe["dropout"],
            **plan.encoder,
            "text": {
                **plan.encoder.get("text", {}),
                "template": task.template,
                "max_length": recipe["max_length"],
            },
            "problem_type": task.problem_type,
            "labels": task.labels,
        }
    )
    return Encoder.from_decoder(plan.model, config, seed=seed)


def established_encoder(plan: Plan, task: Task, seed: int) -> Encoder:
    """A model that is bidirectional from its pretraining on, such as BERT: same trainer, pooling and head.

    Its text is that of BERT's own fine-tuning, `[CLS] text [SEP] second text [SEP]` in one segment, and its
    dropout is its own.

    Raises:
        DecoderError: It can't be loaded.
    """
    source = str(plan.encoder_model)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            backbone, report = AutoModel.from_pretrained(
                source, config=config, output_loading_info=True, trust_remote_code=False, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # hub, config, tokenizer and safetensors libraries each raise their own kinds
        raise DecoderError(
            f"The encoder can't be loaded: {first_line(error)}", where=source, fix="give a folder or a hub id"
        ) from error
    if wrong := what_is_wrong({**report, "missing_keys": _without_pooler(report["missing_keys"])}):
        raise DecoderError(wrong, where=source, fix="download the model again")
    backbone.config.is_causal = False
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    recipe = plan.recipes[task.name]
    positions = getattr(config, "max_position_embeddings", None) or recipe["max_length"]
    template = f"{{text}} {tokenizer.sep_token} {{text_pair}}" if task.is_pair else "{text}"
    with seeded(seed):
        encoder = Encoder(
            backbone,
            tokenizer,
            EncoderConfig(
                pooling=PoolingConfig("mean"),
                dropout=DropoutConfig(head=recipe["dropout"]["head"]),
                text=TextConfig(template=template, max_length=min(recipe["max_length"], positions)),
                problem_type=task.problem_type,
                labels=task.labels,
                decoder=source,
            ),
        )
    return encoder.eval()


def _without_pooler(missing: Any) -> list[str]:
    """BERT's own pooler has no part in this; models without one are whole."""
    return [name for name in missing if not name.startswith("pooler.")]
