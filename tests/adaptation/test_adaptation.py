"""The stage as a whole: what a backbone learns, what it may look at, and what is left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gemma_encoder.adaptation import AdaptationPlan, adapt, read_corpus
from gemma_encoder.adaptation.corpus import cut
from gemma_encoder.adaptation.masking import MaskedCollator, MaskedDocuments, Masking
from gemma_encoder.adaptation.stage import hold_out
from gemma_encoder.adaptation.trainer import _States
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.testing.conformance import check_all
from gemma_encoder.text import TextConfig
from gemma_encoder.training import EncoderTrainingArguments

TEXTS = [
    "the river is good",
    "money in the bank",
    "a very bad film",
    "what is a good film",
    "not a bad bank",
    "the money is in the river",
] * 8


def encoder_of(**options) -> Encoder:
    options.setdefault("text", TextConfig(max_length=16))
    return Encoder.from_decoder(tiny_decoder("gemma3"), seed=0, verify=False, **options)


def arguments(folder, **options) -> EncoderTrainingArguments:
    defaults = {
        "output_dir": str(folder / "model"),
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "keep_checkpoints": False,
    }
    return EncoderTrainingArguments(**(defaults | options))


def corpus_of(encoder: Encoder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return read_corpus([str(file)], encoder.text, most_tokens=0)


@pytest.mark.parametrize("objective", ["mntp", "mlm"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_was_masked_is_learnt_and_the_rest_stays(objective, tune, tmp_path):
    encoder = encoder_of()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    plan = AdaptationPlan(objective, tokens=12_000, batch_tokens=200, evaluations=2)
    result = adapt(encoder, corpus_of(encoder, tmp_path), plan, arguments(tmp_path, tune=tune))
    assert result.metrics["masked_loss"] < 0.8 * result.before["masked_loss"]
    assert result.metrics["masked_accuracy"] > result.before["masked_accuracy"]

    saved = Encoder.from_pretrained(tmp_path / "model")
    after = saved.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("backbone.layers") or "norm" in name for name in changed)
    run = json.loads((tmp_path / "model" / "run.json").read_text())
    assert run["status"] == "finished" and run["objective"] == objective and run["steps"] == plan.steps
    assert not (tmp_path / "model.checkpoints").exists()


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_share_of_the_decoders_own_weights_is_kept(tune, tmp_path):
    before, found = encoder_of().backbone.state_dict(), {}
    for share in (0.0, 0.25):
        encoder = encoder_of()
        plan = AdaptationPlan("mlm", tokens=800, batch_tokens=200, evaluations=1, original_share=share)
        adapt(encoder, corpus_of(encoder, tmp_path), plan, arguments(tmp_path / str(share), tune=tune))
        found[share] = Encoder.from_pretrained(tmp_path / str(share) / "model").backbone.state_dict()
    for name, original in before.items():
        expected = 0.75 * found[0.0][name] + 0.25 * original
        torch.testing.assert_close(found[0.25][name], expected, rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.equal(found[0.0][name], found[0.25][name]) for name in before)


def test_documents_of_a_packed_row_do_not_see_each_other():
    encoder = encoder_of().eval()
    documents = [np.array([2, *range(10, 15 + number), 1], np.int32) for number in range(3)]
    items = MaskedDocuments(documents, Masking("mlm", 0.3, 9), frozenset({1, 2}), batch_tokens=100, seed=0)
    batch = MaskedCollator(0)([items[0]])
    states = _States(encoder)
    with torch.no_grad():
        first = states(batch["input_ids"], batch["attention_mask"])
        other = batch["input_ids"].clone()
        other[1, 1:4] = 5
        second = states(other, batch["attention_mask"])
    differs = ((first - second).abs().amax(dim=-1) > 1e-6) & batch["attention_mask"].bool()
    assert differs.any(dim=1).tolist() == [False, True, False]


def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(tmp_path):
    plan = AdaptationPlan("mntp", tokens=2000, batch_tokens=200, evaluations=5)
    whole = encoder_of()
    corpus = corpus_of(whole, tmp_path)
    adapt(whole, corpus, plan, arguments(tmp_path / "whole"))

    class Cut(Exception):
        """The end of the first process."""

    cut_short = encoder_of()
    calls = []

    def fail_in_the_seventh_step(*_):
        calls.append(torch.is_grad_enabled())  # not while judging
        if sum(calls) > 6:
            raise Cut

    hook = cut_short.backbone.register_forward_pre_hook(fail_in_the_seventh_step)
    with pytest.raises(Cut):
        adapt(cut_short, corpus, plan, arguments(tmp_path / "cut"))
    hook.remove()
    resumed = encoder_of()
    result = adapt(resumed, corpus, plan, arguments(tmp_path / "cut"), resume=True)
    assert result.run["resumed_from"] and not result.before
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_an_adapted_backbone_passes_the_conformance_suite(tmp_path):
    encoder = encoder_of()
    plan = AdaptationPlan("mlm", tokens=400, batch_tokens=200, evaluations=1)
    adapt(encoder, corpus_of(encoder, tmp_path), plan, arguments(tmp_path, tune="lora"))
    learnt = Encoder.from_pretrained(tmp_path / "model").backbone.state_dict()

    def make(**options) -> Encoder:
        decoder = tiny_decoder("gemma3")
        decoder.backbone.load_state_dict(learnt)
        return Encoder.from_decoder(decoder, **options)

    check_all(make, tmp_path / "checked")


def test_a_long_text_is_cut_into_documents_and_none_of_it_is_lost():
    encoder = encoder_of(text=TextConfig(max_length=6))
    text = "a bank the river is good money in the bank"
    (pieces,) = cut([text], encoder.text)
    tokenizer = encoder.tokenizer
    assert max(map(len, pieces)) == 6
    inner = [token for piece in pieces for token in piece.tolist()[1:-1]]
    assert inner == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all((piece[0], piece[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) for piece in pieces)


def test_corpora_of_files_and_tasks_are_read_until_there_is_enough(tmp_path):
    encoder = encoder_of()
    (tmp_path / "rows.jsonl").write_text('{"body": "a bank"}\n{"body": "the river"}\n')
    (tmp_path / "lines.txt").write_text("money in the bank\n")
    sources = [str(tmp_path / "rows.jsonl")]
    corpus = read_corpus(sources, encoder.text, most_tokens=0, column="body")
    assert corpus.texts == len(corpus.documents) == 2
    assert read_corpus(sources, encoder.text, most_tokens=2, column="body").texts == 1
    task = read_corpus(["task:wnli"], encoder.text, most_tokens=0, data_source="bundled")
    assert task.texts == 635  # WNLI's training rows
    with pytest.raises(ConfigError, match="no task 'nothing'"):
        read_corpus(["task:nothing"], encoder.text, most_tokens=0)
    with pytest.raises(DataError, match="body"):
        read_corpus([str(tmp_path / "rows.jsonl")], encoder.text, most_tokens=0)


def test_some_documents_are_held_out():
    documents = [np.full(10, number, np.int32) for number in range(50)]
    learnt, judged = hold_out(documents, 0)
    assert len(judged) == 5 and len(learnt) == 45
    assert {int(each[0]) for each in learnt} | {int(each[0]) for each in judged} == set(range(50))
    assert [len(part) for part in hold_out(documents[:2], 0)] == [1, 1]
    with pytest.raises(DataError, match="single document"):
        hold_out(documents[:1], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tune": "head"}, "nothing to adapt"), ({"train_embeddings": True}, "embeddings stay")],
)
def test_options_that_leave_nothing_to_learn_are_refused(options, message, tmp_path):
    encoder = encoder_of()
    with pytest.raises(ConfigError, match=message):
        adapt(encoder, corpus_of(encoder, tmp_path), AdaptationPlan(), arguments(tmp_path, **options))
