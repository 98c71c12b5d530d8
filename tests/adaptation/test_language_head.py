"""Losses by the decoder's head, in parts, against logits written out whole and against stock models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from gemma_encoder.adaptation import language_head as module
from gemma_encoder.adaptation.language_head import LanguageHead, language_head
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.testing import FAMILIES, tiny_decoder


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("at_once", [1, 3 * 31, 10**9])
def test_in_parts_as_in_one_value_and_gradient(softcap, at_once, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(31, 8, generator=generator, dtype=torch.float64)
    states = torch.randn(10, 8, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(31, (10,), generator=generator)
    logits = states @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(3 * expected, states)

    loss, right = LanguageHead(weight, softcap).loss(states, targets)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert right == (logits.argmax(dim=-1) == targets).sum()
    found = torch.autograd.grad(3 * loss, states)[0]
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)  # softmax runs in float32


def test_the_head_goes_where_the_states_are(monkeypatch):
    """As when training moves an encoder to a GPU; the device without numbers stands in for it."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # it knows no such device
    head = LanguageHead(torch.randn(11, 4))
    states = torch.randn(3, 4, device="meta", requires_grad=True)
    loss, _ = head.loss(states, torch.zeros(3, dtype=torch.int64, device="meta"))
    assert loss.device.type == "meta"


def test_no_place_is_no_loss():
    loss, right = LanguageHead(torch.randn(5, 4)).loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert loss == right == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_stock_causal_model(family, tmp_path):
    """Next tokens, by a causal encoder and the head that is found, tied or not."""
    decoder = tiny_decoder(family)
    stock = AutoModelForCausalLM.from_config(decoder.backbone.config).eval()
    stock.save_pretrained(tmp_path)
    decoder.tokenizer.save_pretrained(tmp_path)
    encoder = Encoder.from_decoder(str(tmp_path), attention="causal", verify=False).eval()
    ids = torch.randint(4, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = stock(input_ids=ids).logits[:, :-1].flatten(0, 1)
        states = encoder.encode_tokens(ids, torch.ones_like(ids))[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten()
    loss, right = language_head(encoder).loss(states, targets)
    np.testing.assert_allclose(loss, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-4)
    assert right == (logits.argmax(dim=-1) == targets).sum()


def test_a_family_that_scales_its_logits_is_refused():
    encoder = Encoder.from_decoder(tiny_decoder("gemma3"), verify=False)
    encoder.stock_backbone.config.logits_scaling = 4.0
    with pytest.raises(ConfigError, match="logits_scaling"):
        language_head(encoder)


def test_a_head_that_is_not_there_says_where_to_adapt_from():
    encoder = Encoder.from_decoder(tiny_decoder("llama"), verify=False)
    encoder.stock_backbone.config.tie_word_embeddings = False
    with pytest.raises(ConfigError, match="can't be loaded"):
        language_head(encoder)
