"""The errors a user can mend. Every one says what happened, where, and how to mend it."""

from __future__ import annotations


class GemmaEncoderError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: What happened, with the offending value.
        where: File, row, field or layer, when there is one.
        fix: What the user can do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        message = what.rstrip(".")
        if where:
            message += f" [{where}]"
        if fix:
            message += f". Mend: {fix.rstrip('.')}"
        super().__init__(message + ".")


class ConfigError(GemmaEncoderError):
    """An option has a value that is not allowed."""


class DecoderError(GemmaEncoderError):
    """A decoder can't be found or loaded."""


class AttentionError(GemmaEncoderError):
    """A backbone does not attend as its policy says, or no back end can compute it."""


class CheckpointError(GemmaEncoderError):
    """A model folder can't be written, or is not whole."""


class DataError(GemmaEncoderError):
    """A data file, a row of it or a column is not as expected."""


class NoSplitError(DataError):
    """A split of a built-in task is not where its data are looked for."""


class NoLabelsError(DataError):
    """A row has no label, or none of a file's rows has one, as in test sets whose labels are hidden."""


class TrainingError(GemmaEncoderError):
    """Training can't go on."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, or the kind of error if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
