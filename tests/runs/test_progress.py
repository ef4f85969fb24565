"""What a person sees of a run."""

import io

import pytest
import small

from layerparallel import runs
from layerparallel.runs.progress import Live, Plain, Standing, duration

STANDING = Standing(
    epoch=3,
    epochs=10,
    samples=300,
    total=1000,
    rate=50.0,
    loss=0.25,
    accuracy=0.876,
    forward_error=1.2e-3,
    adjoint_error=3.4e-5,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (60, "1:00"), (3599.6, "1:00:00"), (7261, "2:01:01")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_standing_tells_rate_time_left_loss_accuracy_and_both_errors():
    text = f"{STANDING.pace()} {STANDING.figures()}"
    for part in ("epoch 3/10", "50 samples/s", "14s left", "0.2500", "87.6%", "1.2e-03", "3.4e-05"):
        assert part in text


def test_plain_output_is_one_line_at_a_time_and_has_no_control_characters(tmp_path):
    stream = io.StringIO()
    runs.train(small.recipe().build(), tmp_path, Plain(stream, interval=0.0))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("depth 16: epoch 1/4")
    assert any(line.startswith("serial slice: epoch 1/1") for line in lines)
    assert "times as fast" in lines[-1]
    assert "\x1b" not in stream.getvalue()


def test_plain_output_is_sparse(tmp_path):
    stream = io.StringIO()
    runs.train(small.recipe().build(), tmp_path, Plain(stream, interval=3600.0))
    starts = [line.partition(":")[0] for line in stream.getvalue().splitlines()]
    assert starts[0] == "depth 16"  # one line at the end of each training
    assert starts[2] == "serial slice"
    assert len(starts) == 4


def test_a_terminal_gets_a_bar_with_the_figures(tmp_path):
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200, highlight=False)
    runs.train(small.recipe().build(), tmp_path, Live(console, interval=0.0))
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "samples/s" in text
    assert "error" in text
    assert "serial slice" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is shown again
