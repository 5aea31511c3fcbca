from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_compress.errors import (
    ConfigError,
    CorruptFileError,
    RLCompressError,
    RunDirectoryError,
    UnsupportedLayerError,
)
from rl_compress.export import native, onnx_export
from rl_compress.export.artifact import ExportConfig, load_compressed, save_artifact
from rl_compress.export.format import Delivered
from rl_compress.export.manifest import FileEntry, Manifest
from rl_compress.export.packed_state import Packing
from rl_compress.model.axes import Axis
from rl_compress.quantizers.model import Quantization, quantize_weights
from rl_compress.space.compression_policy import CompressionPolicy, Decision
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.target import Target
from rl_compress.variants.copied_out import copied_out

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.data import Dataset

EXAMPLE = (torch.zeros(1, 1, 8, 8),)
POLICY = CompressionPolicy.from_mapping({"conv1": Decision(pruning_ratio=0.25)})
NO_ONNX = ExportConfig(onnx=False)


class Net(nn.Module):
    """Two convolutions and a linear layer whose weight is tied to a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.fc1 = nn.Linear(6, 6, bias=False)
        self.fc2 = nn.Linear(6, 6, bias=False)
        self.fc2.weight = self.fc1.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x)))))
        return self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))


class NetTarget(Target):
    """Has no data, and refuses to train: what loading must not need."""

    def __init__(self, extra_layer: bool = False) -> None:
        self.extra_layer = extra_layer

    def build(self) -> nn.Module:
        raise AssertionError("loading must not train")

    def architecture(self) -> nn.Module:
        model = Net()
        if self.extra_layer:
            model.extra = nn.Linear(2, 2)
        return model

    def split(self, name: str) -> Dataset[tuple[Tensor, Tensor]]:
        raise AssertionError("loading must not need data")

    def score(self, model: nn.Module, split: str) -> float:
        raise AssertionError("loading must not score")


@pytest.fixture(scope="module")
def compressed() -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    model.bn.running_mean = torch.randn(8)
    axes = {"conv1.weight": 0, "conv1.bias": 0, "conv2.weight": 1}
    axes |= {f"bn.{name}": 0 for name in ("weight", "bias", "running_mean", "running_var")}
    gone = [Axis(tensor, axis, np.array([[1], [6]])) for tensor, axis in axes.items()]
    return copied_out(model, gone).eval()


def save(
    directory: Path,
    compressed: nn.Module,
    config: ExportConfig = NO_ONNX,
    **options: Any,
) -> Manifest:
    target = {"factory": f"{__name__}:NetTarget", "options": options, "weights": None}
    manifest = Manifest(target=target, policy_id=POLICY.policy_id)
    return save_artifact(directory, Delivered(compressed, manifest, POLICY, EXAMPLE), config)


def test_a_loaded_model_computes_what_was_saved(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed)
    loaded = load_compressed(tmp_path / "best")
    assert not loaded.training
    assert loaded.get_parameter("conv1.weight").shape[0] == 6
    inputs = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(loaded(inputs), compressed(inputs), rtol=0, atol=0)


def test_tied_tensors_are_stored_once_and_stay_tied(compressed: nn.Module, tmp_path: Path) -> None:
    manifest = save(tmp_path / "best", compressed)
    assert manifest.aliases == {"fc2.weight": "fc1.weight"}
    with safe_open(tmp_path / "best" / "model.safetensors", "pt") as file:
        assert "fc2.weight" not in set(file.keys())
    loaded = load_compressed(tmp_path / "best")
    assert loaded.get_parameter("fc1.weight") is loaded.get_parameter("fc2.weight")


def test_overlapping_views_are_stored_whole(tmp_path: Path) -> None:
    model = nn.Module()
    shared = torch.arange(6.0)
    model.register_buffer("all", shared)
    model.register_buffer("head", shared[:2])
    manifest = Manifest(target={}, policy_id="a")
    manifest = save_artifact(tmp_path / "best", Delivered(model, manifest, POLICY, ()), NO_ONNX)
    assert manifest.aliases == {}
    assert load_file(tmp_path / "best" / "model.safetensors")["head"].tolist() == [0.0, 1.0]


def test_the_manifest_describes_the_files(compressed: nn.Module, tmp_path: Path) -> None:
    best = tmp_path / "best"
    manifest = save(best, compressed)
    assert Manifest.load(best / "manifest.json") == manifest
    assert sorted(path.name for path in best.iterdir()) == [
        "architecture.json",
        "manifest.json",
        "model.safetensors",
        "policy.json",
    ]
    assert manifest.files == {
        name: FileEntry.of(best / name)
        for name in ("architecture.json", "model.safetensors", "policy.json")
    }
    assert CompressionPolicy.load(best / "policy.json") == POLICY
    assert manifest.onnx_max_error is None


def test_files_are_as_readable_as_others(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed)
    other = tmp_path / "other"
    other.touch()
    modes = {path.stat().st_mode for path in (tmp_path / "best").iterdir()}
    assert modes == {other.stat().st_mode}


def test_a_newer_artefact_replaces_the_older_one(compressed: nn.Module, tmp_path: Path) -> None:
    best = tmp_path / "best"
    save(best, compressed)
    (best / "left_over").touch()
    save(best, compressed)
    assert not (best / "left_over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failure_half_way_leaves_the_older_artefact(
    compressed: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "best"
    before = save(best, compressed)

    def fail(*_: object, **_options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(native, "write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save(best, compressed)
    assert Manifest.load(best / "manifest.json") == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_rename_puts_the_older_artefact_back(
    compressed: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "best"
    before = save(best, compressed)
    rename = type(best).rename

    def fail(self: Path, to: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError("stale file handle")
        return rename(self, to)

    monkeypatch.setattr(type(best), "rename", fail)
    with pytest.raises(OSError, match="stale"):
        save(best, compressed)
    assert Manifest.load(best / "manifest.json") == before


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no compressed model here"):
        load_compressed(tmp_path)


def test_damaged_weights_are_named(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed)
    weights = tmp_path / "best" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: damaged"):
        load_compressed(tmp_path / "best")


def test_a_pickle_in_place_of_the_weights_is_not_loaded(
    compressed: nn.Module, tmp_path: Path
) -> None:
    manifest = save(tmp_path / "best", compressed)
    weights = tmp_path / "best" / "model.safetensors"
    torch.save(compressed.state_dict(), weights)
    manifest.files[weights.name] = FileEntry.of(weights)
    manifest.save(tmp_path / "best" / "manifest.json")
    with pytest.raises(CorruptFileError, match="not a readable safetensors file"):
        load_compressed(tmp_path / "best")


def test_a_missing_onnx_file_does_not_matter_for_loading(
    compressed: nn.Module, tmp_path: Path
) -> None:
    manifest = save(tmp_path / "best", compressed)
    manifest.files["model.onnx"] = FileEntry(bytes=1, sha256="0" * 64)
    manifest.save(tmp_path / "best" / "manifest.json")
    load_compressed(tmp_path / "best")


def without_architecture(folder: Path) -> None:
    """Leave an artefact whose architecture only the target's factory can make."""
    manifest = Manifest.load(folder / "manifest.json")
    del manifest.files["architecture.json"]
    manifest.save(folder / "manifest.json")


def test_a_model_is_loaded_in_another_folder_without_the_target(
    compressed: nn.Module, tmp_path: Path
) -> None:
    save(tmp_path / "best", compressed, extra_layer=True)
    shutil.move(tmp_path / "best", tmp_path / "elsewhere")
    inputs = torch.randn(3, 1, 8, 8)
    loaded = load_compressed(tmp_path / "elsewhere")
    assert torch.equal(loaded(inputs), compressed(inputs))
    assert loaded.get_submodule("conv1").out_channels == 6


def test_a_given_architecture_comes_first(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed)
    (tmp_path / "best" / "architecture.json").unlink()
    inputs = torch.randn(3, 1, 8, 8)
    loaded = load_compressed(tmp_path / "best", model=Net())
    assert torch.equal(loaded(inputs), compressed(inputs))
    with pytest.raises(CorruptFileError, match=r"architecture\.json: a part .* missing"):
        load_compressed(tmp_path / "best")


def test_a_class_that_is_not_at_hand_is_named(compressed: nn.Module, tmp_path: Path) -> None:
    manifest = save(tmp_path / "best", compressed)
    path = tmp_path / "best" / "architecture.json"
    path.write_text(path.read_text().replace(f"{__name__}:Net", "not_there:Net"))
    manifest.files[path.name] = FileEntry.of(path)
    manifest.save(tmp_path / "best" / "manifest.json")
    with pytest.raises(ConfigError, match=r"not_there:Net cannot be imported.*model=…"):
        load_compressed(tmp_path / "best")


def test_what_is_no_plain_data_is_left_to_the_factory(tmp_path: Path) -> None:
    model = Net().eval()
    model.scale = lambda x: x
    manifest = save(tmp_path / "best", model)
    assert "architecture.json" not in manifest.files
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_compressed(tmp_path / "best")(inputs), model(inputs))


@pytest.mark.parametrize("bits", [1, 4])
def test_packed_in_memory_a_model_computes_the_same(tmp_path: Path, bits: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 32)).eval()
    config = QuantizationConfig(weight_bits=bits)
    found = quantize_weights(model, config, {"0": bits, "2": bits})
    manifest = Manifest(target={}, policy_id="a")
    packing = Packing(Quantization(found))
    delivered = Delivered(model, manifest, POLICY, EXAMPLE, packing)
    save_artifact(tmp_path / "best", delivered, NO_ONNX)

    loaded = load_compressed(tmp_path / "best", packed=True)

    inputs = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(inputs), model(inputs))
    held = [*loaded.parameters(), *loaded.buffers()]
    file = (tmp_path / "best" / "model.safetensors").stat().st_size
    assert sum(tensor.nbytes for tensor in held) <= 1.2 * file


def test_a_target_whose_code_has_changed_is_refused(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed, extra_layer=True)
    without_architecture(tmp_path / "best")
    with pytest.raises(ConfigError, match=r"tensors do not fit.*extra\.weight"):
        load_compressed(tmp_path / "best")


def test_an_artefact_of_the_release_before_is_read(compressed: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "best", compressed)
    path = tmp_path / "best" / "manifest.json"
    cuts = {"format_version": 3, "history": [["conv1", True, [1, 6]]]}
    path.write_text(json.dumps(json.loads(path.read_text()) | cuts))
    inputs = torch.randn(3, 1, 8, 8)
    assert torch.equal(load_compressed(tmp_path / "best")(inputs), compressed(inputs))


def test_a_manifest_without_a_usable_target_is_refused(
    compressed: nn.Module, tmp_path: Path
) -> None:
    save(tmp_path / "best", compressed)
    path = tmp_path / "best" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target": {"module": "x"}}))
    without_architecture(path.parent)
    with pytest.raises(ConfigError, match="target must have the keys"):
        load_compressed(tmp_path / "best")


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    manifest = Manifest(target={}, policy_id="a")
    with pytest.raises(UnsupportedLayerError, match=r"_extra_state.*must be tensors"):
        save_artifact(tmp_path / "best", Delivered(Odd(), manifest, POLICY, EXAMPLE), NO_ONNX)
    assert list(tmp_path.iterdir()) == []


def test_module_that_looks_at_its_version_is_loaded_again(
    compressed: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision's MNASNet does."""
    versions = []

    def load(self: Net, state: Any, prefix: str, local: Any, *rest: Any) -> None:
        versions.append(local.get("version"))
        nn.Module._load_from_state_dict(self, state, prefix, local, *rest)

    monkeypatch.setattr(Net, "_version", 2)
    monkeypatch.setattr(Net, "_load_from_state_dict", load)
    save(tmp_path / "best", compressed)

    load_compressed(tmp_path / "best")

    assert versions == [2]


def test_onnx_is_written_and_its_error_recorded(compressed: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    manifest = save(tmp_path / "best", compressed, ExportConfig(onnx=True))
    assert manifest.onnx_max_error is not None
    assert manifest.onnx_max_error <= 1e-4
    assert manifest.files["model.onnx"] == FileEntry.of(tmp_path / "best" / "model.onnx")


class TestFailingOnnx:
    @pytest.fixture(autouse=True)
    def _fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(model: nn.Module, inputs: object, path: Path) -> float:
            path.write_bytes(b"half a file")
            raise RLCompressError("export.onnx: the model cannot be exported")

        monkeypatch.setattr(onnx_export, "export_onnx", fail)
        monkeypatch.setattr(onnx_export, "_PACKAGES", ())

    def test_is_only_warned_of_by_default(
        self, compressed: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            manifest = save(tmp_path / "best", compressed, ExportConfig())
        assert "cannot be exported" in caplog.text
        assert "model.onnx" not in manifest.files
        assert not (tmp_path / "best" / "model.onnx").exists()

    def test_is_an_error_where_onnx_was_asked_for_but_loses_nothing(
        self, compressed: nn.Module, tmp_path: Path
    ) -> None:
        with pytest.raises(RLCompressError, match=r"cannot be exported .*other files are in"):
            save(tmp_path / "best", compressed, ExportConfig(onnx=True))
        load_compressed(tmp_path / "best")
