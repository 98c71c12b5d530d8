"""A folder is written whole, or what was there stays."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
from folder_samples import PAIR, encoder_of, tree
from transformers import PreTrainedModel

from gemma_encoder.encoder import Encoder
from gemma_encoder.encoder_config import EncoderConfig
from gemma_encoder.errors import CheckpointError
from gemma_encoder.heads import HeadConfig
from gemma_encoder.model_card import model_card


def test_saving_replaces_the_encoder_and_its_records_and_keeps_other_files(tmp_path):
    folder = tmp_path / "model"
    encoder_of(head=HeadConfig(depth=3)).save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    for record in ("run.json", "evaluation-sst2.json"):  # of weights that are gone afterwards
        (folder / record).write_text("{}")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "state.pt").write_text("x")
    encoder_of("llama", head=HeadConfig(depth=0)).save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "checkpoint-7" / "state.pt").exists()
    assert not list(folder.glob("run.json")) + list(folder.glob("evaluation-*"))
    assert sorted(path.name for path in folder.glob("[0-9]_*")) == ["1_Pooling", "2_LayerNorm", "3_Dense"]
    assert not list(tmp_path.glob(".*")) and not list(folder.glob(".*"))
    assert Encoder.from_pretrained(folder).stock_backbone.config.model_type == "llama"


@pytest.mark.parametrize("name", ["../mine.txt", "/tmp/mine.txt", "..", "a/b"])
def test_a_list_of_files_that_leads_elsewhere_is_refused(tmp_path, name):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    (tmp_path / "mine.txt").write_text("mine")
    config = json.loads((folder / "gemma_encoder.json").read_text())
    config["files"].append(name)
    (folder / "gemma_encoder.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"gemma_encoder\.json.* can't be read"):
        encoder_of().save_pretrained(folder)
    with pytest.raises(CheckpointError, match="files is"):
        Encoder.from_pretrained(folder)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_saving_into_an_empty_folder_and_beside_training_leftovers(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    encoder_of().save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).config == encoder_of().config


def test_saving_refuses_to_overwrite_what_it_did_not_write(tmp_path, decoder_folder):
    before = tree(decoder_folder)
    with pytest.raises(CheckpointError, match=r"another origin.*config\.json"):
        encoder_of().save_pretrained(decoder_folder)
    assert tree(decoder_folder) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        encoder_of().save_pretrained(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1_Pooling").write_text("mine")
    with pytest.raises(CheckpointError, match="another origin.*1_Pooling"):
        encoder_of().save_pretrained(tmp_path / "folder")
    assert tree(tmp_path / "folder") == {"1_Pooling": b"mine"}


@pytest.mark.parametrize("place", ["backbone", "head", "text"])
def test_a_full_disk_leaves_the_old_encoder(place, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before = tree(folder)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "backbone": (PreTrainedModel, "save_pretrained"),
        "head": ("gemma_encoder.st_stack.save_file",),
        "text": (Path, "write_text"),
    }[place]
    monkeypatch.setattr(*target, full)
    for path in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match="No space left on device.*free disk space"):
            encoder_of("llama").save_pretrained(path)
    monkeypatch.undo()
    assert tree(tmp_path) == {f"model/{name}": content for name, content in before.items()}
    Encoder.from_pretrained(folder)


@pytest.mark.parametrize("limit", [100, 3_000, 40_000])
def test_a_real_write_failure_leaves_the_old_encoder(limit, tmp_path):
    """Files may not grow beyond a limit, so that the libraries' own writers fail, each in its way."""
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before = tree(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    encoder = encoder_of("llama")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match="can't be saved"):
            encoder.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(folder) == before


@pytest.mark.parametrize("failing", range(1, 27, 5))
def test_a_failure_while_moving_in_is_undone(failing, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of(head=HeadConfig(depth=2)).save_pretrained(folder)
    before, calls, rename = tree(folder), [], Path.rename

    def flaky(self, target):
        calls.append(self)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", flaky)
    with pytest.raises(CheckpointError, match="Input/output error"):
        encoder_of("llama").save_pretrained(folder)
    assert tree(folder) == before


def test_ctrl_c_while_moving_in_is_undone(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before, rename = tree(tmp_path), Path.rename

    def interrupted(self, target):
        if self.name == "tokenizer.json" and self.parent.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder_of("llama").save_pretrained(folder)
    assert tree(tmp_path) == before


def test_what_stops_while_moving_in_is_refused_not_misread_nor_lost(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    encoder_of().save_pretrained(folder)
    before, moved, rename = tree(folder), [], Path.rename

    def stops(self, target):
        moved.extend([self] if self.name == "tokenizer.json" and self.parent.name == "new" else [])
        if moved:  # from here on nothing can be moved, not even back
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(CheckpointError, match="Input/output error"):
        encoder_of("llama").save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"gemma_encoder\.json is missing"):
        Encoder.from_pretrained(folder)
    [old] = folder.glob(".saving-*/old")
    assert tree(old) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="Permission denied.*may write"):
        encoder_of().save_pretrained(tmp_path / "locked" / "model")


def test_the_model_card_says_which_weights_they_are():
    card = model_card(EncoderConfig(decoder="gemma-3-270m"), adapter_kept=False)
    assert "The decoder is gemma-3-270m: Gemma 3 270M (pretrained), de-quantised from Q4_K_M." in card


def test_the_model_card_says_how_to_use_it(tmp_path):
    encoder_of(text=PAIR, labels=("no", "yes")).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for phrase in (
        "Encoder.from_pretrained",
        "CrossEncoder(",
        "Gemma Terms of Use",
        "no, yes",
        "tiny-gemma3",
    ):
        assert phrase in card
