"""Texts and pairs of texts to token ids, in the one way that training, scoring and serving share.

A row is written out by the template as one string, with BOS and EOS spelled out, and tokenised without
anything added. sentence-transformers does the same from the `chat_template.jinja` that `chat_template`
writes, so a served score is the trained one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from .errors import ConfigError, DataError

Row = str | tuple[str, str]

TEXT_SLOT, PAIR_SLOT = "{text}", "{text_pair}"
_FILLERS = ("0", "1 2 3 4")  # the two that sentence-transformers finds a suffix with


@dataclass(frozen=True)
class TextConfig:
    """How a row becomes token ids; saved with the model.

    Attributes:
        template: Literal text around `{text}`, and for pairs also `{text_pair}`, once each. Other braces are
            literal.
        max_length: Most tokens of a row, BOS and EOS included. What is longer loses the end of its last slot.
        bos: Start with the tokenizer's BOS, if it has one.
        eos: End with the tokenizer's EOS, if it has one. Never truncated.

    Raises:
        ConfigError: A value is not allowed.
    """

    template: str = TEXT_SLOT
    max_length: int = 512
    bos: bool = True
    eos: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("template", str), ("bos", bool), ("eos", bool)):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"text.{name} is {value!r}", fix=f"give a {kind.__name__}")
        if self.template.count(TEXT_SLOT) != 1 or self.template.count(PAIR_SLOT) > 1:
            raise ConfigError(
                f"text.template is {self.template!r}",
                fix=f"write {TEXT_SLOT} once, and for pairs {PAIR_SLOT} once behind it",
            )
        if 0 <= self.template.find(PAIR_SLOT) < self.template.find(TEXT_SLOT):
            raise ConfigError(
                f"text.template is {self.template!r}",
                fix=f"put {PAIR_SLOT} behind {TEXT_SLOT}: truncation cuts the end",
            )
        if not is_text(self.template):
            raise ConfigError(
                f"text.template is {self.template!r}", fix="leave out lone surrogates, they are no characters"
            )
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise ConfigError(
                f"text.max_length is {self.max_length!r}", fix="use a whole number of at least 1"
            )

    @property
    def is_pair(self) -> bool:
        """Whether a row is a pair of texts."""
        return PAIR_SLOT in self.template

    @property
    def pieces(self) -> tuple[str, ...]:
        """The literal text before, between and behind the slots."""
        head, _, rest = self.template.partition(TEXT_SLOT)
        return (head, *rest.split(PAIR_SLOT)) if self.is_pair else (head, rest)

    def filled(self, texts: Sequence[str]) -> str:
        """The template with a text in each slot."""
        first, *others = self.pieces
        return first + "".join(text + piece for text, piece in zip(texts, others, strict=True))


@dataclass(frozen=True)
class TokenizedBatch:
    """Token ids of rows, not padded.

    Attributes:
        input_ids: Token ids of each row, at least one.
        truncated: Whether each row was cut to the maximal length.
        no_room: Whether so much was cut off a pair that nothing of its second text is left: whatever it was,
            the row is the same.
    """

    input_ids: list[list[int]]
    truncated: list[bool]
    no_room: list[bool]


class TextTokenizer:
    """Turns rows into token ids by a `TextConfig`.

    Args:
        tokenizer: The decoder's tokenizer.
        config: Template, maximal length and special tokens.

    Attributes:
        remembered: Token ids of strings that need not be tokenised again, if they are to be remembered. May
            be shared with others that have an equal tokenizer.

    Raises:
        ConfigError: The maximal length leaves no room for a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TextConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.remembered: dict[str, list[int]] | None = None
        self.suffix = self._common_suffix()
        empty = self._ids([self.render(("", "") if config.is_pair else "")])[0]
        fixed = max(len(empty), len(self.suffix))
        if config.max_length <= fixed:
            raise ConfigError(
                f"text.max_length is {config.max_length}; template and special tokens alone take {fixed}",
                fix="raise text.max_length",
            )

    def render(self, row: Row) -> str:
        """The string a row is tokenised from, special tokens spelled out.

        Raises:
            DataError: A single text where the template wants a pair, the other way round, or no text at all.
        """
        slots = tuple(row) if isinstance(row, tuple | list) else (row,)
        pieces = self.config.pieces
        if not all(isinstance(slot, str) and is_text(slot) for slot in slots):
            raise DataError(
                f"A row is {_shorten(repr(row))}, which is no text", fix="give strings of valid Unicode"
            )
        if len(slots) != len(pieces) - 1:
            wanted = "a pair of texts" if self.config.is_pair else "one text"
            what = f"A row has {len(slots)} text(s), {_shorten(repr(row))}"
            raise DataError(what, fix=f"this model takes {wanted} per row")
        return self._bos + self.config.filled(slots) + self._eos

    def encode(self, rows: Sequence[Row]) -> TokenizedBatch:
        """Token ids of rows: texts, or pairs if the template has two slots.

        A literal special token inside a text (`<eos>`) is read as that token, as in sentence-transformers.

        Args:
            rows: `N` texts or pairs.

        Raises:
            DataError: A single text where the template wants a pair, the other way round, or no text at all;
                or `rows` is one row and not a list of them.
        """
        check_rows(rows, self.config)
        rows = list(rows)
        if not rows:
            return TokenizedBatch([], [], [])
        ids = self._ids([self.render(row) for row in rows])
        limit = self.config.max_length
        truncated = [len(tokens) > limit for tokens in ids]
        # A row of just the limit gets the suffix too: sentence-transformers can't tell it from a longer one.
        # It changes something only where the tail merged with the text into other tokens.
        kept = limit - len(self.suffix)
        no_room = self._no_room(rows, [tokens[:kept] if len(tokens) > limit else None for tokens in ids])
        ids = [tokens[:kept] + self.suffix if len(tokens) >= limit else tokens for tokens in ids]
        return TokenizedBatch([tokens or [self._placeholder] for tokens in ids], truncated, no_room)

    def _no_room(self, rows: Sequence[Row], kept: Sequence[list[int] | None]) -> list[bool]:
        """Whether what was kept of a row that was cut ends before its second text begins."""
        if not self.config.is_pair or not any(kept):
            return [False] * len(rows)
        head, middle, _ = self.config.pieces
        firsts = list(dict.fromkeys(row[0] for row, tokens in zip(rows, kept, strict=True) if tokens))
        before = dict(
            zip(firsts, self._ids([f"{self._bos}{head}{text}{middle}" for text in firsts]), strict=True)
        )
        return [
            tokens is not None and before[row[0]][: len(tokens)] == tokens
            for row, tokens in zip(rows, kept, strict=True)
        ]

    def chat_template(self) -> str:
        """The same template in Jinja, as sentence-transformers renders rows.

        A pair comes as two messages (roles `query` and `document`), a single text as one; a prompt comes as a
        `system` message and goes in front of the text. Another number of texts raises, where Jinja by itself
        would leave a slot empty.
        """
        pieces = [*self.config.pieces]
        pieces[0] = self._bos + pieces[0]
        pieces[-1] += self._eos
        slots = ["prompt ~ texts[0]", "texts[1]"][: len(pieces) - 1]
        # One expression with every piece quoted, so that no Jinja option can trim white space. JSON strings
        # are Jinja strings if characters stand for themselves: Jinja does not join escaped surrogate pairs.
        parts = [json.dumps(pieces[0], ensure_ascii=False)]
        for slot, piece in zip(slots, pieces[1:], strict=True):
            parts += [slot, json.dumps(piece, ensure_ascii=False)]
        wanted = "a pair of texts" if self.config.is_pair else "one text"
        contents = "attr('role', 'equalto', 'system') | map(attribute='content')"
        return (
            f"{{%- set texts = messages | reject{contents} | list -%}}\n"
            f"{{%- set prompt = messages | select{contents} | join -%}}\n"
            f"{{%- if texts | length != {len(slots)} -%}}\n"
            f"{{{{ raise_exception('This model takes {wanted}') }}}}\n"
            "{%- endif -%}\n"
            "{{ " + " ~ ".join(parts) + " }}"
        )

    @property
    def _bos(self) -> str:
        return (self.tokenizer.bos_token or "") if self.config.bos else ""

    @property
    def _eos(self) -> str:
        return (self.tokenizer.eos_token or "") if self.config.eos else ""

    @property
    def _placeholder(self) -> int:
        """What an empty text is, where the policy adds no special token."""
        known = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        return next((token for token in known if isinstance(token, int)), 0)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self.remembered is None:
            return self._computed_ids(texts)
        if new := [text for text in dict.fromkeys(texts) if text not in self.remembered]:
            self.remembered.update(zip(new, self._computed_ids(new), strict=True))
        return [self.remembered[text] for text in texts]

    def _computed_ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def _common_suffix(self) -> list[int]:
        """Tokens that end every row whatever its text: the template's tail and EOS.

        Found as sentence-transformers finds them, by the longest common end of two renderings; so also where
        the tail's first characters merge with the text into one token. Empty if one rendering ends the other,
        as with a tokenizer that has no digits: then what is common may be text.
        """
        rows = [(filler, filler) if self.config.is_pair else filler for filler in _FILLERS]
        first, second = self._ids([self.render(row) for row in rows])
        same = takewhile(
            lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False)
        )
        suffix = [token for token, _ in same][::-1]
        return suffix if len(suffix) < min(len(first), len(second)) else []


def check_rows(rows: object, config: TextConfig) -> None:
    """Refuse what would be read as rows but is one row, and what holds no rows.

    A tuple of two strings is a pair where the template wants pairs, and two texts where it does not.

    Raises:
        DataError: Says how to write it.
    """
    if isinstance(rows, str):
        example = '[("first text", "second text")]' if config.is_pair else '["your text"]'
        raise DataError(f"The rows are one string, {_shorten(rows)!r}", fix=f"give a list, {example}")
    if isinstance(rows, bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(f"The rows are a {type(rows).__name__}", fix="give a list of texts or pairs of texts")
    if config.is_pair and isinstance(rows, tuple) and len(rows) == 2 and {*map(type, rows)} == {str}:
        raise DataError(
            f"The rows are two strings, {_shorten(rows[0])!r} and {_shorten(rows[1])!r}",
            fix="this model takes pairs: give a list of them, [(text, text_pair)]",
        )


def _shorten(text: str) -> str:
    """The start of a text, for an error."""
    return text if len(text) <= 60 else text[:60] + "..."


def is_text(text: str) -> bool:
    """Whether a string can be encoded; lone surrogates, as from broken JSON, can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
