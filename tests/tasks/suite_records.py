"""One made-up record of every task, as the hub exports have it and as the official files have it."""

from __future__ import annotations

from typing import Any

NLI = {"premise": "It rained all night.", "hypothesis": "The street is wet."}
PAIR = {"sentence1": "It rained all night.", "sentence2": "The street is wet."}
WIC = {
    "word": "bank",
    "sentence1": "We sat on the bank of the river.",
    "sentence2": "Banks lend money.",
    "start1": 14,
    "end1": 18,
    "start2": 0,
    "end2": 5,
    "idx": 0,
}
WSC_SPANS = {"span1_index": 0, "span1_text": "Anna", "span2_index": 5, "span2_text": "she"}
WSC_TEXT = "Anna thanked Mary because, when she was ill, Mary had cooked."  # "because," is one word
PASSAGE = "Ada Lovelace met Charles Babbage in London.\n@highlight\nBabbage showed her his engine"
QUERY = "@placeholder wrote the first program for it."

HUB: dict[str, dict[str, Any]] = {
    "cola": {"sentence": "The boy the ball kicked.", "label": 0, "idx": 0},
    "sst2": {"sentence": "a warm , funny film ", "label": 1, "idx": 0},
    "mrpc": {**PAIR, "label": 0, "idx": 0},
    "stsb": {**PAIR, "label": 2.6, "idx": 0},
    "qqp": {
        "question1": "Why is the sky blue?",
        "question2": "What makes the sky blue?",
        "label": 1,
        "idx": 0,
    },
    "mnli": {**NLI, "label": 0, "idx": 0},
    "qnli": {"question": "What is wet?", "sentence": "The street is wet.", "label": 0, "idx": 0},
    "rte": {**PAIR, "label": 0, "idx": 0},
    "wnli": {**PAIR, "label": 1, "idx": 0},
    "ax": {**NLI, "label": 0, "idx": 0},
    "boolq": {"question": "is the street wet", "passage": "It rained all night.", "label": 1, "idx": 0},
    "cb": {**NLI, "label": 2, "idx": 0},
    "copa": {
        "premise": "The street was wet.",
        "choice1": "It had rained.",
        "choice2": "The sun had shone.",
        "question": "cause",
        "label": 0,
        "idx": 0,
    },
    "multirc": {
        "paragraph": "It rained all night. The street was wet.",
        "question": "What was wet?",
        "answer": "The street",
        "label": 1,
        "idx": {"paragraph": 4, "question": 2, "answer": 0},
    },
    "record": {
        "passage": PASSAGE,
        "query": QUERY,
        "entities": ["Ada Lovelace", "Charles Babbage", "Babbage"],
        "answers": ["Ada Lovelace"],
        "idx": {"passage": 0, "query": 0},
    },
    "superglue_rte": {**NLI, "label": 0, "idx": 0},
    "wic": {**WIC, "label": 0},
    "wsc": {"text": WSC_TEXT, **WSC_SPANS, "label": 1, "idx": 0},
    "axb": {**PAIR, "label": 0, "idx": 0},
    "axg": {**NLI, "label": 1, "idx": 0},
}

OFFICIAL: dict[str, dict[str, Any]] = {
    "mrpc": {
        "Quality": "0",
        "#1 ID": "1",
        "#2 ID": "2",
        "#1 String": PAIR["sentence1"],
        "#2 String": PAIR["sentence2"],
    },
    "stsb": {"index": "0", "genre": "main-news", **PAIR, "score": "2.600"},
    "qqp": {
        "id": "0",
        "question1": HUB["qqp"]["question1"],
        "question2": HUB["qqp"]["question2"],
        "is_duplicate": "1",
    },
    "mnli": {"index": "0", "genre": "fiction", **PAIR, "label1": "neutral", "gold_label": "entailment"},
    "qnli": {**HUB["qnli"], "label": "entailment"},
    "rte": {"index": "0", **PAIR, "label": "entailment"},
    "boolq": {**HUB["boolq"], "label": True},
    "cb": {**NLI, "label": "neutral", "idx": 0},
    "multirc": {
        "idx": 4,
        "passage": {
            "text": "<b>Sent 1: </b>It rained all night.<br><b>Sent 2: </b>The street was wet.<br>",
            "questions": [
                {
                    "idx": 2,
                    "question": "What was wet?",
                    "answers": [{"idx": 0, "text": "The street", "label": 1}],
                }
            ],
        },
    },
    "record": {
        "idx": 0,
        "passage": {
            "text": PASSAGE,
            "entities": [{"start": 0, "end": 11}, {"start": 17, "end": 31}, {"start": 55, "end": 61}],
        },
        "qas": [{"idx": 0, "query": QUERY, "answers": [{"start": 0, "end": 11, "text": "Ada Lovelace"}]}],
    },
    "superglue_rte": {**NLI, "label": "entailment", "idx": 0},
    "wic": {**WIC, "label": False, "version": 1.1},
    "wsc": {"text": WSC_TEXT, "target": WSC_SPANS, "label": True, "idx": 0},
    "axb": {**PAIR, "label": "entailment", "logic": "Negation", "idx": 0},
    "axg": {**NLI, "label": "not_entailment", "pair_id": 551, "idx": 0},
}
