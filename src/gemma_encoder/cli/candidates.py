"""`gemma-encoder candidates`: a collection and a first stage to lists with labels, in a file to train on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .collections import open_lists, read_runs
from .common import check_writable, note, refuse_changed, refuse_existing
from .options import CandidatesOptions, CollectionOptions


def run(options: CandidatesOptions, sources: CollectionOptions) -> None:
    """Write the lists and say what is in them."""
    if options.teachers:
        refuse_changed(options, ("missing_positives",), "--teachers say what is learnt")
    check_writable(options.output)
    refuse_existing(options.output, options.overwrite)
    from ..ranking.fusion import standard_score_fusion, teach
    from ..ranking.list_files import write_lists
    from ..ranking.lists import CandidateList

    teacher = standard_score_fusion(read_runs(options.teachers)) if options.teachers else None
    lists: Iterable[CandidateList]
    if teacher is None:
        lists = open_lists(
            sources, judged=True, missing_positives=options.missing_positives, with_positives_only=True
        )
    else:
        lists = (teach(each, teacher) for each in open_lists(sources, judged=False))
    counts = {"documents": 0, "relevant": 0}

    def counting() -> Iterator[CandidateList]:
        for each in lists:
            counts["documents"] += len(each)
            counts["relevant"] += sum(label > 0 for label in each.labels or ())
            yield each

    written = write_lists(options.output, counting())
    labels = (
        f"scores of {', '.join(options.teachers)}" if teacher else f"{counts['relevant']:,} of them relevant"
    )
    note(f"{written:,} lists, {counts['documents']:,} documents ({labels}) written to {options.output}")
