"""What every format must hold to, the user's own as well."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rl_compress.export.format import Delivered
from rl_compress.export.manifest import Manifest
from rl_compress.export.packed_state import Packing
from rl_compress.registry import FORMATS
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.target import Target

ALL = [*FORMATS.built_in, "own_format:Listing"]


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_returned_and_the_model_is_left_as_it_was(
    name: str, target: Target, tmp_path: Path
) -> None:
    made, options = FORMATS.load(name, key="export.formats")
    one = made(options)
    one.check()
    model = target.build().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    manifest = Manifest(target={"factory": "tiny_target:tiny"}, policy_id="none")
    inputs = target.example_inputs()
    delivered = Delivered(
        model, manifest, CompressionPolicy(()), inputs, Packing(), lambda _split: iter([inputs])
    )
    files = one.write(delivered, tmp_path)
    assert sorted(files) == sorted(tmp_path.iterdir()) != []
    assert all(path.stat().st_size for path in files)
    assert delivered.entries.keys() <= Manifest.model_fields.keys()
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
