"""The SuperGLUE tasks, as a table, and what makes rows of their records.

Columns, class names and class numbers are those of the Hugging Face export `aps/super_glue`; records of the
official JSONL files are read too (nested questions and spans, labels as words or true and false). Metrics are
SuperGLUE's own. Templates and marks are ours: the long part of a pair comes second, where texts are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from .base import CANDIDATE, GROUP, INDEX, Record, Task
from .glue import ENTAILMENT, NLI, SENTENCES, split_rows, suite_task

_COPA_QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}
_MULTIRC_TAGS = re.compile(r"<b>Sent \d+: </b>|<br>")


def copa_rows(record: Record) -> Iterator[Record]:
    """One row for each of the two choices; the premise goes with the question about it."""
    question = _COPA_QUESTIONS[record["question"]]
    for number, choice in enumerate((record["choice1"], record["choice2"])):
        yield {
            "premise": f"{record['premise'].strip()} {question}",
            "choice": choice,
            "label": _is_chosen(record.get("label", -1), number),
            GROUP: record["idx"],
            INDEX: record["idx"],
        }


def multirc_rows(record: Record) -> Iterator[Record]:
    """One row for each answer to each question; the answers to one question are a group."""
    if "passage" in record:  # the official layout: all questions about a passage in one record
        for question in record["passage"]["questions"]:
            for answer in question["answers"]:
                idx = {"paragraph": record["idx"], "question": question["idx"], "answer": answer["idx"]}
                row = {"paragraph": record["passage"]["text"], "question": question["question"]}
                yield from multirc_rows(
                    {**row, "answer": answer["text"], "label": answer.get("label", -1), "idx": idx}
                )
        return
    yield {
        "question": f"{record['question'].strip()}\nAnswer: {record['answer'].strip()}",
        "paragraph": " ".join(_MULTIRC_TAGS.sub(" ", record["paragraph"]).split()),
        "label": record["label"],
        GROUP: (record["idx"]["paragraph"], record["idx"]["question"]),
        INDEX: record["idx"],
    }


def record_rows(record: Record) -> Iterator[Record]:
    """One row for each entity, put in the place that the query leaves open; the entities of a query are a
    group, and those among its answers are right."""
    if "qas" in record:  # the official layout: spans in a passage, all queries about it in one record
        text = record["passage"]["text"]
        spans = record["passage"]["entities"]
        # A span's end is its last character.
        entities = list(dict.fromkeys(text[span["start"] : span["end"] + 1] for span in spans))
    else:
        text, entities = record["passage"], list(dict.fromkeys(record["entities"]))
    for query in _queries(record):
        for entity in entities:
            yield {
                "query": query["query"].replace("@placeholder", entity),
                "passage": " ".join(part.strip() for part in text.split("@highlight")),
                "label": float(entity in query["answers"]) if query["answers"] else -1,
                GROUP: _group(query["idx"]),
                CANDIDATE: entity,
                INDEX: query["idx"],
            }


def wic_rows(record: Record) -> Iterator[Record]:
    """The two uses of the word, each between asterisks."""
    marked = {
        f"sentence{n}": _mark(record[f"sentence{n}"], int(record[f"start{n}"]), int(record[f"end{n}"]), "*")
        for n in (1, 2)
    }
    yield {**marked, "label": record.get("label", -1), INDEX: record.get("idx")}


def wsc_rows(record: Record) -> Iterator[Record]:
    """The noun phrase between square brackets, the pronoun between asterisks; then the noun phrase again."""
    spans = record.get("target", record)
    text = record["text"]
    noun = _span(text, spans["span1_text"], int(spans["span1_index"]))
    pronoun = _span(text, spans["span2_text"], int(spans["span2_index"]))
    # The later one first, so that the place of the other stays right.
    for (start, end), marks in sorted(((noun, "[]"), (pronoun, "*")), reverse=True):
        text = _mark(text, start, end, marks)
    noun_phrase, label = spans["span1_text"], record.get("label", -1)
    yield {"text": text, "span1_text": noun_phrase, "label": label, INDEX: record.get("idx")}


def axg_rows(record: Record) -> Iterator[Record]:
    """The row as it is; it forms a group with the one that differs in the pronoun's gender only."""
    yield {**record, GROUP: record.get("pair_id", int(record["idx"]) // 2)}


def _is_chosen(label: Any, number: int) -> float:
    """1.0 for the choice that the label names, -1 where there is no label."""
    return -1 if int(label) == -1 else float(int(label) == number)


def _queries(record: Record) -> Iterator[Record]:
    """The queries of a ReCoRD record with their answers (none in a test set)."""
    if "qas" not in record:
        yield {"query": record["query"], "answers": set(record["answers"]), "idx": record["idx"]}
        return
    for query in record["qas"]:
        answers = {answer["text"] for answer in query.get("answers", ())}
        yield {"query": query["query"], "answers": answers, "idx": query["idx"]}


def _group(idx: Any) -> Any:
    """What the rows of a query are told by: the export's passage and query, or the official number."""
    return tuple(idx.values()) if isinstance(idx, dict) else idx


def _mark(text: str, start: int, end: int, marks: str) -> str:
    """Put `text[start:end]` between marks: the same one twice, or an opening and a closing one."""
    return f"{text[:start]}{marks[0]}{text[start:end]}{marks[-1]}{text[end:]}"


def _span(text: str, span: str, word: int) -> tuple[int, int]:
    """Where a span begins and ends. `word` counts the words ahead of it; a few official ones are off, or
    leave out punctuation, so it is the nearest place where the span's words stand."""
    pattern = r"\s+".join(re.escape(part) for part in span.split())
    places = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]
    if not places:
        raise ValueError(f"the span {span!r} is not in the text {text!r}")
    return min(places, key=lambda place: abs(len(text[: place[0]].split()) - word))


_superglue = partial(suite_task, "aps/super_glue")

ENTAILED = ("entailment", "not_entailment")
YES = ("false", "true")
# The two diagnostics are answered by the model of RTE.
DIAGNOSTIC: dict[str, Any] = {"trained_on": "superglue_rte", "validation_split": "test"}

SUPERGLUE: dict[str, Task] = {
    task.name: task
    for task in (
        _superglue(
            "boolq",
            ("question", "passage"),
            YES,
            ("accuracy",),
            split_rows(9427, 3270, 3245),
            "BoolQ",
            "Question: {text}\nPassage: {text_pair}",
        ),
        _superglue(
            "cb",
            NLI,
            ("entailment", "contradiction", "neutral"),
            ("accuracy", "f1_macro"),
            split_rows(250, 56, 250),
            "CB",
            ENTAILMENT,
        ),
        _superglue(
            "copa",
            ("premise", "choice"),
            ("score",),
            ("accuracy",),
            split_rows(400, 100, 500),
            "COPA",
            "{text}\nAnswer: {text_pair}",
            problem_type="ranking",
            flatten=copa_rows,
        ),
        _superglue(
            "multirc",
            ("question", "paragraph"),
            YES,
            ("f1", "exact_match"),
            split_rows(27243, 4848, 9693),
            "MultiRC",
            "Question: {text}\nPassage: {text_pair}",
            flatten=multirc_rows,
        ),
        _superglue(
            "record",
            ("query", "passage"),
            ("score",),
            ("answer_f1", "answer_exact_match"),
            split_rows(100730, 10000, 10000),
            "ReCoRD",
            "Statement: {text}\nPassage: {text_pair}",
            problem_type="ranking",
            flatten=record_rows,
        ),
        _superglue(
            "superglue_rte", NLI, ENTAILED, ("accuracy",), split_rows(2490, 277, 3000), "RTE", ENTAILMENT
        ),
        _superglue(
            "wic",
            ("sentence1", "sentence2"),
            YES,
            ("accuracy",),
            split_rows(5428, 638, 1400),
            "WiC",
            SENTENCES,
            flatten=wic_rows,
        ),
        _superglue(
            "wsc",
            ("text", "span1_text"),
            YES,
            ("accuracy",),
            split_rows(554, 104, 146),
            "WSC",
            "{text}\nThe pronoun between asterisks means: {text_pair}",
            flatten=wsc_rows,
        ),
        _superglue(
            "axb",
            NLI,
            ENTAILED,
            ("matthews",),
            {"test": 1104},
            "AX-b",
            ENTAILMENT,
            aliases={"sentence1": "premise", "sentence2": "hypothesis"},
            **DIAGNOSTIC,
        ),
        _superglue(
            "axg",
            NLI,
            ENTAILED,
            ("accuracy", "gender_parity"),
            {"test": 356},
            "AX-g",
            ENTAILMENT,
            flatten=axg_rows,
            **DIAGNOSTIC,
        ),
    )
}
