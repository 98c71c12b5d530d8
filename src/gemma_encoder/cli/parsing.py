"""Command lines and YAML files to option dataclasses, through jsonargparse.

jsonargparse does the types, the dotted overrides and `--print_config`. Here are the few things it leaves to
us: texts taken to the letter, flags without a value, lists by repetition or commas, dashes for underscores,
short names, help from docstrings, and errors of one line.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader
from yaml import YAMLError

# Lists whose items are free text: a comma in them is a comma.
FREE_TEXT = ("text", "text_pair")
SHORT = {"batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs", "out": "output"}

EPILOG = (
    "Options can stand in a YAML file (--config FILE); those behind it on the command line win. "
    "--print_config prints that file for the options given. "
    "Dashes and underscores in option names are the same."
)


def parse(prog: str, description: str, kinds: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line of a verb.

    Args:
        prog: Program and verb, for help and errors.
        description: What the verb does, in a line.
        kinds: Frozen dataclasses; their docstrings describe the fields.
        argv: The command line behind the verb.

    Returns:
        An instance of each class.

    Raises:
        argparse.ArgumentError: The command line can't be read; says why in one line.
        SystemExit: `--help` or `--print_config` was asked for and answered.
    """
    parser = _Parser(
        prog=prog, description=description, epilog=EPILOG, exit_on_error=False, formatter_class=_Formatter
    )
    parser.kinds = kinds
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the options below; repeatable."
    )
    for name, hint in _hints(kinds).items():
        parser.add_argument(f"--{name}", type=_reader(hint), **_default(name, kinds))
    _finish(parser, kinds)
    words = normalise(argv, kinds)
    try:
        config = parser.parse_args(words)
        given = frozenset(vars(parser.parse_args(words, defaults=False)))
    except argparse.ArgumentError as error:
        raise argparse.ArgumentError(None, f"{_explain(str(error), kinds)} See {prog} --help.") from error
    options = parser.instantiate(config)
    made = []
    for kind in kinds:
        names = {field.name for field in fields(kind)}
        values = {name: options[name] for name in names - {"given"}}
        if "given" in names:
            values["given"] = given & names
        made.append(kind(**values))
    return tuple(made)


def normalise(argv: Sequence[str], kinds: Sequence[type]) -> list[str]:
    """Spell a command line as jsonargparse wants it.

    `--dry-run` becomes `--dry_run` and `--epochs` its full name; lists may be given by commas (`--labels
    a,b`), repetition, or as `[a, b]`, and replace that of a YAML file before them.
    """
    hints = _hints(kinds)
    spelled: list[str | tuple[str, list[str]]] = []
    lists: dict[str, list[str]] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            spelled.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = _full_name(name, hints)
        if _fields_of_one_number(hints.get(name)):
            value = value if equals else next(words, "")
            each = _a_number_each(hints[name], value)
            spelled += [f"--{name}.{part}={value}" for part in each] if each else [f"--{name}={value}"]
            continue
        if not _is_list(hints.get(name)):
            spelled.append(f"--{name}{equals}{value}")
            if name == "config":
                lists.clear()
            continue
        if not equals:
            following = next(words, None)
            if following is None or (following.startswith("--") and name not in FREE_TEXT):
                raise argparse.ArgumentError(None, f"--{name} needs a value.")
            value = following
        value = _utf8(name, value)
        if name not in lists:
            spelled.append((name, lists.setdefault(name, [])))
        lists[name] += _listed(name, value)
    return [word if isinstance(word, str) else f"--{word[0]}={json.dumps(word[1])}" for word in spelled]


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())


class _Parser(ArgumentParser):
    """Reads YAML files with the names that the command line takes."""

    kinds: Sequence[type] = ()

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            content = get_loader("yaml")(Path(cfg_path).read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise argparse.ArgumentError(None, f"--config: {cfg_path} is not UTF-8: {error}") from error
        except YAMLError as error:
            raise argparse.ArgumentError(None, f"--config is no readable YAML: {error}") from error
        if not isinstance(content, dict):
            raise argparse.ArgumentError(None, f"--config: {cfg_path} has no `option: value` lines")
        return self.parse_string(_json(_plain_names(content, _hints(self.kinds))), *args, **kwargs)


class _Formatter(DefaultHelpFormatter):
    """Name, meaning and default of each option; jsonargparse's Python types are left out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _get_type_str(self, action: argparse.Action) -> str | None:
        return None

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.dest == "print_config":
            return "Print the options as a YAML file and exit."
        if action.dest == "help":
            return "Show this help and exit."
        if action.type is None and not hasattr(action, "_typehint"):
            return action.help or ""
        if action.required:
            return f"{action.help} (required)"
        if action.default in (None, [], {}):
            return action.help or ""
        default = str(action.default).lower() if isinstance(action.default, bool) else "%(default)s"
        return f"{action.help} (default: {default})"


def _finish(parser: ArgumentParser, kinds: Sequence[type]) -> None:
    """Help from docstrings, short metavars, flags that need no value, a short usage line."""
    helps = {name: text for kind in kinds for name, text in _field_help(kind).items()}
    hints, required = _hints(kinds), []
    for action in parser._actions:
        action.help = (
            argparse.SUPPRESS if action.dest.endswith(".help") else helps.get(action.dest, action.help)
        )
        hint = hints.get(action.dest, getattr(action, "_typehint", None))
        choices = [
            choice
            for part in (hint, *get_args(hint))
            if get_origin(part) is Literal
            for choice in get_args(part)
        ]
        if choices:
            action.metavar = "{" + ",".join(choices) + "}"
        elif bool in (hint, *get_args(hint)):
            action.nargs, action.const, action.metavar = "?", True, "true|false"
        elif _is_list(hint):
            action.metavar = "TEXT" if action.dest in FREE_TEXT else "A,B,..."
        elif hint is not None and not is_dataclass(hint):
            action.metavar = action.dest.rpartition(".")[2].upper()
        if action.required:
            required.append(f"{action.option_strings[0]} {action.metavar}")
    for group in parser._action_groups:
        if group.title and group.title.startswith("<class"):
            group.title = group._group_actions[0].dest.partition(".")[0]
    parser.usage = " ".join([parser.prog, *required, "[options]"])


def _field_help(kind: type, prefix: str = "") -> dict[str, str]:
    """Help for every field of an option class and of the classes in it, from their docstrings."""
    helps = {}
    _, _, attributes = (kind.__doc__ or "").partition("Attributes:")
    for match in re.finditer(r"^ {4,8}(\w+): (.+(?:\n {9,}\S.*)*)", attributes, re.MULTILINE):
        helps[prefix + match[1]] = one_line(match[2]).replace("`", "").replace("%", "%%")
    for name, hint in get_type_hints(kind).items():
        for nested in (hint, *get_args(hint)):
            if isinstance(nested, type) and is_dataclass(nested):
                helps.update(_field_help(nested, f"{prefix}{name}."))
    return helps


def _explain(message: str, kinds: Sequence[type]) -> str:
    """jsonargparse's message in a user's words."""
    if stray := re.search(r"unrecognized arguments: ([^\s-]\S*)", message):
        example = "as in --task sst2, and quote a value that has spaces"
        return f"The word {stray[1]!r} belongs to no option; name one before it, {example}."
    if unknown := re.search(r"unrecognized arguments: -*([\w.+-]+)|Option '([\w.]+)' is not", message):
        name = unknown[1] or unknown[2]
        known = {full: full for kind in kinds for full in _field_help(kind)}
        known |= {name: full for name, full in SHORT.items() if full in known}
        near = difflib.get_close_matches(name, known, n=1)
        return f"There is no option {name}{f'; did you mean {known[near[0]]}?' if near else '.'}"
    key = re.search(r'Parser key "([\w.]+)":?', message)
    if key and message[key.end() :].startswith(" is "):
        return f"--{key[1]}{message[key.end() :]}."
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message)
    if key and value and expected:
        wanted = " or ".join(name or f"one of {choices}" for name, choices in expected if name != "NoneType")
        return f"--{key[1]} is {value[1]!r}, expected {wanted}."
    if required := re.search(r"the following arguments are required: (.*)", message):
        return f"Required, but not given: {', '.join('--' + name for name in required[1].split(', '))}."
    if broken := re.search(r"Problems parsing config: *(.*)", message, re.DOTALL):
        return f"--config is no readable YAML: {broken[1].rstrip('.')}."
    if missing := re.search(r"File does not exist: (.*)", message):
        return f"--config: there is no file {missing[1]}."
    return f"{message.rstrip('.')}."


def _hints(kinds: Sequence[type]) -> dict[str, Any]:
    """Types of the options, in the order of `--help`."""
    return {name: hint for kind in kinds for name, hint in get_type_hints(kind).items() if name != "given"}


def _default(name: str, kinds: Sequence[type]) -> dict[str, Any]:
    """An option's default, or that it is required, for `add_argument`."""
    field = next(field for kind in kinds for field in fields(kind) if field.name == name)
    if field.default_factory is not MISSING:
        return {"default": field.default_factory()}
    return {"required": True} if field.default is MISSING else {"default": field.default}


def _reader(hint: Any) -> Any:
    """What jsonargparse is to read an option with: texts by us, as it takes `#` and `null` for nothing."""
    if hint == list[float]:
        return _read_numbers
    if _is_list(hint):
        return _read_texts
    return _read_text if hint in (str, str | None) else hint


def _utf8(name: str, value: str) -> str:
    """A word of the command line, whose bytes Python reads by the locale, read as UTF-8."""
    try:
        return value.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        raise argparse.ArgumentError(None, f"--{name} is not UTF-8: {error}.") from error


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, expected text (in a YAML file: in quotes)")
    return value


def _read_texts(value: Any) -> list[str]:
    """A list of texts; from the command line it is what `normalise` wrote."""
    items = json.loads(value) if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError(f"is {items!r}, expected a list of texts")
    return [_read_text(item) for item in items]


def _read_numbers(value: Any) -> list[float]:
    """A list of numbers, as words or not."""
    items = json.loads(value) if isinstance(value, str) else value
    try:
        return [float(item) for item in items]
    except (TypeError, ValueError):
        raise ValueError(f"is {items!r}, expected a list of numbers") from None


def _full_name(name: str, hints: dict[str, Any]) -> str:
    """An option's name as its class has it."""
    name = name.replace("-", "_")
    return SHORT[name] if SHORT.get(name) in hints else name


def _plain_names(content: dict[Any, Any], hints: dict[str, Any]) -> dict[str, Any]:
    """The content of a YAML file with full names, and lists where a text stands for one (`labels: a,b`)."""
    plain = {}
    for key, value in content.items():
        name = _full_name(str(key), hints)
        hint = hints.get(name)
        plain[name] = _listed(name, value) if isinstance(value, str) and _is_list(hint) else value
        plain[name] = _a_number_each(hint, value) or plain[name]
    return plain


def _fields_of_one_number(hint: Any) -> list[str]:
    """For an option that is one number, or a number each for several fields: the fields."""
    parts = get_args(hint)
    if float not in parts:
        return []
    return [field.name for part in parts if is_dataclass(part) for field in fields(part)]


def _a_number_each(hint: Any, value: Any) -> dict[str, float]:
    """One number as a number each, so that a later `--dropout.head` leaves the others as they are."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return {}
    return {} if isinstance(value, bool) else dict.fromkeys(_fields_of_one_number(hint), number)


def _json(content: Any) -> str:
    """JSON that is YAML too: YAML joins no surrogates, and takes control characters only escaped."""
    text = json.dumps(content, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _is_list(hint: Any) -> bool:
    return any(get_origin(part) is list for part in (hint, *get_args(hint)))


def _listed(name: str, value: str) -> list[str]:
    """The items of a list given as a text."""
    if name in FREE_TEXT:
        return [value]
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    return [item.strip().strip("'\"") for item in value.split(",") if item.strip()]
