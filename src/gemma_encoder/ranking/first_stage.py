"""The first stage: BM25 over a corpus, on bm25s, with its index kept on disk."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..errors import ConfigError, DataError, first_line
from ..extras import library
from ..json_files import write_json
from .runs import Run, is_name, ranked

Method = Literal["lucene", "robertson", "atire"]
Document = tuple[str, str]
"""Document id and text."""

RECORD = "bm25.json"
IDS = "ids.txt"
FORMAT = 1  # of the folder


@dataclass(frozen=True)
class Bm25Options:
    """How BM25 scores, and what it takes for a word. `k1` and `b` are Anserini's for MS MARCO passages.

    Attributes:
        method: Which of bm25s's formulas (Kamphuis et al. 2020, ECIR): `lucene` (without Lucene's rounding of
            document lengths), `robertson` or `atire`.
        k1: How slowly more occurrences of a word stop counting.
        b: How much long documents are held back, 0 to 1.
        stop_words: Words left out: `english` (Lucene's 33), None, or words of your own in lower case.
        stemmer: A Snowball stemmer by name, such as `english` or `porter`; None leaves words as they are.
        token_pattern: What a word is, a regular expression over the text in lower case; by default two or
            more letters, digits or underscores.
    """

    method: Method = "lucene"
    k1: float = 0.9
    b: float = 0.4
    stop_words: Literal["english"] | tuple[str, ...] | None = "english"
    stemmer: str | None = "english"
    token_pattern: str = r"(?u)\b\w\w+\b"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"method is {self.method!r}", fix=f"use one of {', '.join(get_args(Method))}")
        if not 0 <= self.k1 < float("inf"):
            raise ConfigError(f"k1 is {self.k1}", fix="give a number from 0 up, such as 0.9")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"b is {self.b}", fix="give a number from 0 to 1, such as 0.4")
        if isinstance(self.stop_words, str) and self.stop_words != "english":
            raise ConfigError(
                f"stop_words is {self.stop_words!r}", fix="use english, None or a tuple of words"
            )
        try:
            groups = re.compile(self.token_pattern).groups
        except re.error as error:
            raise ConfigError(
                f"token_pattern is {self.token_pattern!r}: {error}", fix="give a regular expression"
            ) from None
        if groups > 1:
            raise ConfigError(
                f"token_pattern {self.token_pattern!r} has {groups} groups", fix="write (?:...) for groups"
            )


class Bm25Index:
    """An index on disk, read by memory mapping. `bm25_index` builds it.

    Attributes:
        options: What it was built with.
        fingerprint: SHA-256 of corpus, options and the versions of the libraries that cut texts into words.
        ids: Document ids, in the order of the corpus.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open an index.

        Raises:
            DataError: There is none in the folder, or it is not whole.
            ConfigError: bm25s or PyStemmer is not installed.
        """
        folder = Path(folder)
        record = _record(folder)
        if record is None:
            raise DataError(
                "there is no BM25 index, or only part of one",
                where=str(folder),
                fix="build it with bm25_index",
            )
        bm25s = library("bm25s", extra="ranking")
        data = folder / record["data"]
        try:
            stop_words = record["options"]["stop_words"]
            words = tuple(stop_words) if isinstance(stop_words, list) else stop_words
            self.options = Bm25Options(**record["options"] | {"stop_words": words})
            self.fingerprint: str = record["fingerprint"]
            self.ids = (data / IDS).read_text(encoding="utf-8").split("\n")[:-1]
            self._scorer = bm25s.BM25.load(data, mmap=True, show_progress=False)
            scores = self._scorer.scores
            whole = len(scores["data"]) == len(scores["indices"]) == scores["indptr"][-1]
            whole = whole and len(self._scorer.vocab_dict) == len(scores["indptr"]) - 1
            if not whole or not len(self.ids) == scores["num_docs"] == record["documents"]:
                raise ValueError("its files are not of one index")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the BM25 index can't be read: {first_line(error)}",
                where=str(folder),
                fix="build it again: bm25_index with rebuild=True",
            ) from error

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Mapping[str, str], top_k: int = 1000) -> Run:
        """The best documents for each query.

        Documents are in the order of `ranked`, and of equal ones at the end the last ids are left out. A
        document that scores 0 is never among them, and a query that finds none is left out.

        Args:
            queries: Query id to text.
            top_k: The most documents for a query.

        Returns:
            Query id to document id to score, the best first; scores are float32.

        Raises:
            ConfigError: `top_k` is below 1.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}", fix="give at least 1")
        run: Run = {}
        for query, words in zip(queries, _words(list(queries.values()), self.options), strict=True):
            found = self._best(words, top_k)
            if found:
                run[query] = found
        return run

    def _best(self, words: list[str], top_k: int) -> dict[str, float]:
        scores = self._scorer.get_scores_from_ids(self._scorer.get_tokens_ids(words))
        least = np.partition(scores, -top_k)[-top_k] if top_k < len(scores) else 0.0
        # All that are equal to the last one stay in until their ids decide.
        places = np.flatnonzero((scores >= least) & (scores > 0))
        found = {self.ids[place]: float(scores[place]) for place in places.tolist()}
        return dict(ranked(found)[:top_k])


def bm25_index(
    folder: str | Path,
    corpus: Iterable[Document],
    options: Bm25Options | None = None,
    *,
    rebuild: bool = False,
) -> Bm25Index:
    """Open the index in a folder, or build it there if there is none.

    The corpus is always gone through, to see whether the index is of the same one. An index is written
    beside the one it replaces, and the record that names it last: a build that was killed is no index, and
    leaves only a folder `data-*` that may be deleted.

    Args:
        folder: Where the index is or shall be.
        corpus: Document ids and texts. It is gone through twice if another index is replaced; an iterator is
            held in memory for that.
        options: How to score; those of the field by default.
        rebuild: Replace an index that is damaged, or of another corpus or other options.

    Raises:
        ConfigError: The index in the folder is of another corpus or other options, a stemmer has an unknown
            name, or bm25s or PyStemmer is not installed.
        DataError: An id is empty, occurs twice or has white space in it; a text is no string; no document has
            a word; or the index in the folder is damaged.
        OSError: The index can't be written.
    """
    folder, options = Path(folder), options or Bm25Options()
    _stemmer(options)
    record = _record(folder)
    if record is not None:
        if isinstance(corpus, Iterator):
            corpus = list(corpus)
        hashing = _Fingerprint(options)
        for _ in hashing.texts_of(corpus):
            pass
        same = record["fingerprint"] == hashing.value()
        if same:
            try:
                return Bm25Index(folder)
            except DataError:  # damaged
                if not rebuild:
                    raise
        elif not rebuild:
            raise ConfigError(
                "the index is of another corpus, other options or other versions of its libraries",
                where=str(folder),
                fix="give another folder, or rebuild=True to replace it",
            )
    _build(folder, corpus, options)
    if record is not None:
        shutil.rmtree(folder / record["data"], ignore_errors=True)
    return Bm25Index(folder)


def _build(folder: Path, corpus: Iterable[Document], options: Bm25Options) -> None:
    bm25s = library("bm25s", extra="ranking")
    hashing = _Fingerprint(options)
    tokens = _tokenized(hashing.texts_of(corpus), options, return_ids=True)
    if not tokens.vocab:
        raise DataError(
            f"none of the {len(hashing.ids)} documents has a word",
            fix="look at the corpus, and at token_pattern and stop_words",
        )
    scorer = bm25s.BM25(k1=options.k1, b=options.b, method=options.method)
    scorer.index(tokens, create_empty_token=False, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="data-", dir=folder))
    try:
        scorer.save(data, show_progress=False)
        (data / IDS).write_text("".join(f"{name}\n" for name in hashing.ids), encoding="utf-8", newline="\n")
        record = {
            "format": FORMAT,
            "fingerprint": hashing.value(),
            "documents": len(hashing.ids),
            "options": asdict(options),
            "data": data.name,
        }
        write_json(folder / RECORD, record)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(data, ignore_errors=True)
        raise


def _record(folder: Path) -> dict[str, Any] | None:
    """What the folder says of its index; None if there is no whole one of this format."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    named = isinstance(record.get("data"), str) and re.fullmatch(r"data-\w+", record["data"])
    return record if named and "fingerprint" in record and (folder / record["data"]).is_dir() else None


class _Fingerprint:
    """Hashes documents on their way, and sees that their ids are good."""

    def __init__(self, options: Bm25Options) -> None:
        library("bm25s", extra="ranking"), library("Stemmer", extra="ranking")
        made_by = {name: version(name) for name in ("bm25s", "PyStemmer")}
        self.hash = hashlib.sha256(json.dumps([FORMAT, asdict(options), made_by], sort_keys=True).encode())
        self.ids: dict[str, None] = {}

    def texts_of(self, corpus: Iterable[Document]) -> Iterator[str]:
        for number, (name, text) in enumerate(corpus, start=1):
            if not is_name(name) or name in self.ids:
                said = "occurs twice" if name in self.ids else "is empty or has white space in it"
                raise DataError(
                    f"document id {name!r} {said}",
                    where=f"document {number} of the corpus",
                    fix="give every document an id of its own, one word",
                )
            if not isinstance(text, str):
                raise DataError(
                    f"the text is {text!r}, no string", where=f"document {name!r}", fix="give a string"
                )
            self.ids[name] = None
            for part in (name.encode(), text.encode(errors="surrogatepass")):
                self.hash.update(len(part).to_bytes(8, "little") + part)
            yield text

    def value(self) -> str:
        return self.hash.hexdigest()


def _words(texts: list[str], options: Bm25Options) -> list[list[str]]:
    """The words of each text, as the index has them."""
    words: list[list[str]] = _tokenized(texts, options, return_ids=False)
    return words


def _tokenized(texts: Iterable[str], options: Bm25Options, *, return_ids: bool) -> Any:
    return library("bm25s", extra="ranking").tokenize(
        texts,
        token_pattern=options.token_pattern,
        stopwords=options.stop_words,
        stemmer=_stemmer(options),
        return_ids=return_ids,
        show_progress=False,
    )


def _stemmer(options: Bm25Options) -> Any:
    if options.stemmer is None:
        return None
    known = library("Stemmer", extra="ranking").algorithms()
    if options.stemmer not in known:
        raise ConfigError(f"stemmer is {options.stemmer!r}", fix=f"use None or one of {', '.join(known)}")
    return library("Stemmer", extra="ranking").Stemmer(options.stemmer)
