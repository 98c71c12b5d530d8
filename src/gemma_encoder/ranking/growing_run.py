"""A run that is written query by query, so that a kill loses nothing that was ranked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import DataError
from ..whole_files import whole_file
from .lists import CandidateList
from .reranking import ScoredList
from .runs import Run, check_tag, read_run, run_lines, write_run


class GrowingRun:
    """Writes to `PATH.part`, which becomes `PATH` when all queries are in it.

    Use it as a context manager.

    Args:
        path: The run to write; packed at the end if it ends in `.gz`.
        tag: Name of the run.
        resume: Keep the whole queries of a part that is there, and go on behind them; otherwise it is
            replaced.

    Attributes:
        resumed: Queries that the part had, in its order, with the scores of their documents.
        written: Queries in the part.

    Raises:
        ConfigError: The tag is empty or has white space in it.
        DataError: The part can't be read.
    """

    def __init__(self, path: str | Path, tag: str, *, resume: bool = False) -> None:
        check_tag(tag)
        self.path, self.tag = Path(path), tag
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.resumed: Run = {}
        if resume and self.part.is_file():
            self._drop_broken_line()
            self.resumed = read_run(self.part).run if self.part.stat().st_size else {}
        self.written = len(self.resumed)

    def __enter__(self) -> GrowingRun:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("ab" if self.resumed else "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def agree(self, lists: Sequence[CandidateList]) -> int:
        """See that what the part has are the first of these lists, and drop a query that is not whole.

        Returns:
            How many of the lists it has.

        Raises:
            DataError: It has others.
        """
        for number, (query, scores) in enumerate(list(self.resumed.items())):
            candidates = lists[number] if number < len(lists) else None
            documents = set(candidates.document_ids) if candidates else set()
            same = candidates is not None and candidates.query_id == query
            if same and scores.keys() == documents:
                continue
            if same and number == len(self.resumed) - 1 and scores.keys() < documents:
                del self.resumed[query]
                write_run(self.part, self.resumed, self.tag)
                break
            raise DataError(
                f"its query {number + 1} is {query!r} with {len(scores)} documents, of other candidates",
                where=str(self.part),
                fix="give the candidates of the run that is resumed, or use --overwrite",
            )
        self.written = len(self.resumed)
        return self.written

    @property
    def telling(self) -> str:
        """The query of the part whose scores tell best whether another model wrote them: the last one that is
        spread out, else the one with the largest spread.

        Raises:
            ValueError: The part has no query.
        """
        spreads = {query: _spread([*scores.values()]) for query, scores in self.resumed.items()}
        for query, scores in reversed(self.resumed.items()):
            if spreads[query] >= _scale([*scores.values()]):
                return query
        return max(spreads, key=spreads.__getitem__)

    def check(self, scored: ScoredList, tolerance: float) -> None:
        """See that a query of the part has the scores that the model gives it now.

        Args:
            scored: The query, scored again.
            tolerance: Largest difference, as a share of the spread of the query's scores; where they are
                hardly spread out (one document, equal texts), of a tenth of their size.

        Raises:
            DataError: It has others.
        """
        written = self.resumed[scored.candidates.query_id]
        before = np.array([written[name] for name in scored.candidates.document_ids])
        if float(np.abs(before - scored.scores).max()) > tolerance * _scale(scored.scores):
            raise DataError(
                f"it was written by another model or with other options: query "
                f"{scored.candidates.query_id!r} has other scores",
                where=str(self.part),
                fix="give the model and options of the run that is resumed, or use --overwrite",
            )

    def add(self, query: str, scores: Mapping[str, float]) -> None:
        """Write a query's documents, best first.

        Raises:
            DataError: A score is not finite, or an id can't stand in a column.
        """
        self._file.write(b"".join(run_lines(query, scores, self.tag)))
        self._file.flush()
        self.written += 1

    def finish(self) -> Path:
        """All queries are in it: give it its name."""
        self._file.close()
        if self.path.suffix.lower() == ".gz":
            with self.part.open("rb") as part, whole_file(self.path) as packed:
                shutil.copyfileobj(part, packed)
            self.part.unlink()
        else:
            os.replace(self.part, self.path)
        return self.path

    def _drop_broken_line(self) -> None:
        content = self.part.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.part.open("r+b") as file:
                file.truncate(whole)


def _spread(scores: Sequence[float] | np.ndarray) -> float:
    return float(np.ptp(scores))


def _scale(scores: Sequence[float] | np.ndarray) -> float:
    """What differences of a query's scores are measured by.

    Rounding is relative to the scores, or to the sums of about 1 that they come from, however near to one
    another they are.
    """
    return max(_spread(scores), 0.1 * max(float(np.abs(scores).max()), 1.0))
