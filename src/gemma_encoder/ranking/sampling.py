"""Which documents of a list a training step sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError
from .lists import CandidateList

Sampling = Literal["positives", "uniform"]


@dataclass(frozen=True)
class ListSampling:
    """How many documents of a list are seen in a step, and which; drawn anew in every epoch.

    Attributes:
        size: Documents of a list; lists that have fewer are taken whole. None takes every list whole.
        kind: `positives` = `positives` relevant documents (label above 0) and for the rest others, as RankT5
            (arXiv 2210.10634) has one and 35; `uniform` = any documents, for a teacher's scores.
        positives: Relevant documents among them.

    Raises:
        ConfigError: A value is not allowed.
    """

    size: int | None = 36
    kind: Sampling = "positives"
    positives: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 2:
            raise ConfigError(
                f"size is {self.size}", fix="a list needs at least 2 documents, or null for all"
            )
        if self.kind not in get_args(Sampling):
            raise ConfigError(f"kind is {self.kind!r}", fix=f"use one of {', '.join(get_args(Sampling))}")
        if self.positives < 1 or (self.size is not None and self.positives >= self.size):
            raise ConfigError(f"positives is {self.positives}", fix="use at least 1, and less than size")

    def __str__(self) -> str:
        if self.size is None:
            return "all documents of each"
        which = f"{self.positives} relevant" if self.kind == "positives" else "any"
        return f"at most {self.size} documents of each, {which}"

    def draw(self, candidates: CandidateList, seed: int, epoch: int, number: int) -> CandidateList:
        """The documents of this epoch; the same for the same seed, epoch and number of the list.

        Where there are too few others the rest is filled with relevant documents, and the other way round.
        """
        if self.size is None or len(candidates) <= self.size:
            return candidates
        random = np.random.default_rng((seed, epoch, number))
        order = random.permutation(len(candidates)).tolist()
        if self.kind == "uniform" or candidates.labels is None:
            return candidates.take(order[: self.size])
        relevant = [place for place in order if candidates.labels[place] > 0]
        others = [place for place in order if candidates.labels[place] <= 0]
        count = max(min(self.positives, len(relevant)), self.size - len(others))
        return candidates.take(relevant[:count] + others[: self.size - count])
