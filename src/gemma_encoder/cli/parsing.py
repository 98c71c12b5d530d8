"""Command lines and YAML files to option dataclasses, through jsonargparse.

jsonargparse does the types, the YAML file, the dotted overrides and `--print_config`. Here are the few things
it leaves to us: flags without a value, lists by repetition or commas, dashes for underscores, help from
docstrings, and errors of one line.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

# Lists whose items are free text: a comma in them is a comma.
FREE_TEXT = ("text", "text_pair")
SHORT = {"batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs"}

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
    parser = ArgumentParser(
        prog=prog, description=description, epilog=EPILOG, exit_on_error=False, formatter_class=_Formatter
    )
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the options below; repeatable."
    )
    for kind in kinds:
        parser.add_class_arguments(kind, nested_key=None, as_group=False, skip={"given"})
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

    `--dry-run` becomes `--dry_run`; lists may be given by commas (`--labels a,b`), repetition, or as `[a,
    b]`.
    """
    hints = _hints(kinds)
    lists = {name for name, hint in hints.items() if _is_list(hint)}
    short = {name: full for name, full in SHORT.items() if full in hints}
    spelled: list[str] = []
    given: dict[str, list[str]] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            spelled.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        name = short.get(name, name)
        option = name.removesuffix("+")
        if option not in lists:
            spelled.append(f"--{name}{equals}{value}")
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise argparse.ArgumentError(None, f"--{option} needs a value.")
            value = following
        items = given.setdefault(option, [])  # repetition adds to the list; all of it replaces that of a file
        items += [value] if option in FREE_TEXT else _items(value)
        spelled.append(f"--{option}={json.dumps(items)}")
    return spelled


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())


class _Formatter(DefaultHelpFormatter):
    """Name, meaning and default of each option; jsonargparse's Python types are left out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _get_type_str(self, action: argparse.Action) -> str | None:
        return None

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # `--labels+`, jsonargparse's spelling for appending, is for `normalise`; users need not know it.
        spellings = action.option_strings
        action.option_strings = [option for option in spellings if not option.endswith("+")]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = spellings

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.dest == "print_config":
            return "Print the options as a YAML file and exit."
        if action.dest == "help":
            return "Show this help and exit."
        if not hasattr(action, "_typehint"):
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
    required = []
    for action in parser._actions:
        action.help = (
            argparse.SUPPRESS if action.dest.endswith(".help") else helps.get(action.dest, action.help)
        )
        hint = getattr(action, "_typehint", None)
        if set(get_args(hint)) == {str, type(None)}:
            # Or YAML would read `#` and `~` on a command line as nothing; a null in a file still is.
            action._typehint = str  # type: ignore[attr-defined]
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
        elif hint is not None:
            action.metavar = action.dest.rpartition(".")[2].upper()
        if len(action.option_strings) > 1 and action.option_strings[1].endswith("+"):
            action.metavar = "TEXT" if action.dest in FREE_TEXT else "A,B,..."
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
    if stray := re.search(r"unrecognized arguments: ([^-]\S*)", message):
        return f"The word {stray[1]!r} belongs to no option; name one before it, as in --task sst2."
    if unknown := re.search(r"unrecognized arguments: -*([\w.+-]+)|Option '([\w.]+)' is not", message):
        name = unknown[1] or unknown[2]
        known = {full: full for kind in kinds for full in _field_help(kind)}
        known |= {name: full for name, full in SHORT.items() if full in known}
        near = difflib.get_close_matches(name, known, n=1)
        return f"There is no option {name}{f'; did you mean {known[near[0]]}?' if near else '.'}"
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message)
    if key and value and expected:
        wanted = " or ".join(name or f"one of {choices}" for name, choices in expected if name != "NoneType")
        quotes = " (in a YAML file: in quotes)" if wanted == "str" else ""
        return f"--{key[1]} is {value[1]!r}, expected {wanted}{quotes}."
    if required := re.search(r"the following arguments are required: (.*)", message):
        return f"Required, but not given: {', '.join('--' + name for name in required[1].split(', '))}."
    if broken := re.search(r"Problems parsing config: *(.*)", message, re.DOTALL):
        return f"--config is no readable YAML: {broken[1].rstrip('.')}."
    if missing := re.search(r"File does not exist: (.*)", message):
        return f"--config: there is no file {missing[1]}."
    return f"{message.rstrip('.')}."


def _hints(kinds: Sequence[type]) -> dict[str, Any]:
    return {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}


def _is_list(hint: Any) -> bool:
    return any(get_origin(part) is list for part in (hint, *get_args(hint)))


def _items(value: str) -> list[str]:
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    return [item.strip().strip("'\"") for item in value.split(",") if item.strip()]
