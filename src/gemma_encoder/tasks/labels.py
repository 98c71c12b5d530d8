"""Labels as they stand in files: work out what kind they are, name the classes, turn them into numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import DataError, NoLabelsError
from ..losses import ProblemType
from .base import Task
from .tables import SURROGATE

MOST_INTEGER_CLASSES = 50  # more distinct whole numbers than this may as well be a scale
MOST_CLASSES = 1000
LARGEST_TARGET = 3.4028234e38  # of float32, in which models are trained
_INTEGER = re.compile(r"[+-]?\d{1,4000}\Z")  # of more digits Python makes no int

LocatedLabel = tuple[str, Any]  # where it stands ("train.csv, line 7"), value as read


def is_missing(value: Any) -> bool:
    """Whether there is no label here: null, NaN or an empty cell."""
    return _is_null(value) or (isinstance(value, str) and not value.strip())


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def infer_problem_type(labels: Sequence[LocatedLabel]) -> ProblemType:
    """Say what kind of labels these are.

    Lists are multi-label. Otherwise, numbers of which one has a fraction or an exponent (or is of a
    floating-point column) are regression. Whole numbers and strings are classes.

    Raises:
        DataError: It can't be told: numbers mixed with words, more than 50 whole numbers, more than 1,000
            words, nearly as many different words as rows, or dicts and bytes.
    """
    lists = [isinstance(value, list | tuple) for _, value in labels]
    if any(lists):
        if not all(lists):
            place = labels[lists.index(False)][0]
            raise DataError(
                "the label is not a list while others are", where=place, fix="write lists in every row"
            )
        return "multi_label_classification"
    numbers = [_number(value) for _, value in labels]
    distinct = {class_name(value) for _, value in labels}
    say = "say problem_type: single_label_classification or regression"
    if all(isinstance(number, int) for number in numbers):
        if len(distinct) > MOST_INTEGER_CLASSES:
            raise DataError(f"{len(distinct)} different whole numbers may be classes or a scale", fix=say)
        return "single_label_classification"
    if any(isinstance(number, float) for number in numbers):
        if None in numbers:
            place, value = labels[numbers.index(None)]
            raise DataError(
                f"the label {shown(value)} is not a number while others are",
                where=place,
                fix=f"mend it, or {say}",
            )
        return "regression"
    if len(distinct) > MOST_CLASSES or len(distinct) > max(20, len(labels) / 2):
        raise DataError(
            f"{len(distinct)} different labels in {len(labels)} rows look like no classes", fix=say
        )
    return "single_label_classification"


def class_name(value: Any) -> str:
    """A label's name: strings without white space around them, whole numbers without a fraction, true and
    false."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def shown(value: Any) -> str:
    """A label for an error: its repr, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse_no_label(value: Any, column: str, place: str) -> None:
    """Refuse a cell that is neither a label nor a list of them.

    Raises:
        DataError: It is a mapping or bytes, or no name that can be written to a file.
    """
    if any(isinstance(name, str) and SURROGATE.search(name) for name in _parts(value)):
        raise DataError(
            f"the label {shown(value)} holds half of a surrogate pair",
            where=place,
            fix="write the file as UTF-8",
        )
    if isinstance(value, dict | bytes):
        what = f"column {column!r} holds {'bytes' if isinstance(value, bytes) else 'a dict'}, not a label"
        raise DataError(
            f"{what}: {shown(value)}", where=place, fix="write a name, a number or a list of names"
        )


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def single_name(value: Any, place: str) -> str:
    """The class name in a cell of a single label.

    Raises:
        DataError: It is a list.
    """
    if isinstance(value, list | tuple):
        fix = "write one label a row, or say problem_type: multi_label_classification"
        raise DataError(f"the label {shown(value)} is a list", where=place, fix=fix)
    return class_name(value)


def order_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in their order: by number if all are whole numbers, by code point otherwise."""
    names = set(names)
    if all(_INTEGER.match(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def split_labels(value: Any, separator: str | None, place: str) -> list[str]:
    """The class names in a multi-label cell: a list, or text with a separator. An empty cell of text has
    none."""
    if isinstance(value, str) and separator:
        value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, list | tuple):
        fix = "write a list of labels, or say the label_separator"
        raise DataError(f"the label {shown(value)} is not a list", where=place, fix=fix)
    if any(is_missing(part) or isinstance(part, list | tuple | dict | bytes) for part in value):
        raise DataError(
            f"the labels {shown(value)} hold one that is empty or a list", where=place, fix="name each label"
        )
    names = [class_name(part) for part in value]
    if len(set(names)) != len(names):
        fix = "list the labels that apply, each once (a row of 0s and 1s is not read)"
        raise DataError(f"the labels {shown(value)} name one twice", where=place, fix=fix)
    return names


def encode_label(value: Any, task: Task, place: str) -> int | float | list[float]:
    """The label as the number (or numbers) that a loss and a metric take.

    Raises:
        NoLabelsError: It is missing.
        DataError: It is unknown to the task, or not a number where one is due; names the place and the label.
    """
    if task.problem_type == "multi_label_classification":
        if _is_null(value):
            raise DataError(
                "the label is missing", where=place, fix="write an empty list where no label applies"
            )
        chosen = [
            _class_index(name, task, place) for name in split_labels(value, task.label_separator, place)
        ]
        return [float(index in chosen) for index in range(len(task.labels))]
    if is_missing(value):
        raise NoLabelsError("the label is missing", where=place, fix="fill it in, or skip bad rows")
    if task.problem_type == "single_label_classification":
        return _class_index(single_name(value, place), task, place)
    number = _number(value)
    if number is None or number != number or number in (math.inf, -math.inf):
        raise DataError(
            f"the label {shown(value)} is not a number", where=place, fix="mend it, or skip bad rows"
        )
    if abs(number) > LARGEST_TARGET:
        raise DataError(
            f"the label {shown(value)} is too large for float32", where=place, fix="use a larger unit"
        )
    if (task.problem_type == "ranking" and number < 0) or (task.label_values == "index" and number == -1):
        raise _unlabelled(place)
    return float(number)


def _class_index(name: str, task: Task, place: str) -> int:
    if name in task.labels:
        return task.labels.index(name)
    if task.label_values == "index" and _INTEGER.match(name):
        if int(name) == -1:
            raise _unlabelled(place)
        if 0 <= int(name) < len(task.labels):
            return int(name)
    known = ", ".join(repr(label) for label in task.labels[:20]) + (", ..." if len(task.labels) > 20 else "")
    fix = "mend the label, or list it in labels" if task.label_values == "name" else "mend the label"
    raise DataError(f"the label {shown(name)} is not one of {known}", where=place, fix=fix)


def _unlabelled(place: str) -> NoLabelsError:
    fix = "score a split that has labels; -1 marks the rows of a test set"
    return NoLabelsError("the row has no label (-1)", where=place, fix=fix)


def _number(value: Any) -> int | float | None:
    """The number a value stands for; an int only if it is written as one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        try:
            return float(value)  # decimal.Decimal of a parquet column
        except (TypeError, ValueError):
            return None
    text = value.strip()
    if "_" in text:  # Python reads 1_000 as a number, no data file means it
        return None
    try:
        number = int(text) if _INTEGER.match(text) else float(text)
    except ValueError:
        return None
    return (
        number if isinstance(number, int) or math.isfinite(number) else None
    )  # "nan" and "infinity" are words
