"""What the documents say is there is there, and their examples run."""

from __future__ import annotations

import ast
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest

import gemma_encoder
from gemma_encoder.cli.main import VERBS, options_of
from gemma_encoder.cli.options import OPTIONS
from gemma_encoder.cli.parsing import parse
from gemma_encoder.cli.study import plan_of
from gemma_encoder.cli.study_recipes import read_words, train_words
from gemma_encoder.testing import tiny_decoder

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "docs", "docs/results", "benchmarks", "datasets")
DOCUMENTS = sorted(chain.from_iterable((ROOT / folder).glob("*.md") for folder in FOLDERS))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
STUDIES = sorted((ROOT / "recipes").glob("study_*.yaml"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced code blocks in these languages."""
    return [
        code for language, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if language in languages
    ]


def commands(path: Path) -> list[str]:
    """Command lines of ours in a document or in the comments of a recipe."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(blocks(text, "sh", "bash", "console", ""))
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip("#$ ") for line in lines if re.match(r"[#$ ]*gemma-encoder [a-z]", line)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (document.parent / link).exists()]
    assert not missing


COMMANDS = [
    pytest.param(command, id=f"{relative(path)}: {command}")
    for path in (*DOCUMENTS, *RECIPES)
    for command in commands(path)
]


def test_there_are_commands_to_check():
    assert {shlex.split(str(param.values[0]))[1] for param in COMMANDS} >= {"train", "evaluate", "predict"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *words = shlex.split(command, comments=True)[1:]
    parse(f"gemma-encoder {verb}", "", OPTIONS[verb], options_of(verb, words))


@pytest.mark.parametrize("recipe", [each for each in RECIPES if each not in STUDIES], ids=relative)
def test_recipe_is_understood(recipe):
    options, *_ = parse("gemma-encoder train", "", OPTIONS["train"], ["--config", str(recipe)])
    assert options.model
    assert options.output


@pytest.mark.parametrize("recipe", STUDIES, ids=relative)
def test_study_is_understood(recipe, decoder_folder):
    words = ["--config", str(recipe), "--model", str(decoder_folder)]
    (options,) = parse("gemma-encoder study", "", OPTIONS["study"], words)
    plan = plan_of(options)
    for arm in plan.arms():
        for task in plan.tasks:
            assert read_words([*train_words(plan, arm, task, 0, None), "--output=x"])


@pytest.mark.parametrize("task", ["wic", "wsc"])
def test_marks_in_texts_are_shown_as_they_are(task):
    golden = (ROOT / "tests" / "tasks" / "golden" / f"{task}.txt").read_text(encoding="utf-8")
    text, arrow, _ = golden.partition("=> ")
    assert arrow and text in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")


def test_readme_names_every_verb():
    table = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert table == list(VERBS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks(text, "sh", "bash", "")), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z]+)", text))
    assert named <= targets


def test_imports_point_downwards():
    """Imports when a module is loaded; those of type checkers and inside functions may reach up."""
    (drawn,) = blocks((ROOT / "docs/architecture.md").read_text(encoding="utf-8"), "floors")
    floors = [line.split(", ") for line in drawn.splitlines()]
    floor_of = {name: number for number, names in enumerate(floors) for name in names}
    package = Path(gemma_encoder.__file__).parent
    upwards = []
    for path in package.rglob("*.py"):
        inside = path.relative_to(package).parts
        if len(inside) == 1 and inside[0].startswith("__"):
            continue
        importer = inside[0].removesuffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level == len(inside):
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                upwards += [(importer, name) for name in names if floor_of[name] < floor_of[importer]]
    assert not upwards


def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    """The README's Python, run as it stands but for the decoder (a tiny one) and the number of rows."""
    pytest.importorskip("sentence_transformers")
    decoder = tiny_decoder("gemma3")
    decoder.backbone.save_pretrained(tmp_path / "tiny")
    decoder.tokenizer.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(README, "python"))
    for said, instead in (('"gemma-3-270m"', '"./tiny"'), ("max_train_rows=3200", "max_train_rows=32")):
        assert code.count(said) == 1
        code = code.replace(said, instead)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "positive" in printed
    assert (tmp_path / "runs" / "sst2" / "run.json").is_file()
