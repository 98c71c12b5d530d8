"""`gemma-encoder rank`: queries with candidates in, a TREC run out, as a stream that survives a kill."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError
from .collections import is_given, open_list_files, open_lists, refuse_collection
from .common import Progress, check_writable, counted, load_encoder, note, print_facts, refuse_existing
from .options import CollectionOptions, ComputeOptions, RankOptions
from .plan import text_plan, without_room

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..ranking.growing_run import GrowingRun
    from ..ranking.lists import CandidateList

BUFFER_ROWS = 512  # pairs until the first query is written, on a CPU about half a minute
TOLERANCES = {"torch.float32": 1e-3, "torch.bfloat16": 0.1}
"""By how much a query's scores differ when it is scored again in other passes; see `GrowingRun.check`."""


def run(options: RankOptions, sources: CollectionOptions, compute: ComputeOptions) -> None:
    """Score the candidates of every query."""
    _check(options, sources)
    encoder = load_encoder(
        options.model, compute.dtype, compute.device, compile_layers=compute.compile_layers
    )
    from ..ranking.growing_run import GrowingRun
    from ..ranking.reranking import check_encoder

    check_encoder(encoder)
    lists: Sequence[CandidateList]
    lists = open_list_files([options.lists]) if options.lists else open_lists(sources, judged=False)
    if options.dry_run:
        pairs = ((each.query, text) for each in lists for text in dict.fromkeys(each.documents))
        facts = {
            "model": options.model,
            "queries": len(lists),
            **text_plan(encoder, pairs, compute.max_tokens),
            "output": options.output,
        }
        print_facts("Would rank (dry run, nothing written):", facts)
        return
    growing = GrowingRun(options.output, options.tag or _tag(options.model), resume=options.resume)
    _rank(options, compute, encoder, lists, growing, growing.agree(lists))


def _check(options: RankOptions, sources: CollectionOptions) -> None:
    if options.lists:
        refuse_collection(sources, "--lists brings queries and candidates")
    elif not is_given(sources):
        raise ConfigError(
            "Nothing to rank", fix="give --collection with --run or --first_stage bm25, or --lists FILE"
        )
    if options.resume and options.overwrite:
        raise ConfigError("--resume keeps the output and --overwrite replaces it", fix="give one of them")
    check_writable(options.output)
    refuse_existing(options.output, options.overwrite)
    part = Path(f"{options.output}.part")
    if part.exists() and not (options.resume or options.overwrite or options.dry_run):
        raise ConfigError(
            f"An interrupted run left {part}", fix="add --resume to go on, or --overwrite to start again"
        )


def _tag(model: str) -> str:
    return re.sub(r"\s+", "-", Path(model).resolve().name) or "gemma-encoder"


def _rank(
    options: RankOptions,
    compute: ComputeOptions,
    encoder: Encoder,
    lists: Sequence[CandidateList],
    growing: GrowingRun,
    done: int,
) -> None:
    from ..ranking.reranking import rerank
    from ..ranking.runs import is_name

    if done:
        note(f"resuming after {done:,} of {len(lists):,} queries")
    again = list(growing.resumed).index(growing.telling) if done else None  # is it the same model?
    drawn: set[str] = set(growing.resumed)
    bad: list[DataError] = []

    def candidates() -> Iterator[CandidateList]:
        for place in chain(() if again is None else (again,), range(done, len(lists))):
            each = lists[place]
            names = (each.query_id, *each.document_ids)
            unfit = next((name for name in names if not is_name(name)), None)
            if unfit is not None or (place >= done and each.query_id in drawn):
                what = "comes twice" if unfit is None else f"or one of its documents has the id {unfit!r}"
                fix = "give every query and document an id of its own, one word"
                bad.append(DataError(f"query {each.query_id!r} {what}", fix=fix))
                return  # raised when the queries before it are scored and written
            drawn.add(each.query_id)
            yield each

    documents = truncated = no_room = 0
    progress = Progress("pair", 0)
    with growing:
        try:
            found = rerank(encoder, candidates(), max_tokens=compute.max_tokens, buffer_rows=BUFFER_ROWS)
            for number, scored in enumerate(found):
                if done and not number:
                    growing.check(scored, TOLERANCES[str(encoder.dtype)])
                    continue
                scores = zip(scored.candidates.document_ids, scored.scores.tolist(), strict=True)
                growing.add(scored.candidates.query_id, dict(scores))
                documents += len(scored.scores)
                truncated += scored.truncated
                no_room += scored.no_room
                progress.show(documents)
            if bad:
                raise bad[0]
        except BaseException:
            progress.close()
            if growing.written:
                note(f"{growing.written:,} queries are in {growing.part}; go on with --resume")
            raise
        progress.close()
        growing.finish()
    before = sum(map(len, growing.resumed.values()))
    ranked = f"{growing.written - done:,} queries, {counted(documents, 'document')} ranked"
    if done:
        ranked += f", and {done:,} queries, {counted(before, 'document')} before the interruption"
    note(f"{ranked}; written to {options.output}")
    if truncated:
        limit = encoder.config.text.max_length
        note(f"{counted(truncated, 'text')} longer than {limit} tokens cut")
    if no_room:
        note(without_room(no_room))
    _say_next(options)


def _say_next(options: RankOptions) -> None:
    words = ["gemma-encoder", "evaluate", "--run", options.output, "--qrels", "FILE"]
    note(f"Next: {shlex.join(words)}")
