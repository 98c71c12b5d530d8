"""Each check against encoders with a planted fault, of the kinds that others shipped: it must notice."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from gemma_encoder import attention as attention_module
from gemma_encoder.encoder import Encoder
from gemma_encoder.testing import CHECKS, FOLDER_CHECKS, check_all, conformance, tiny_decoder


def make(family: str = "llama", **options) -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family), **{"verify": False, **options})


def one_causal_layer(**options) -> Encoder:
    def turn(module, args, kwargs):
        if "packed" not in kwargs:  # the padded layout stays right
            return args, kwargs
        return args, {**kwargs, "packed": replace(kwargs["packed"], causal=True)}

    encoder = make(**options)
    encoder.stock_backbone.layers[2].register_forward_pre_hook(turn, with_kwargs=True)
    return encoder


def one_wider_layer(**options) -> Encoder:
    """A window that the back end gets wrong: the module says 4, the keys are those of 5."""
    encoder = make("mistral", **options)
    inner = encoder.stock_backbone.layers[1].self_attn.forward
    packed = attention_module.packed_attention

    def wider(*args, sliding_window=None, **kwargs):
        return packed(*args, sliding_window=sliding_window + 1, **kwargs)

    def forward(*args, **kwargs):
        functions = attention_module.ALL_ATTENTION_FUNCTIONS
        functions[attention_module.PACKED_ATTENTION] = wider
        try:
            return inner(*args, **kwargs)
        finally:
            functions[attention_module.PACKED_ATTENTION] = packed

    encoder.stock_backbone.layers[1].self_attn.forward = forward
    return encoder


def texts_see_each_other(**options) -> Encoder:
    encoder = make(**options)
    attend = encoder.encode_tokens

    def leak(ids, mask, **options):
        states = attend(ids, mask, **options)
        return states + 0.1 * states[:1, :1]  # of the first text's first column

    encoder.encode_tokens = leak
    return encoder


def without_soft_cap(**options) -> Encoder:
    encoder = make("gemma2", **options)
    layout = Encoder.layout

    class Deaf(Encoder):
        @property
        def layout(self):
            return layout.fget(self)

        @layout.setter
        def layout(self, value):
            layout.fset(self, value)
            for layer in self.stock_backbone.layers:
                layer.self_attn.attn_logit_softcapping = None if value == "packed" else 2.0

    encoder.__class__ = Deaf
    return encoder


def pools_the_last_column(**options) -> Encoder:
    encoder = make(**options)
    encoder.pooler.forward = lambda hidden, mask: hidden[:, -1].float()
    return encoder


def pools_padding_too(**options) -> Encoder:
    encoder = make(**options)
    pool = encoder.pooler.forward
    encoder.pooler.forward = lambda hidden, mask: pool(hidden, torch.ones_like(mask))
    return encoder


def gives_nan_for_short_texts(**options) -> Encoder:
    encoder = make(**options)
    pool = encoder.pooler.forward
    encoder.pooler.forward = lambda hidden, mask: pool(hidden, mask) / (mask.sum(1, keepdim=True) > 3)
    return encoder


def deaf_to(option: str, **options) -> Encoder:
    options.pop(option, None)
    return make(**options)


def drops_in_eval(**options) -> Encoder:
    encoder = make(**options)
    head = encoder.head.forward
    encoder.head.forward = lambda pooled: head(torch.nn.functional.dropout(pooled, 0.1))
    return encoder


def detached(scale: float | None, **options) -> Encoder:
    """The backbone learns nothing: cut off, or by gradients of zero."""
    encoder = make(**options)
    pool = encoder.pooler.forward
    encoder.pooler.forward = lambda hidden, mask: pool(
        hidden.detach() if scale is None else hidden.detach() + scale * hidden, mask
    )
    return encoder


def trains_what_is_frozen(**options) -> Encoder:
    encoder = make(**options)
    embeddings = encoder.stock_backbone.get_input_embeddings()

    def unfreeze(*_):
        embeddings.weight.grad = torch.zeros_like(embeddings.weight)

    encoder.register_forward_hook(unfreeze)
    return encoder


def called(check: str):
    return next(c for c in (*CHECKS, *FOLDER_CHECKS) if c.__name__ == check)


FAULTS = [
    ("attends_by_policy", one_causal_layer, "layer 2 of 4"),
    ("attends_by_policy", one_wider_layer, "layer 1 of 4"),
    ("packed_equals_padded", without_soft_cap, "packed and padded"),
    ("packed_equals_padded", one_causal_layer, "packed and padded, bidirectional"),
    ("padding_does_not_matter", texts_see_each_other, "alone and with"),
    ("padding_does_not_matter", pools_the_last_column, "alone and with"),
    ("padding_does_not_matter", pools_padding_too, "alone and with"),
    ("padding_does_not_matter", gives_nan_for_short_texts, "differ by nan"),
    ("attention_matters", partial(deaf_to, "attention"), "the same scores"),
    ("dropout_only_in_training", partial(deaf_to, "dropout"), "does nothing while training"),
    ("dropout_only_in_training", drops_in_eval, "in eval"),
    ("gradients_reach_what_trains", partial(detached, None), "no gradient reaches backbone"),
    ("gradients_reach_what_trains", partial(detached, 0.0), "the gradient of backbone.* is zero"),
    ("gradients_reach_what_trains", trains_what_is_frozen, "is frozen and got a gradient"),
]


@pytest.mark.parametrize(("check", "broken", "message"), FAULTS)
def test_a_fault_is_noticed(check, broken, message):
    with pytest.raises(AssertionError, match=message):
        called(check)(broken)


def loses_the_head(encoder: Encoder, folder: Path) -> None:
    torch.nn.init.normal_(encoder.head.output.weight)


def forgets_the_window(encoder: Encoder, folder: Path) -> None:
    encoder.stock_backbone.config.sliding_window = 4  # mistral reads it at every pass; half of it was saved


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("survives_saving", loses_the_head),
        ("survives_saving", forgets_the_window),
        ("merged_lora_survives_saving", loses_the_head),
        ("kept_lora_survives_saving", loses_the_head),
        ("kept_lora_survives_saving", forgets_the_window),
    ],
)
def test_a_fault_in_loading_is_noticed(check, fault, tmp_path, monkeypatch):
    load = Encoder.from_pretrained

    def faulty(folder):
        encoder = load(folder)
        fault(encoder, folder)
        return encoder

    monkeypatch.setattr(conformance.Encoder, "from_pretrained", faulty)
    with pytest.raises(AssertionError, match="differ by"):
        called(check)(partial(make, "mistral"), tmp_path)


@pytest.mark.parametrize("fault", ["merged", "unmerged"])
def test_an_adapter_that_is_saved_otherwise_than_asked_is_noticed(fault, tmp_path, monkeypatch):
    save = Encoder.save_pretrained
    monkeypatch.setattr(Encoder, "save_pretrained", lambda self, folder, **_: save(self, folder))
    if fault == "merged":
        with pytest.raises(AssertionError, match=r"merged|differ by"):
            called("kept_lora_survives_saving")(make, tmp_path)
        return

    def in_place(self, folder, **_):
        self.backbone.merge_adapter()
        save(self, folder)

    monkeypatch.setattr(Encoder, "save_pretrained", in_place)
    with pytest.raises(AssertionError, match="saving changed"):
        called("merged_lora_survives_saving")(make, tmp_path)


def test_a_folder_that_is_causal_elsewhere_is_noticed(tmp_path, monkeypatch):
    save = Encoder.save_pretrained

    def forgetful(self, folder):
        save(self, folder)
        config = json.loads((folder / "config.json").read_text())
        del config["is_causal"]
        (folder / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(Encoder, "save_pretrained", forgetful)
    with pytest.raises(AssertionError, match="CrossEncoder with mean"):
        called("opens_in_sentence_transformers")(make, tmp_path)


def test_all_checks_are_run_and_a_fault_is_raised(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(conformance, "CHECKS", (lambda make: seen.append("check"),))
    monkeypatch.setattr(conformance, "FOLDER_CHECKS", (lambda make, folder: seen.append(folder),))
    check_all(make)
    check_all(make, tmp_path)
    assert seen[0] == seen[2] == "check" and not seen[1].exists() and seen[3].parent == tmp_path
    monkeypatch.setattr(conformance, "CHECKS", (called("attends_by_policy"),))
    with pytest.raises(AssertionError, match="layer 2"):
        check_all(one_causal_layer)
