"""Contenders time the same computation; the figures mean nothing here."""

import numpy as np
import pytest

from gemma_encoder import Encoder, machine
from gemma_encoder.errors import ConfigError
from gemma_encoder.pooling import attention
from gemma_encoder.speed import measuring
from gemma_encoder.speed.alone import Alone, run_alone
from gemma_encoder.speed.batches import BATCH_SIZES
from gemma_encoder.speed.contenders import CONTENDERS, OURS, USUAL, Settings
from gemma_encoder.speed.limit import Products
from gemma_encoder.speed.measuring import Measured, Speed, measure
from gemma_encoder.speed.report import facts, figure, table
from gemma_encoder.testing import tiny_decoder

ROWS = ["the river bank", "a good film", "money", "the bank of the river was a good film", "film"]
QUICK = Settings(compile_layers=False)
ONCE = {"dtypes": ["float32"], "rounds": 1, "alone": False, "tell": lambda line: None, "settings": QUICK}


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_contenders_compute_the_same(folder, name, batch_size):
    settings = Settings(batch_size=batch_size, max_tokens=7, compile_layers=False)
    scores = CONTENDERS[name](folder, settings)(ROWS)
    expected = CONTENDERS[OURS](folder, QUICK)(ROWS)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_everything_is_measured(folder):
    lines: list[str] = []
    speed = measure(folder, ROWS, rounds=2, alone=False, tell=lines.append, settings=QUICK)
    assert [(each.name, each.dtype) for each in speed.contenders] == [
        (name, dtype) for dtype in ("float32", "bfloat16") for name in USUAL
    ]
    assert all(len(each.seconds) == 2 and min(each.seconds) > 0 for each in speed.contenders)
    assert set(speed.limits) == {"float32", "bfloat16"} and not speed.left_out
    assert len(lines) == 4 and lines[0].startswith("float32, round 1 of 2: ")
    encoder = Encoder.from_pretrained(folder)
    lengths = list(map(len, encoder.tokenize(ROWS).input_ids))
    assert (speed.rows, speed.tokens, speed.longest) == (5, sum(lengths), max(lengths))


def test_a_contender_that_computes_something_else_is_not_timed(folder, monkeypatch):
    stock = CONTENDERS["padded"]

    def other(folder, settings):
        score = stock(folder, settings)
        return lambda rows: 1 - score(rows)

    monkeypatch.setitem(CONTENDERS, "padded", other)
    with pytest.raises(AssertionError, match="padded computes other scores in float32"):
        measure(folder, ROWS, **ONCE)


def test_what_is_not_installed_is_left_out(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    speed = measure(folder, ROWS, names=["CrossEncoder"], **ONCE)
    assert [each.name for each in speed.contenders] == [OURS]
    assert 'pip install "gemma-encoder[st]"' in speed.left_out["CrossEncoder"]["float32"]


def test_what_sentence_transformers_can_not_open_is_left_out(tmp_path):
    path = str(tmp_path / "model")
    decoder, labels = tiny_decoder("gemma3"), ("a", "b")
    pooled = Encoder.from_decoder(decoder, verify=False, seed=0, labels=labels, pooling=attention())
    pooled.save_pretrained(path)
    speed = measure(path, ROWS, names=["CrossEncoder"], **ONCE)
    assert [each.name for each in speed.contenders] == [OURS]
    assert "sentence-transformers can't open the folder" in facts(speed, QUICK)["CrossEncoder left out"]


@pytest.mark.parametrize("rows", [ROWS[:1], ["money", "money", "money"]], ids=["one", "equal"])
def test_scores_without_spread_agree(rows, tmp_path):
    path = str(tmp_path / "model")
    one = {"problem_type": "ranking", "labels": ("relevance",)}
    Encoder.from_decoder(tiny_decoder("gemma3"), verify=False, seed=0, **one).save_pretrained(path)
    dtypes = ["float32", "bfloat16"]
    speed = measure(path, rows, names=["padded", "not compiled"], **{**ONCE, "dtypes": dtypes})
    assert len(speed.contenders) == 6


def test_what_was_measured_before_a_failure_is_kept(folder, monkeypatch):
    stock = CONTENDERS["padded"]

    def other(folder, settings):
        score = stock(folder, settings)
        return score if settings.dtype == "float32" else lambda rows: 10 * score(rows) + 10

    def fail(folder, name, rows, settings):
        raise ConfigError("out of memory")

    monkeypatch.setitem(CONTENDERS, "padded", other)
    monkeypatch.setattr(measuring, "run_alone", fail)
    given = {**ONCE, "dtypes": ["float32", "bfloat16"], "names": ["padded"], "alone": True}
    kept = []
    with pytest.raises(AssertionError, match="padded computes other scores in bfloat16"):
        measure(folder, ROWS, keep=kept.append, **given)
    assert [each.dtype for each in kept[0].contenders] == ["float32", "float32"]
    assert facts(kept[0], QUICK)["padded, float32"].startswith("out of memory")
    assert len(table(kept[0].table())) == 2


def test_the_batch_size_that_was_found_is_said_and_measured_alone(folder, monkeypatch):
    sizes = []

    def alone(folder, name, rows, settings):
        sizes.append(settings.tuned_batch_size)
        return Alone(1.0, 1.0)

    monkeypatch.setattr(measuring, "run_alone", alone)
    speed = measure(folder, ROWS, names=["CrossEncoder tuned"], **{**ONCE, "alone": True})
    assert sizes[0] is None and sizes[1] == speed.contenders[1].batch_size in BATCH_SIZES
    assert facts(speed, QUICK)["batch_size of CrossEncoder tuned, float32"].startswith(str(sizes[1]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": ["vllm"]}, "no contender 'vllm'"),
        ({"rounds": 0}, "nothing to time"),
        ({"rows": []}, "0 rows"),
    ],
)
def test_what_can_not_be_measured_is_refused(folder, changes, says):
    with pytest.raises(ConfigError, match=says):
        measure(**{"folder": folder, "rows": ROWS, **ONCE, **changes})


def test_products_are_those_of_every_layer_and_pass(folder, monkeypatch):
    encoder = Encoder.from_pretrained(folder)
    products = Products(encoder, [4, 7])
    shapes = []
    for layer in products.layers:
        layer.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape)))
    products.stock()
    weights = [w.shape[0] for n, w in encoder.stock_backbone.named_parameters() if n.endswith("proj.weight")]
    assert shapes == [(tokens, width) for tokens in (4, 7) for width in weights]
    products.fused()
    assert len(shapes) == 4 * len(weights)


def test_a_process_of_its_own(folder):
    found = run_alone(folder, OURS, ROWS, QUICK)
    assert found.start_up_seconds > 0 and found.peak_mib > 50
    with pytest.raises(ConfigError, match="failed in a process of its own: .*no-such-folder"):
        run_alone("no-such-folder", OURS, ROWS, QUICK)


def test_memory_is_read_where_there_is_no_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / "none")
    assert machine.peak_memory()["host_bytes"] > 2**10


MEASURED = Speed(
    rows=10,
    tokens=200,
    longest=30,
    contenders=[
        Measured(OURS, "float32", [1.0, 2.0, 4.0], 0.0, alone=Alone(2.5, 900.0)),
        Measured("padded", "float32", [2.0, 3.0, 12.0], 1e-5, alone=Alone(2.0, 950.4)),
    ],
    limits={"float32": [0.5, 1.5, 3.0]},
    left_out={},
)


def test_the_table_has_medians_of_rounds():
    ours, padded = table(MEASURED.table())
    assert ours == {
        "contender": OURS,
        "precision": "float32",
        "rows/s": "5.0",
        "tokens/s": "100",
        "of the limit": "75%",  # of 50, 75 and 75 %
        "time, ours = 1": "1",
        "memory, MiB": "900",
        "start-up, s": "2.5",
    }
    assert padded["time, ours = 1"] == "2.00 (1.50 to 3.00)" and padded["of the limit"] == "25%"


def test_the_figure_names_its_contenders():
    pytest.importorskip("matplotlib")
    drawn = figure(MEASURED)
    assert drawn is not None and drawn == figure(MEASURED)
    assert all(word in drawn for word in (OURS, "padded", "float32", "75%", "25%"))


def test_seconds_of_a_call():
    assert 0 <= measuring.seconds(lambda: None, "cpu") < 1
