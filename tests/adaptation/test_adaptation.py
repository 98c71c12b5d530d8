"""The stage as a whole: what a backbone learns, what it may look at, and what is left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder

from gemma_encoder.adaptation import AdaptationPlan, adapt, read_corpus
from gemma_encoder.adaptation.corpus import cut
from gemma_encoder.adaptation.masking import MaskedCollator, MaskedDocuments, Masking
from gemma_encoder.adaptation.stage import hold_out, masked_documents
from gemma_encoder.adaptation.trainer import _States
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.scoring import score_all
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.testing.conformance import check_all
from gemma_encoder.text import TextConfig
from gemma_encoder.training import EncoderTrainingArguments
from gemma_encoder.verification import assert_adapted

TEXTS = [
    f"{start} {noun} is {what}"
    for start in ("the", "a", "what", "not a")
    for noun in ("river", "bank", "film", "money")
    for what in ("good", "very bad", "in the bank")
]


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
    assert run["status"] == "finished" and run["objective"] == objective and "masked_loss" in run["before"]
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


@pytest.mark.parametrize(
    "options", [{}, {"tune": "lora"}, {"average_last": 0.6, "load_best_model_at_end": False}]
)
def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(tmp_path, options):
    plan = AdaptationPlan("mntp", tokens=2000, batch_tokens=80, evaluations=5)
    whole = encoder_of()
    corpus = corpus_of(whole, tmp_path)
    first = adapt(whole, corpus, plan, arguments(tmp_path / "whole", **options))

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
        adapt(cut_short, corpus, plan, arguments(tmp_path / "cut", **options))
    hook.remove()
    resumed = encoder_of()
    args = arguments(tmp_path / "cut", eval_max_tokens=32, **options)  # decides speed and memory only
    result = adapt(resumed, corpus, plan, args, resume=True)
    assert result.run["resumed_from"] and result.before == first.before == result.run["before"]
    assert first.before["masked_loss"] > first.metrics["masked_loss"]
    assert result.metrics == pytest.approx(first.metrics, rel=1e-5)
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


@pytest.mark.parametrize(("tune", "share"), [("lora", 0.0), ("full", 0.5), ("lora", 0.5)])
def test_the_folder_attends_as_verified_and_opens_in_sentence_transformers(tmp_path, tune, share):
    """With a merged adapter, and with a share of the decoder's own weights."""
    encoder = encoder_of()
    plan = AdaptationPlan("mntp", tokens=400, batch_tokens=200, evaluations=1, original_share=share)
    adapt(encoder, corpus_of(encoder, tmp_path), plan, arguments(tmp_path, tune=tune))
    saved = Encoder.from_pretrained(tmp_path / "model")
    assert_adapted(saved)
    texts = ["the river is good", "", "a very bad film, not a bank"]
    scores = score_all(encoder, texts)
    np.testing.assert_allclose(score_all(saved, texts), scores, rtol=1e-4, atol=1e-5)
    theirs = CrossEncoder(str(tmp_path / "model"), device="cpu").predict(
        [[{"role": "user", "content": text}] for text in texts], show_progress_bar=False
    )
    np.testing.assert_allclose(theirs.reshape(scores.shape), scores, rtol=1e-4, atol=1e-5)


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


def test_sources_take_turns_and_what_was_read_of_each_is_known(tmp_path):
    text = encoder_of().text
    long, short = tmp_path / "long.txt", tmp_path / "short.txt"
    long.write_text("the river\n" * 50)
    short.write_text("a bank\na film\n")
    whole = read_corpus([str(long), str(short)], text, most_tokens=0)
    first = [text.tokenizer.decode(each, skip_special_tokens=True).strip() for each in whole.documents[:5]]
    assert first == ["the river", "a bank", "the river", "a film", "the river"]
    assert {source: read["texts"] for source, read in whole.by_source.items()} == {
        str(long): 50,
        str(short): 2,
    }
    assert sum(read["tokens"] for read in whole.by_source.values()) == whole.tokens
    part = read_corpus([str(long), str(short)], text, most_tokens=1)
    assert [read["texts"] for read in part.by_source.values()] == [1, 0]


def test_a_file_that_is_missing_is_told_before_any_is_read(tmp_path):
    (tmp_path / "broken.jsonl").write_text("{")
    sources = [str(tmp_path / name) for name in ("broken.jsonl", "missing.txt")]
    with pytest.raises(DataError, match=r"no such file.*missing\.txt"):
        read_corpus(sources, encoder_of().text, most_tokens=10)
    with pytest.raises(ConfigError, match="no task 'nothing'"):
        read_corpus([sources[0], "task:nothing"], encoder_of().text, most_tokens=10)


def test_parquet_is_read_by_its_column(tmp_path):
    Dataset.from_dict({"body": ["a bank", "the river"], "text": ["no", "no"]}).to_parquet(
        tmp_path / "rows.parquet"
    )
    text = encoder_of().text
    corpus = read_corpus([str(tmp_path / "rows.parquet")], text, most_tokens=0, column="body")
    read = [text.tokenizer.decode(each, skip_special_tokens=True).strip() for each in corpus.documents]
    assert read == ["a bank", "the river"]


def test_a_data_set_of_the_hub_is_streamed_and_what_is_broken_in_it_is_an_error(tmp_path):
    """A folder stands in for it: the same library opens both."""
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "a bank"}\n{"text": "the river"}\n')
    source, text = f"hub:{tmp_path}", encoder_of().text
    assert read_corpus([source], text, most_tokens=0).by_source[source]["texts"] == 2
    with pytest.raises(DataError, match="no text in the column 'body', the columns are text"):
        read_corpus([source], text, most_tokens=0, column="body")
    file.write_text('{"text": "a bank"}\n{"text": \n')
    with pytest.raises(DataError, match="data set can't be read"):
        read_corpus([source], text, most_tokens=0)


def test_some_documents_are_held_out():
    documents = [np.full(10, number, np.int32) for number in range(50)]
    learnt, judged = hold_out(documents, 0)
    assert len(judged) == 5 and len(learnt) == 45
    assert {int(each[0]) for each in learnt} | {int(each[0]) for each in judged} == set(range(50))
    assert [len(part) for part in hold_out(documents[:2], 0)] == [1, 1]
    with pytest.raises(DataError, match="takes two that differ.*the corpus has 1"):
        hold_out(documents[:1] * 2, 0)


def test_what_is_held_out_is_not_learnt_elsewhere():
    documents = [np.full(10, number % 5, np.int32) for number in range(50)]
    learnt, judged = hold_out(documents, 0)
    assert len(judged) == 1 and len(learnt) == 40
    assert int(judged[0][0]) not in {int(each[0]) for each in learnt}


def test_a_corpus_that_nothing_can_be_asked_of_is_refused(tmp_path):
    """Without BOS nothing stands before the only token of a text, which MNTP would ask."""
    encoder = encoder_of(text=TextConfig(max_length=16, bos=False))
    file = tmp_path / "texts.txt"
    file.write_text("a\ni\n" * 10)
    plan = AdaptationPlan("mntp", tokens=100, batch_tokens=50)
    with pytest.raises(DataError, match="takes two that differ.*the corpus has 0"):
        adapt(encoder, read_corpus([str(file)], encoder.text, most_tokens=0), plan, arguments(tmp_path))
    file.write_text("a\ni\nthe river\na bank\n")
    result = adapt(encoder, read_corpus([str(file)], encoder.text, most_tokens=0), plan, arguments(tmp_path))
    data = result.run["data"]
    assert (data["documents"], data["learnt_documents"], data["heldout_documents"]) == (4, 1, 1)


@pytest.mark.parametrize("batch_tokens", [90, 127, 200, 10_000])
def test_as_many_tokens_are_learnt_as_were_asked_for(tmp_path, batch_tokens):
    """To within a step, whether or not steps of `batch_tokens` go into the corpus."""
    encoder = encoder_of()
    plan = AdaptationPlan("mlm", tokens=1500, batch_tokens=batch_tokens, evaluations=1)
    corpus, args = corpus_of(encoder, tmp_path), arguments(tmp_path)
    items, _ = masked_documents(encoder, corpus, plan, args)
    run = adapt(encoder, corpus, plan, args).run
    assert run["data"]["learnt_tokens"] == items.tokens
    assert abs(run["tokens"] - plan.tokens) <= items.tokens / len(items) + corpus.longest
    assert run["plan"]["tokens"] == 1500 and run["plan"]["batch_tokens"] == batch_tokens
    assert AdaptationPlan(**run["plan"]) == plan


def test_a_single_step_learns(tmp_path):
    encoder = encoder_of()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    corpus, plan = corpus_of(encoder, tmp_path), AdaptationPlan("mlm", tokens=10, batch_tokens=100)
    with pytest.raises(ConfigError, match="warmup_steps is 1, and there are 1 steps"):
        adapt(encoder, corpus, plan, arguments(tmp_path, warmup_steps=1))
    result = adapt(encoder, corpus, plan, arguments(tmp_path))
    assert result.run["steps"] == 1
    assert any(not torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "head"}, "nothing to adapt"),
        ({"train_embeddings": True}, "embeddings stay"),
        ({"tune": "lora", "lora_dropout": 0.1}, "lora_dropout is 0.1"),
        ({"layout": "padded"}, "layout is 'padded', and adapting keeps the encoder's, packed"),
        ({"early_stopping_patience": 2}, "early_stopping_patience is 2"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2"),
        ({"head_learning_rate": 1e-3}, "head_learning_rate is 0.001"),
    ],
)
def test_options_that_leave_nothing_to_learn_are_refused(options, message, tmp_path):
    encoder = encoder_of()
    with pytest.raises(ConfigError, match=message):
        adapt(encoder, corpus_of(encoder, tmp_path), AdaptationPlan(), arguments(tmp_path, **options))
