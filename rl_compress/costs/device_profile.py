"""Device profiles: what a kind of device can hold and compute, by name or from a file."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rl_compress.errors import ConfigError
from rl_compress.strict_yaml import load_yaml

_HOME = Path(__file__).parents[2]
_CHECKOUT, _INSTALLED = "tune_configs/devices/*.yaml", "share/rl-compress/devices/*.yaml"
_SUFFIXES = (".yaml", ".yml")


class DeviceProfile(BaseModel):
    """A device that models are compressed for."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Name of the device, for messages.")
    budget: dict[str, float | str] = Field(
        description="Upper bounds by cost, as in a job; a job's own bounds come on top."
    )
    weight_bits: list[int] = Field(
        min_length=1, description="Bits that its kernels take for weights; 16: not quantized."
    )
    activation_bits: list[int] = Field(
        min_length=1, description="Bits that its kernels take for activations; 16: not quantized."
    )
    latency_table: str | None = Field(
        default=None,
        description="A table that `rl-compress latency-table` measured on the device, relative to "
        "the profile's file; by default the one measured on the machine at hand.",
    )

    @field_validator("budget")
    @classmethod
    def _some_bound(cls, budget: dict[str, float | str]) -> dict[str, float | str]:
        if not budget:
            raise ValueError("give an upper bound on at least one cost")
        return budget

    @classmethod
    def load(cls, name_or_path: str) -> DeviceProfile:
        """Read a profile.

        Args:
            name_or_path: One of :func:`known_devices`, or a YAML file.

        Raises:
            ConfigError: There is no such device or file, or it is no profile.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix not in _SUFFIXES:
            known = known_devices()
            if name_or_path not in known:
                raise ConfigError(
                    f"device: unknown device {name_or_path!r}; choose from {', '.join(known)}, or "
                    f"give a profile of your own (.yaml)"
                )
            path = known[name_or_path]
        try:
            profile = cls.model_validate(load_yaml(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"device: cannot read the profile {path} ({reason})") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"device: {path} is not valid YAML ({_one_line(error)})") from None
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, problem['loc'])) or 'the profile'}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise ConfigError(f"device: {path}: {'; '.join(problems)}") from None
        if profile.latency_table is not None:
            table = path.parent / Path(profile.latency_table).expanduser()
            profile = profile.model_copy(update={"latency_table": str(table)})
        return profile

    def supports(
        self, weight_bits: int | Sequence[int], activation_bits: int | Sequence[int]
    ) -> None:
        """Make sure that the device has kernels for all bits that a job may choose.

        Args:
            weight_bits: ``space.quantization.weight_bits``: one, or several to choose from.
            activation_bits: ``space.quantization.activation_bits``, likewise.

        Raises:
            ConfigError: It has not; the message names the bits, and those that it has.
        """
        for key, wanted, own in (
            ("weight_bits", weight_bits, self.weight_bits),
            ("activation_bits", activation_bits, self.activation_bits),
        ):
            choices = [wanted] if isinstance(wanted, int) else wanted
            if lacking := sorted(set(choices) - set(own)):
                raise ConfigError(
                    f"space.quantization.{key}: the device {self.name} does not support "
                    f"{_listed(lacking)} bits; choose from {_listed(sorted(own))}"
                )


def known_devices() -> dict[str, Path]:
    """Return the profiles that come with the package, by name.

    They are in ``tune_configs/devices`` of a checkout. An installed package has them among its data
    files: where its metadata says, or beside it (``pip install --target``).
    """
    found = [*_HOME.glob(_CHECKOUT)] or [*_HOME.glob(_INSTALLED)] or _installed()
    return {path.stem: path for path in sorted(found)}


def _installed() -> list[Path]:
    files = importlib.metadata.files("rl-compress") or []
    return [Path(str(file.locate())) for file in files if file.match(f"*/{_INSTALLED}")]


def _listed(bits: Sequence[int]) -> str:
    return ", ".join(map(str, bits))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
