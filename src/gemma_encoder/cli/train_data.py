"""What `train` learns from: a task, a file of rows, or lists of documents."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .collections import open_list_files, open_lists
from .common import note
from .options import CollectionOptions, ListOptions, TrainingOptions, TrainOptions

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..tasks import TaskData


def rows_to_learn(options: TrainOptions, training: TrainingOptions, folder: Encoder | None) -> TaskData:
    """Rows of a task, or of a file; an adapted `folder` says what the file's labels are."""
    from ..tasks import FileTask, load_task

    rows, seed = options.max_train_rows, training.seed
    if options.task:
        data = load_task(options.task, options.data_dir, rows, seed, options.data_source)
        metrics = tuple(options.metrics or data.task.metrics)
        return replace(data, task=replace(data.task, metrics=metrics))
    known = folder.config if folder else None  # an adapted folder says what the labels are
    labels = options.labels or (known.labels if known else None)
    return FileTask(
        train=options.train_file or "",
        validation=options.validation_file,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=options.label_column,
        problem_type=options.problem_type or (known.problem_type if known else None),
        labels=tuple(labels) if labels else None,
        label_separator=options.label_separator,
        metrics=tuple(options.metrics) if options.metrics else None,
        validation_fraction=options.validation_fraction,
        max_train_rows=rows,
        seed=seed,
        skip_bad_rows=options.skip_bad_rows,
    ).load()


def lists_to_learn(
    options: TrainOptions, lists: ListOptions, sources: CollectionOptions, training: TrainingOptions
) -> TaskData:
    """Lists to train on, drawn anew in every epoch, and lists to judge by."""
    from ..ranking.collection import read_queries
    from ..ranking.learning import (
        TrainingLists,
        check_labels,
        hold_out,
        ranking_data,
        refuse_shared_queries,
    )
    from ..ranking.sampling import ListSampling

    sampling = ListSampling(lists.list_size or None, lists.list_sampling, lists.list_positives)
    train = (
        open_list_files(lists.train_lists)
        if lists.train_lists
        else open_lists(sources, judged=True, missing_positives="add", with_positives_only=True)
    )
    if idle := check_labels(train, lists.ranking_loss):
        note(idle)
    for file in lists.unseen_queries:
        refuse_shared_queries(train.queries(), read_queries(file).values(), f"kept unseen ({file})")
    if lists.validation_lists:
        judged = open_list_files(lists.validation_lists)
        refuse_shared_queries(train.queries(), judged.queries())
    else:
        train, judged = hold_out(train, options.validation_fraction, training.seed)
    drawn = train.sample(options.max_train_rows, training.seed)
    part = f"{len(drawn):,} of {len(train):,} lists drawn with seed {training.seed}"
    data = ranking_data(
        TrainingLists(drawn, sampling),
        judged,
        source=train.source,
        note=part if len(drawn) < len(train) else "",
        validation_source=judged.source,
    )
    metrics = tuple(options.metrics or data.task.metrics)
    return replace(data, task=replace(data.task, metrics=metrics))
