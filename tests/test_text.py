"""Rows to token ids: templates, truncation, special tokens, and the same in Jinja."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.testing import tiny_tokenizer
from gemma_encoder.text import TextConfig, TextTokenizer

TOKENIZER = tiny_tokenizer()
# What could go wrong on the way through Jinja: quotes, braces, tags, comments, white space at the edges,
# special tokens, characters beyond the basic plane, line ends of every kind.
_JINJA = ["'", '"', "\\", "\\n", "{", "}", "{{ x }}", "{% if %}", "{#", "#}", "-%}", "~", "%s"]
_SPACE = ["\n", "\r\n", "\r", "\t", " ", "  ", "\u2028", "\x85", "\x7f", "\x00"]
_OTHER = ["<eos>", "<bos>", "<pad>", "é", "😀", "a", "query: ", "1", "0", "{text}"]
PIECES = st.lists(st.sampled_from([*_JINJA, *_SPACE, *_OTHER[:-1]]), max_size=6).map("".join)
ROWS = st.lists(st.sampled_from([*_JINJA, *_SPACE, *_OTHER]), max_size=6).map("".join)
TEXTS = ROWS | st.text(st.characters(codec="utf-8"), max_size=20)


def ids_of(rendered: str) -> list[int]:
    return TOKENIZER(rendered, add_special_tokens=False)["input_ids"]


def by_hand(config: TextConfig, *slots: str) -> str:
    """The template filled in by position, not by str.replace, which would read a slot inside a text."""
    head, rest = config.template.split("{text}")
    tail = rest.split("{text_pair}")
    body = head + slots[0] + (tail[0] if len(slots) == 1 else tail[0] + slots[1] + tail[1])
    return ("<bos>" if config.bos else "") + body + ("<eos>" if config.eos else "")


@settings(max_examples=150, deadline=None)
@given(PIECES, PIECES, PIECES, TEXTS, TEXTS, st.booleans(), st.booleans())
def test_jinja_renders_what_we_render(head, middle, tail, text, pair, bos, eos):
    for template, slots in (
        (head + "{text}" + tail, (text,)),
        (head + "{text}" + middle + "{text_pair}" + tail, (text, pair)),
    ):
        config = TextConfig(template, max_length=10_000, bos=bos, eos=eos)
        tokenizer = TextTokenizer(TOKENIZER, config)
        row = slots if len(slots) == 2 else slots[0]
        roles = ("query", "document") if len(slots) == 2 else ("user",)
        messages = [{"role": role, "content": slot} for role, slot in zip(roles, slots, strict=True)]
        rendered = TOKENIZER.apply_chat_template(
            messages, chat_template=tokenizer.chat_template(), tokenize=False
        )
        assert rendered == tokenizer.render(row) == by_hand(config, *slots)
        assert tokenizer.encode([row]).input_ids == [ids_of(rendered) or [TOKENIZER.eos_token_id]]


@settings(max_examples=150, deadline=None)
@given(PIECES, PIECES, TEXTS, TEXTS, st.integers(0, 12))
def test_truncation_cuts_the_end_of_the_second_text_only(head, tail, text, pair, room):
    template = head + "{text} / {text_pair}" + tail
    fixed = ids_of(f"<bos>{head} / {tail}<eos>")
    config = TextConfig(template, max_length=len(fixed) + 9 + room)
    tokenizer = TextTokenizer(TOKENIZER, config)
    [ids], [truncated] = (encoded := tokenizer.encode([(text, pair)])).input_ids, encoded.truncated
    whole = ids_of(by_hand(config, text, pair))
    assert truncated == (len(whole) > config.max_length)
    assert len(ids) == min(len(whole), config.max_length)
    assert ids[-1] == TOKENIZER.eos_token_id and ids[0] == TOKENIZER.bos_token_id
    if truncated:
        kept = len(ids) - len(tokenizer.suffix)
        assert ids == whole[:kept] + tokenizer.suffix
        # The tail is the template's, but for a first part that may have merged with the text.
        written = TOKENIZER.decode(ids_of(tail + "<eos>"))
        assert written.endswith(TOKENIZER.decode(tokenizer.suffix))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(0, 12))
def test_there_is_no_room_where_the_second_text_changes_nothing(text, room):
    fixed = ids_of("<bos>Query:  Document: <eos>")
    config = TextConfig("Query: {text} Document: {text_pair}", max_length=len(fixed) + 2 + room)
    others = ["x " * 40, "1" * 80, "<pad>" * 40]
    encoded = TextTokenizer(TOKENIZER, config).encode([(text, other) for other in others])
    alike = all(ids == encoded.input_ids[0] for ids in encoded.input_ids)
    assert all(encoded.truncated) and all(encoded.no_room) == alike


def test_no_room_is_told_of_each_row():
    """The query of twelve words is more than the ten tokens that the template leaves."""
    config = TextConfig("Query: {text} Document: {text_pair}", max_length=30)
    long = "a b c d e f g h i j k l"
    encoded = TextTokenizer(TOKENIZER, config).encode([("a", "b"), (long, "b"), ("a", "b " * 20), (long, "")])
    assert encoded.truncated == [False, True, True, True]
    assert encoded.no_room == [False, True, False, True]
    assert TextTokenizer(TOKENIZER, TextConfig(max_length=4)).encode([long]).no_room == [False]


def test_suffix_is_the_tail_and_eos():
    tokenizer = TextTokenizer(TOKENIZER, TextConfig("{text} .", max_length=8))
    assert tokenizer.suffix == ids_of(" .<eos>")
    assert tokenizer.encode(["a b c d e f g h"]).input_ids == [ids_of("<bos>a b c")[:5] + ids_of(" .<eos>")]


def test_suffix_is_not_trusted_where_the_text_could_be_part_of_it():
    # A tokenizer of one word: both fillers of the suffix search are <unk>, so the common end holds text.
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "word": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "removed")
    plain = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    tokenizer = TextTokenizer(plain, TextConfig(max_length=4, bos=False))
    assert tokenizer.suffix == []
    assert tokenizer.encode(["word word word word word"]).input_ids == [[2, 2, 2, 2]]


def test_literal_special_tokens_in_a_text_are_those_tokens():
    [ids] = TextTokenizer(TOKENIZER, TextConfig()).encode(["a<eos>b"]).input_ids
    assert ids.count(TOKENIZER.eos_token_id) == 2


def test_a_row_is_never_empty():
    encoded = TextTokenizer(TOKENIZER, TextConfig(bos=False, eos=False)).encode(["", "a"])
    assert encoded.input_ids[0] == [TOKENIZER.eos_token_id] and encoded.truncated == [False, False]


def test_special_token_policy_and_tokenizers_without_them():
    text = "film"
    for bos in (True, False):
        for eos in (True, False):
            [ids] = TextTokenizer(TOKENIZER, TextConfig(bos=bos, eos=eos)).encode([text]).input_ids
            assert (ids[0] == TOKENIZER.bos_token_id, ids[-1] == TOKENIZER.eos_token_id) == (bos, eos)
    bare = tiny_tokenizer()
    bare.bos_token = None
    assert TextTokenizer(bare, TextConfig()).encode([text]).input_ids == [ids_of(text + "<eos>")]


def test_the_tokenizers_own_habits_do_not_matter():
    habits = tiny_tokenizer()
    habits.truncation_side, habits.model_max_length, habits.chat_template = "left", 3, "nothing"
    config, rows = TextConfig(max_length=7), ["a", "film and text and film and text"]
    assert TextTokenizer(habits, config).encode(rows) == TextTokenizer(TOKENIZER, config).encode(rows)


def test_a_prompt_goes_in_front_of_the_text():
    template = TextTokenizer(TOKENIZER, TextConfig("Q: {text}")).chat_template()
    messages = [{"role": "system", "content": "in film: "}, {"role": "user", "content": "bad"}]
    rendered = TOKENIZER.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert rendered == "<bos>Q: in film: bad<eos>"


@pytest.mark.parametrize(("template", "texts"), [("{text}", 2), ("{text}{text_pair}", 1), ("{text}", 3)])
def test_jinja_refuses_another_number_of_texts(template, texts):
    jinja = TextTokenizer(TOKENIZER, TextConfig(template)).chat_template()
    messages = [{"role": "user", "content": "a"}] * texts
    with pytest.raises(Exception, match="This model takes (one text|a pair of texts)"):
        TOKENIZER.apply_chat_template(messages, chat_template=jinja, tokenize=False)


@pytest.mark.parametrize(
    ("row", "template"),
    [("a", "{text}{text_pair}"), (("a", "b"), "{text}"), (None, "{text}"), (("a", 3), "{text}{text_pair}")],
)
def test_rows_of_another_kind_are_refused(row, template):
    with pytest.raises(DataError):
        TextTokenizer(TOKENIZER, TextConfig(template)).encode([row])


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(DataError, match="valid Unicode"):
        TextTokenizer(TOKENIZER, TextConfig()).encode(["fine", "broken \ud800"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": 3}, "template is 3"),
        ({"eos": "no"}, "eos is 'no'"),
        ({"template": "no slot"}, "write {text} once"),
        ({"template": "{text} {text}"}, "write {text} once"),
        ({"template": "{text_pair} {text}"}, "behind {text}"),
        ({"template": "\ud800{text}"}, "surrogates"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 3.5}, "max_length is 3.5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        TextConfig(**options)


def test_a_limit_below_the_template_is_refused():
    with pytest.raises(ConfigError, match="max_length is 5.*alone take 7"):
        TextTokenizer(TOKENIZER, TextConfig("a b c {text}", max_length=5))
