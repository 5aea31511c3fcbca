from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from rl_compress.costs import device_profile
from rl_compress.costs.device_profile import DeviceProfile, known_devices
from rl_compress.errors import ConfigError
from rl_compress.registry import COSTS
from rl_compress.space.budget import parse_amount

PROFILE = """\
name: board
budget: {size_bytes: 64kB}
weight_bits: [4, 8]
activation_bits: [8]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "board.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mobile", "edge", "server"])
def test_the_profiles_of_the_package_are_sound(name: str) -> None:
    profile = DeviceProfile.load(name)
    assert profile.name == name
    for cost, amount in profile.budget.items():
        assert cost in COSTS
        assert parse_amount(cost, amount).number > 0
    # A job that quantizes nothing suits them all.
    profile.supports(16, 16)


def test_the_package_ships_them_as_data() -> None:
    root = Path(device_profile.__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    data = project["tool"]["setuptools"]["data-files"]
    assert data == {str(Path(device_profile._INSTALLED).parent): [device_profile._CHECKOUT]}


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "elsewhere"])
def test_an_installed_package_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    path = tmp_path / "share" / "rl-compress" / "devices" / "board.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(PROFILE, encoding="utf-8")
    monkeypatch.setattr(device_profile, "_HOME", tmp_path if beside else tmp_path / "site-packages")
    info = tmp_path / "site-packages" / "rl_compress-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: rl-compress\nVersion: 1\n", encoding="utf-8")
    (info / "RECORD").write_text("../share/rl-compress/devices/board.yaml,,\n", encoding="utf-8")
    distribution = importlib.metadata.PathDistribution(info)
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: distribution.files)
    assert list(known_devices()) == ["board"]
    assert DeviceProfile.load("board").weight_bits == [4, 8]


def test_a_file_of_ones_own_is_read(file: Path) -> None:
    profile = DeviceProfile.load(str(file))
    assert profile.budget == {"size_bytes": "64kB"}
    assert profile.latency_table is None


def test_a_table_lies_relative_to_the_profile(file: Path) -> None:
    file.write_text(PROFILE + "latency_table: tables/board.parquet\n", encoding="utf-8")
    found = DeviceProfile.load(str(file)).latency_table
    assert found == str(file.parent / "tables" / "board.parquet")


def test_an_unknown_device_is_named_with_those_known() -> None:
    with pytest.raises(ConfigError, match=r"'phone'; choose from edge, mobile, server, or"):
        DeviceProfile.load("phone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("name: [", "not valid YAML", id="yaml"),
        pytest.param("- a", "the profile: ", id="list"),
        pytest.param(PROFILE + "ram: 1\n", "ram: ", id="unknown-key"),
        pytest.param(PROFILE.replace("{size_bytes: 64kB}", "{}"), "budget: ", id="no-bound"),
        pytest.param(PROFILE.replace("[8]", "[]"), "activation_bits: ", id="no-bits"),
    ],
)
def test_a_file_that_is_no_profile_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"board\.yaml") as caught:
        DeviceProfile.load(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the profile .*absent\.yaml \(No such"):
        DeviceProfile.load(str(tmp_path / "absent.yaml"))


def test_bits_without_kernels_are_named(file: Path) -> None:
    profile = DeviceProfile.load(str(file))
    profile.supports(8, 8)
    profile.supports([4, 8], (8,))
    with pytest.raises(
        ConfigError, match=r"weight_bits: the device board does not support 2, 16 bits.*4, 8"
    ):
        profile.supports([16, 2, 4], 8)
    with pytest.raises(ConfigError, match=r"activation_bits: .* 4 bits; choose from 8"):
        profile.supports(8, 4)
