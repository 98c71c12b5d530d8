"""The encoder as a whole: shapes, layouts, options, loss."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from gemma_encoder.decoders import Decoder
from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.encoder_config import EncoderConfig
from gemma_encoder.errors import AttentionError, CheckpointError, ConfigError
from gemma_encoder.heads import HeadConfig
from gemma_encoder.pooling import attention, first_k, last_k, mean
from gemma_encoder.testing import FAMILIES, tiny_decoder
from gemma_encoder.text import TextConfig

TEXTS = ["a", "a longer text than the others, so that something is padded", "two words", ""]


def encoder_of(family: str = "gemma3", **options) -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family), seed=0, **options)


def score(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    batch = encoder.collate(encoder.tokenize(texts).input_ids)
    with torch.no_grad():
        return encoder(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded(family):
    encoder = encoder_of(family, labels=("a", "b", "c"))
    packed = score(encoder, TEXTS)
    encoder.layout = "padded"
    assert packed.shape == (len(TEXTS), 3) and packed.dtype == torch.float32
    torch.testing.assert_close(packed, score(encoder, TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pooling", [mean(), first_k(2), last_k(3), attention("query", 2), attention("kv", 3)]
)
def test_a_text_scores_the_same_alone_and_in_a_batch(pooling):
    encoder = encoder_of(pooling=pooling)
    together = score(encoder, TEXTS)
    alone = torch.cat([score(encoder, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_seed_decides_the_head_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = encoder_of(), encoder_of()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.head.output.weight, second.head.output.weight)


def test_bfloat16_backbone_keeps_pooler_and_head_in_float32():
    encoder = Encoder.from_decoder(tiny_decoder("gemma3"), seed=0, pooling=attention()).to(torch.bfloat16)
    assert encoder.dtype == torch.bfloat16
    types = {
        parameter.dtype for module in (encoder.pooler, encoder.head) for parameter in module.parameters()
    }
    assert types == {torch.float32}
    assert score(encoder, TEXTS).dtype == torch.float32


@pytest.mark.parametrize(
    ("problem_type", "labels", "expected"),
    [
        # worked out with numpy from the logits below
        (
            "single_label_classification",
            [1, 0],
            lambda z: np.mean(np.log(np.exp(z).sum(1)) - z[[0, 1], [1, 0]]),
        ),
        (
            "multi_label_classification",
            [[1.0, 0.0], [0.0, 0.0]],
            lambda z: np.mean(np.log1p(np.exp(z)) - z * [[1.0, 0.0], [0.0, 0.0]]),
        ),
        ("regression", [3.0, 7.0], lambda z: np.mean(((z[:, 0] - [3.0, 7.0]) / 2.0) ** 2)),
    ],
)
def test_loss(problem_type, labels, expected):
    names = ("score",) if problem_type == "regression" else ("x", "y")
    encoder = encoder_of(problem_type=problem_type, labels=names)
    encoder.head.output_scale = 2.0  # only regression looks at it
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.25]])[:, : len(names)]
    assert encoder.loss(logits, torch.tensor(labels)).item() == pytest.approx(
        expected(logits.numpy().astype(float))
    )


def test_forward_gives_the_loss_of_its_own_logits():
    encoder = encoder_of()
    batch = encoder.collate(encoder.tokenize(TEXTS).input_ids)
    labels = torch.tensor([0, 1, 1, 0])
    output = encoder(**batch, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    assert encoder(**batch).loss is None


def test_gradients_reach_backbone_pooler_and_head():
    encoder = encoder_of(pooling=attention()).train()
    batch = encoder.collate(encoder.tokenize(TEXTS).input_ids)
    encoder(**batch, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
    missing = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not missing


def test_gradient_checkpointing_changes_nothing_but_memory():
    gradients = []
    for checkpointing in (False, True):
        encoder = encoder_of().train()
        if checkpointing:
            encoder.activation_checkpointing_enable()
        batch = encoder.collate(encoder.tokenize(TEXTS).input_ids)
        encoder(**batch, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        gradients.append(encoder.backbone.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients)


def test_config_survives_json():
    config = EncoderConfig(
        attention="causal",
        window="full",
        pooling=last_k(3),
        head=HeadConfig(depth=2, width=7),
        dropout=DropoutConfig.uniform(0.1),
        text=TextConfig(template="{text} | {text_pair}", max_length=77),
        problem_type="regression",
        labels=("relevance",),
    )
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "both"}, "attention is 'both'.*bidirectional, causal"),
        ({"labels": ("a", "a")}, "different name"),
        ({"labels": ("a",)}, "at least two classes"),
        ({"colour": "red"}, "colour"),
        ({"layout": "ragged"}, "layout is 'ragged'"),
        ({"config": "mean"}, "config is 'mean'.*EncoderConfig"),
        ({"pooling": "max"}, "pooling.kind is 'max'.*mean, first_k"),
        ({"pooling": 3}, "pooling is 3.*PoolingConfig.*mapping with kind, k.*or one of mean, first_k"),
        ({"pooling": {"size": 3}}, "pooling is {'size': 3}.*mapping with kind, k"),
        ({"head": 2}, "head is 2.*HeadConfig or a mapping with depth, width"),
        ({"head": HeadConfig}, "head is <class.*HeadConfig or a mapping"),
        ({"head": {1: 2}}, "head is {1: 2}.*mapping with depth"),
        ({"dropout": "0.1"}, "dropout is '0.1'.*or one rate for all"),
        ({"dropout": 1.5}, "dropout.attention is 1.5"),
        ({"dropout": True}, "dropout.attention is True"),
        ({"text": "{text}"}, "text is '{text}'.*TextConfig or a mapping with template"),
        ({"text": None}, "text is None"),
        ({"labels": "positive"}, "labels are 'positive'.*list of names"),
        ({"labels": (0, 1)}, r"labels are \(0, 1\).*list of names"),
        ({"labels": 2}, "labels are 2.*list of names"),
        ({"labels": [["a"], ["b"]]}, "list of names"),
        ({"labels": ("a", "\ud800")}, "lone surrogates"),
        ({"labels": ()}, "at least one"),
        ({"problem_type": "multi_label_classification"}, "labels are not given for multi_label"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        encoder_of(**options)


def test_shorthands_of_nested_options():
    short = EncoderConfig(pooling="attention", head={"depth": 2}, dropout=0.1, text={"max_length": 64})
    assert short == EncoderConfig(
        pooling=attention(),
        head=HeadConfig(depth=2),
        dropout=DropoutConfig(0.1, 0.1, 0.1, 0.1),
        text=TextConfig(max_length=64),
    )
    encoder = encoder_of(pooling={"kind": "last_k", "k": 2}, dropout=0)
    assert encoder.config.pooling == last_k(2) and encoder.config.dropout == DropoutConfig()
    assert score(encoder, TEXTS).shape == (4, 2)


def test_rates_for_further_training_may_be_one_number(tmp_path):
    encoder_of(verify=False).save_pretrained(tmp_path / "model")
    assert Encoder.from_pretrained(tmp_path / "model", dropout=0.2).head.dropout.p == 0.2
    with pytest.raises(ConfigError, match="dropout is 'none'"):
        Encoder.from_pretrained(tmp_path / "model", dropout="none")


def test_another_task_begins_with_the_backbone_and_a_new_head(tmp_path):
    trained = encoder_of(attention="causal", pooling=last_k(2), dropout=0.2, labels=("a", "b", "c"))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    trained.save_pretrained(tmp_path / "model")
    asked = {"problem_type": "ranking", "labels": ("score",), "dropout": DropoutConfig.uniform(0.1)}
    begun, again = (Encoder.from_encoder(tmp_path / "model", seed=0, **asked) for _ in range(2))
    assert begun.config == dataclasses.replace(trained.config, warm_start=("model",), **asked)
    assert not begun.training and trained.config.warm_start == ()
    ours, theirs = begun.stock_backbone.state_dict(), trained.stock_backbone.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    fresh = encoder_of(config=begun.config)
    for encoder in (again, fresh):
        assert torch.equal(begun.head.output.weight, encoder.head.output.weight)
    unseeded = Encoder.from_encoder(tmp_path / "model", **asked)
    assert not torch.equal(begun.head.output.weight, unseeded.head.output.weight)
    begun.save_pretrained(tmp_path / "second")
    assert Encoder.from_pretrained(tmp_path / "second").config == begun.config
    assert Encoder.from_encoder(tmp_path / "second").config.warm_start == ("model", "second")
    kept = Encoder.from_encoder(tmp_path / "model", keep_head=True, problem_type="regression")
    torch.testing.assert_close(score(kept, TEXTS), score(trained, TEXTS))
    with pytest.raises(CheckpointError, match="The head does not fit"):
        Encoder.from_encoder(tmp_path / "model", keep_head=True, **asked)
    hooks = [sum(len(part._forward_hooks) for part in encoder.modules()) for encoder in (begun, fresh)]
    assert hooks[0] == hooks[1] > 0  # dropout, once


def test_what_belongs_to_the_backbone_stays_with_a_new_head(tmp_path):
    encoder_of(verify=False).save_pretrained(tmp_path / "model")
    for name, other in (("attention", "causal"), ("window", "full"), ("decoder", "another")):
        with pytest.raises(ConfigError, match=f"The encoder's {name} is "):
            Encoder.from_encoder(tmp_path / "model", **{name: other})
    with pytest.raises(ConfigError, match="ranking has a single score"):
        Encoder.from_encoder(tmp_path / "model", problem_type="ranking")
    with pytest.raises(CheckpointError, match="does not exist"):
        Encoder.from_encoder(tmp_path / "nothing")


def test_a_new_head_is_refused_what_the_decoder_would_be_refused(tmp_path):
    encoder_of(verify=False).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="skip_bos is on, but text.bos is off"):
        Encoder.from_encoder(
            tmp_path / "model", pooling=first_k(2, skip_bos=True), text=TextConfig(bos=False)
        )


@pytest.mark.parametrize("config", [None, EncoderConfig(pooling=last_k(2))])
def test_regression_without_labels_has_one_score(config):
    encoder = encoder_of(config=config, problem_type="regression", verify=False)
    assert encoder.config.labels == ("score",) and score(encoder, TEXTS).shape == (4, 1)


def test_labels_that_were_given_stay_whatever_they_are():
    for problem_type in ("regression", "multi_label_classification"):
        assert EncoderConfig(problem_type=problem_type, labels=["0", "1"]).labels == ("0", "1")
    with pytest.raises(ConfigError, match="at least one"):
        EncoderConfig(problem_type="regression", labels=())


def test_a_decoder_becomes_one_encoder_only():
    """A second policy on the same backbone would change the first encoder, and halve its window again."""
    decoder = tiny_decoder("gemma3")
    encoder = Encoder.from_decoder(decoder, window="width", verify=False)
    window = encoder.stock_backbone.config.sliding_window
    with pytest.raises(ConfigError, match="adapted before"):
        Encoder.from_decoder(decoder, attention="causal", window="width", verify=False)
    assert encoder.stock_backbone.config.sliding_window == window
    assert encoder.stock_backbone.config.is_causal is False


def test_unknown_saved_field_is_named():
    with pytest.raises(ConfigError, match="speed"):
        EncoderConfig.from_dict({"speed": 9})


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EncoderConfig().window = "full"


@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
def test_a_filled_row_gives_the_same_states_and_gradients(family):
    encoder = encoder_of(family)
    batch = encoder.collate(encoder.tokenize(["the river bank", "a film", "the bank of the river"]).input_ids)
    found = []
    for fill in (False, True):
        states = encoder.encode_tokens(**batch, fill=fill)
        encoder.zero_grad()
        states[batch["attention_mask"].bool()].square().mean().backward()
        gradients = [parameter.grad for parameter in encoder.backbone.parameters()]
        found.append([states, *gradients])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_backend_says_why():
    assert encoder_of("gemma2").backend.reason == "SDPA has no soft-cap"
    assert encoder_of("llama").backend.name == "sdpa"
    half = encoder_of("llama").to(torch.bfloat16)
    assert half.backend.name == "matmul"
    padded = encoder_of("gemma2", layout="padded")
    assert padded.backend.name == "eager"


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_layouts_that_disagree_are_refused(factor):
    """A fault that leaves every receptive field as it should be."""
    decoder = tiny_decoder("llama")

    def scale(module, args, kwargs, output):
        return output * factor if "packed" in kwargs else output

    decoder.backbone.layers[1].register_forward_hook(scale, with_kwargs=True)
    message = "disagree.*from layer 1 of 4" if factor == 1.001 else "Layer 1 gives NaN"
    with pytest.raises(AttentionError, match=message):
        Encoder.from_decoder(decoder)


def test_layouts_that_disagree_once_are_no_fault_of_the_family():
    decoder = tiny_decoder("llama")
    packed_passes = []

    def scale_once(module, args, kwargs, output):
        if "packed" in kwargs:
            packed_passes.append(1)
        return output * 1.001 if "packed" in kwargs and len(packed_passes) == 1 else output

    decoder.backbone.layers[1].register_forward_hook(scale_once, with_kwargs=True)
    with pytest.raises(AttentionError, match=r"states differ by 0\.0.*measured again they agree") as refused:
        Encoder.from_decoder(decoder)
    assert "family" not in str(refused.value) and "from layer 1 of 4" in str(refused.value)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_verifying_leaves_the_layout_as_asked(family, layout):
    verified, not_verified = (encoder_of(family, layout=layout, verify=verify) for verify in (True, False))
    assert verified.layout == not_verified.layout == layout
    used = [encoder.stock_backbone.config._attn_implementation for encoder in (verified, not_verified)]
    assert used[0] == used[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_low_precision_is_no_reason_to_refuse(family, dtype):
    decoder = tiny_decoder(family)
    decoder.backbone.to(dtype)
    assert Encoder.from_decoder(decoder).dtype == dtype


def test_gemma_3_has_no_soft_cap_even_if_its_config_has_one():
    """Its attention has never used the field."""
    encoder = Encoder.from_decoder(tiny_decoder("gemma3", attn_logit_softcapping=50.0), seed=0)
    assert not encoder.softcap and encoder.backend.name == "sdpa"
    assert encoder_of("gemma2").softcap and not encoder_of("llama").softcap


def test_an_unknown_backend_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="back end is 'bogus'"):
        encoder_of(backend="bogus", verify=False)
    encoder_of().save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="back end is 'bogus'"):
        Encoder.from_pretrained(tmp_path / "model", backend="bogus")


def without_bos() -> Decoder:
    decoder = tiny_decoder("gemma3")
    decoder.tokenizer.bos_token = None
    return decoder


@pytest.mark.parametrize(
    ("decoder", "text", "reason"),
    [
        (tiny_decoder("gemma3"), TextConfig(bos=False), "text.bos is off"),
        (without_bos(), TextConfig(), "the tokenizer has no BOS"),
    ],
)
def test_skip_bos_without_a_bos_is_refused(decoder, text, reason):
    """Or it would skip the first word."""
    with pytest.raises(ConfigError, match=reason):
        Encoder.from_decoder(decoder, pooling=first_k(2, skip_bos=True), text=text)


def test_a_bos_in_the_template_is_a_bos():
    template = TextConfig("<bos>{text}", bos=False)
    assert encoder_of(pooling=first_k(2, skip_bos=True), text=template).config.pooling.skip_bos


def test_an_impossible_backend_is_refused_on_adaptation():
    with pytest.raises(AttentionError, match="no soft-cap"):
        encoder_of("gemma2", backend="sdpa")
