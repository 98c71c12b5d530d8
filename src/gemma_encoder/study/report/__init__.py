"""A study's report: one HTML page that needs no network, and the same as Markdown."""

from .writing import write_report

__all__ = ["write_report"]
