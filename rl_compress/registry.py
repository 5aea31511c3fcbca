"""The registries of parts that a job calls by name: built in, installed, or the user's own.

A part is named by what the table here calls it, by the name of an entry point of an installed
package (groups are called as ``rl_compress.quantizers``), or as ``package.module:Class``. Names
stand for import paths, so that a job can be checked without importing any of them. Its options, in
the key beside its name, are those of its class's own ``Config``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from rl_compress.errors import ConfigError, RLCompressError, summary
from rl_compress.validation import did_you_mean, in_words

Options = dict[str, Any]
"""What a job says of a part beside its name."""


class Part:
    """Base of all parts."""

    class Config(BaseModel):
        """Options in a job; a part that has some derives its own from this one."""

        model_config = ConfigDict(extra="forbid")

    config: Any = Config()
    """The options."""

    def __init__(self, config: Any = None) -> None:
        """Keep the options, an instance of ``Config``."""
        self.config = config or self.Config()


@contextlib.contextmanager
def running(part: Part, key: str) -> Iterator[None]:
    """Name the key of a part whose own code fails within the block.

    Raises:
        ConfigError: It does.
    """
    try:
        yield
    except RLCompressError:
        raise
    except Exception as error:
        raise ConfigError(f"{key}: {type(part).__name__} failed ({summary(error)})") from error


class Registry:
    """Parts of one kind; as the annotation of a job's key, it validates the name."""

    def __init__(self, kind: str, base: str | None, built_in: Mapping[str, str]) -> None:
        """Name what is built in.

        Args:
            kind: In the plural, as in the name of the group of entry points.
            base: Import path of the class that parts must be derived from; None: anything goes
                that can be called.
            built_in: Import path, ``package.module:Class``, of each name.
        """
        self.kind = kind
        self.base = base
        self.built_in = dict(built_in)

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        found = {
            point.name: point.value for point in entry_points(group=f"rl_compress.{self.kind}")
        }
        return found | self.built_in

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def path(self, name: str, also: Sequence[str] = ()) -> str:
        """Return the import path that a name stands for; nothing is imported.

        Args:
            name: A name or an import path.
            also: Other names that would be right, for the message.

        Raises:
            ValueError: It is no name of this kind, and no path.
        """
        module, _, attribute = name.partition(":")
        if module and attribute.isidentifier():
            return name
        if (known := self.built_in.get(name) or self._paths.get(name)) is not None:
            return known
        names = [*also, *self._paths]
        hint = did_you_mean(name, names)
        wanted = "Class" if self.base else "callable"
        raise ValueError(
            f"must be {', '.join(names)}, or your own as package.module:{wanted}"
            + (f" ({hint[2:]})" if hint else "")
        )

    def find(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            ConfigError: It cannot be imported, or is something else.
        """
        found = imported(self.path(name))
        if self.base is None:
            if not callable(found):
                raise ConfigError(f"{name} must be callable, but is of type {type(found).__name__}")
        elif not (isinstance(found, type) and issubclass(found, imported(self.base))):
            raise ConfigError(f"{name} must be a class derived from {self.base.replace(':', '.')}")
        return found

    def load(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        key: str,
        options_key: str | None = None,
    ) -> tuple[Any, BaseModel]:
        """Import a part and validate its options.

        Args:
            name: A name or an import path.
            options: As in the job.
            key: The job's, for messages.
            options_key: That of the options; by default ``<key>_options``.

        Returns:
            The class, and its options as an instance of its ``Config``.

        Raises:
            ConfigError: There is no such part, or it has no such options; the message says which.
        """
        try:
            made = self.find(name)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{key}: {error}") from error
        try:
            return made, made.Config.model_validate(options or {})
        except ValidationError as error:
            prefix = f"{options_key or f'{key}_options'}."
            raise ConfigError(in_words(error, made.Config, prefix)) from None

    def name_of(self, part: type) -> str:
        """Return the name by which a class is found again."""
        path = f"{part.__module__}:{part.__name__}"
        return next((name for name, known in self.built_in.items() if known == path), path)

    def _checked(self, name: str) -> str:
        self.path(name)
        return name

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"type": "string", "examples": list(self.built_in)}


def imported(path: str) -> Any:
    """Return what ``package.module:name`` stands for; a module beside the user's job is found.

    Raises:
        ConfigError: It cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    # As `python -m` does.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    # A module that parses the command line ends with SystemExit.
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"there is no module {missing!r} (for {path!r}), neither installed nor in {here}; "
                f"start in the folder that holds it, or install it"
            ) from None
        raise ConfigError(
            f"importing {module_name} failed ({summary(error)}); `python -m {module_name}` shows "
            f"all"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        if module_name == "__main__":
            raise ConfigError(
                f"{path!r} is of the script or notebook that runs, but this one has no "
                f"{attribute!r}; define it there, or put it into a module and name that"
            ) from None
        raise ConfigError(
            f"module {module_name} has no {attribute!r}{did_you_mean(attribute, dir(module))}"
        ) from None


IMPORTANCES = Registry(
    "importances",
    "rl_compress.importance.importance:Importance",
    {
        "l1": "rl_compress.importance.norms:L1",
        "l2": "rl_compress.importance.norms:L2",
        "batchnorm": "rl_compress.importance.batchnorm:BatchNormScale",
        "taylor": "rl_compress.importance.taylor:Taylor",
        "geometric_median": "rl_compress.importance.geometric_median:GeometricMedian",
        "activation": "rl_compress.importance.activation:Activation",
        "contribution": "rl_compress.importance.by_contribution:ByContribution",
        "random": "rl_compress.importance.random_scores:Random",
    },
)

FORMATS = Registry(
    "formats",
    "rl_compress.export.format:Format",
    {
        "native": "rl_compress.export.native:Native",
        "onnx": "rl_compress.export.onnx_export:Onnx",
        "onnx-int8": "rl_compress.export.onnx_int8:OnnxInt8",
    },
)

SCORES = Registry(
    "scores",
    "rl_compress.evaluation.scores:Score",
    {
        "fidelity": "rl_compress.evaluation.fidelity:Fidelity",
        "robust_accuracy": "rl_compress.evaluation.robust_score:RobustScore",
    },
)

SEARCHERS = Registry(
    "searchers",
    "rl_compress.searchers.searcher:Searcher",
    {
        "uniform": "rl_compress.searchers.baselines.uniform:Uniform",
        "global": "rl_compress.searchers.baselines.thresholds:Global",
        "random": "rl_compress.searchers.baselines.random_levels:Random",
        "greedy": "rl_compress.searchers.baselines.greedy:Greedy",
        "evolution": "rl_compress.searchers.baselines.evolution:Evolution",
        "greedy_evolution": "rl_compress.searchers.baselines.evolution:GreedyEvolution",
        "tpe": "rl_compress.searchers.baselines.optuna_search:TPE",
        "cmaes": "rl_compress.searchers.baselines.optuna_search:CMAES",
        "contribution": "rl_compress.searchers.baselines.thresholds:Contribution",
    },
)

TARGETS = Registry(
    "targets",
    None,
    {
        "digits": "rl_compress.targets.digits:digits",
        "fashion_mnist": "rl_compress.targets.fashion_mnist:fashion_mnist",
        "regression": "rl_compress.targets.regression:regression",
    },
)

QUANTIZERS = Registry(
    "quantizers",
    "rl_compress.quantizers.quantizer:Quantizer",
    {
        "symmetric": "rl_compress.quantizers.symmetric:Symmetric",
        "uniform": "rl_compress.quantizers.uniform:Uniform",
        "piecewise": "rl_compress.quantizers.piecewise:Piecewise",
        "cumulative_shift": "rl_compress.quantizers.cumulative_shift:CumulativeShift",
        "polynomial": "rl_compress.quantizers.polynomial:Polynomial",
        "kmeans": "rl_compress.quantizers.kmeans:KMeans",
    },
)
