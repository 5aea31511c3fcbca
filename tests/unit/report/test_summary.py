from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from rl_compress.export.manifest import Deployed, Int8Check
from rl_compress.report.summary import cautions, comparison_rows, comparison_table, headline

if TYPE_CHECKING:
    from rl_compress.export.manifest import Manifest


def test_every_figure_is_compared(manifest: Manifest) -> None:
    assert comparison_rows(manifest.model_dump()) == [
        ("MACs per sample", "1.00k", "300", "30.0 %"),
        ("Size of the tensors", "100 kB", "34.5 kB", "34.5 %"),
        ("Accuracy, search split, not fine-tuned", "99.0 %", "96.5 %", "-2.5 points"),
        ("Accuracy, search split", "99.0 %", "98.8 %", "-0.2 points"),
        ("Accuracy, test split", "99.2 %", "98.9 %", "-0.3 points"),
        ("Latency, batch of 4", "1.70 ms", "0.81 ms", "2.1x faster"),
    ]


def test_figures_that_were_not_measured_are_left_out(manifest: Manifest) -> None:
    manifest.latency_ms = None
    assert manifest.scores is not None
    manifest.scores.test = None
    names = [row[0] for row in comparison_rows(manifest.model_dump())]
    assert names[-1] == "Accuracy, search split"
    assert comparison_rows({}) == []


def test_the_headline_gives_the_budgeted_cost_and_the_test_score(manifest: Manifest) -> None:
    sentence = "30 % of the MACs at 98.9 % accuracy (uncompressed 99.2 %)"
    assert headline(manifest.model_dump()) == sentence
    manifest.budget = {"size_bytes": 50_000.0}
    assert (headline(manifest.model_dump()) or "").startswith("34.5 % of the size at")
    manifest.scores = None
    assert headline(manifest.model_dump()) is None


def test_the_console_table_shows_the_same_and_no_markup(manifest: Manifest) -> None:
    assert manifest.scores is not None
    manifest.scores.name = "score[red]"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison_table(manifest.model_dump()))
    assert "34.5 kB" in capture.get()
    assert "Score[red], test split" in capture.get()


@pytest.mark.parametrize(("error", "shown"), [(2.44, "2.4 % off"), (None, "other hardware")])
def test_the_prediction_stands_below_the_measurement(
    manifest: Manifest, error: float | None, shown: str
) -> None:
    content = manifest.model_dump()
    content["latency_ms"]["predicted"] = {
        "original": 1.6,
        "delivered": 0.83,
        "error_percent": error,
        "device": "a CPU",
        "median_error_percent": 1.5,
    }
    rows = comparison_rows(content)
    assert rows[-1] == ("Latency, as predicted", "1.60 ms", "0.83 ms", shown)
    content["budget"] = {"latency_ms": 1.0}
    assert (headline(content) or "").startswith("47.6 % of the latency")


def test_a_file_that_was_run_is_compared_with_what_is_noise_left_open(manifest: Manifest) -> None:
    file = Deployed(
        runtime="onnxruntime 1.32.0",
        device="a CPU",
        multiplies_bytes=False,
        batch_size=1,
        original_ms=(1.9, 2.0, 2.1),
        delivered_ms=(0.9, 1.0, 1.1),
        original_bytes=400_000,
        delivered_bytes=104_000,
        test_score=98.5,
    )
    check = Int8Check(error=0.01, tolerance=0.1, float_layers={"up": "onnxruntime has none"})
    data = manifest.model_copy(update={"deployed": {"onnx-int8": file}, "onnx_int8": check})
    shown = data.model_dump(mode="json")
    rows = {row[0]: row[1:] for row in comparison_rows(shown)}
    assert rows["Size of the file, onnx-int8"] == ("400 kB", "104 kB", "26.0 %")
    speed = rows["Latency of onnx-int8 in onnxruntime 1.32.0, batch of 1"]
    assert speed == ("2.00 ms", "1.00 ms", "2x faster")
    assert rows["Accuracy of onnx-int8, test split"][1] == "98.5 %"
    assert "VNNI" in cautions(shown)[0]
    assert cautions(shown)[1] == "onnx-int8: up computes with floats, for onnxruntime has none"
    shown["deployed"]["onnx-int8"]["delivered_ms"] = (1.8, 1.95, 2.2)
    assert "no clear difference" in [row[-1] for row in comparison_rows(shown)]


def test_the_cost_that_was_bounded_comes_first(manifest: Manifest) -> None:
    bounded = manifest.model_copy(update={"budget": {"size_bytes": 40_000.0}})
    names = [row[0] for row in comparison_rows(bounded.model_dump(mode="json"))]
    assert names[:2] == ["Size of the tensors", "MACs per sample"]
