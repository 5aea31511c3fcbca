from __future__ import annotations

from collections import UserDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError
from rl_compress.export import onnx_export
from rl_compress.export.onnx_export import MAX_ERROR, Onnx, export_onnx

if TYPE_CHECKING:
    from pathlib import Path


class Noisy(nn.Module):
    """Computes something else in evaluation than in the exported graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_compiling() else x


def test_the_exported_model_agrees_at_any_batch_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()).eval()
    path = tmp_path / "model.onnx"
    error = export_onnx(model, (torch.rand(1, 1, 6, 6),), path)
    assert 0.0 <= error <= MAX_ERROR
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert "".join(capfd.readouterr()) == ""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = torch.rand(5, 1, 6, 6)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), model(inputs).detach())


class Named(nn.Module):
    """Takes two inputs and an option by name, and returns what only it knows."""

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Any:
        return UserDict(length=x.sum(dim=1), logits=x - 2 * y * scale)


@pytest.mark.parametrize("by_name", [True, False])
def test_inputs_keep_their_names(tmp_path: Path, by_name: bool) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    parts = {"y": torch.rand(1, 3), "x": torch.rand(1, 3), "scale": 3.0}
    export_onnx(Named().eval(), parts if by_name else (parts["x"], parts["y"], 3.0), path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, y = torch.rand(4, 3), torch.rand(4, 3)
    _, logits = session.run(None, {"y": y.numpy(), "x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), x - 6 * y)


def test_a_model_that_computes_otherwise_in_onnx_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(RLCompressError, match="differ by"):
        export_onnx(Noisy().eval(), (torch.rand(1, 4),), tmp_path / "model.onnx")


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "_PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigError, match="pip install"):
        Onnx().check()
