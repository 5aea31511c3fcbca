"""The evaluator: levels in, measured score and exact costs out. It knows neither Ray nor RL."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from rl_compress.costs.latency import measure_latency_ms
from rl_compress.errors import EvaluationError
from rl_compress.evaluation.heap import keep_freed_memory
from rl_compress.evaluation.measurement import Measurement
from rl_compress.evaluation.precision import Passes, Precision, passes_for
from rl_compress.evaluation.quantized_variant import quantize_variant
from rl_compress.evaluation.racing import Rival, Samples, looks, race
from rl_compress.evaluation.scores import Score, ScoreName, make_score
from rl_compress.evaluation.time_limit import within
from rl_compress.model.kept_state import own_buffers
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.model import Quantization
from rl_compress.repair.bias_correction import correct_bias
from rl_compress.repair.recalibration import has_batchnorm, recalibrate_batchnorm
from rl_compress.repair.reconstruction import reconstruct
from rl_compress.space.budget import LATENCY
from rl_compress.space.search_space import Levels
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target, device_of
from rl_compress.targets.threads import threads, threads_for
from rl_compress.variants.compressor import Compressor

_REMEMBERED = 2

Recalibration = Literal["auto", "batchnorm", "reconstruction", "bias", "none"]


class EvaluationConfig(BaseModel):
    """How every variant is prepared before it is scored."""

    model_config = ConfigDict(extra="forbid")

    recalibration: Recalibration = Field(
        default="auto",
        description=(
            "What repairs a variant on the calibration split: `batchnorm` re-estimates running "
            "statistics, `reconstruction` solves least squares layer by layer, `bias` corrects "
            "biases; `auto` takes batchnorm where the model has it, else reconstruction, and bias "
            "with sparse structures."
        ),
    )
    calibration_batches: int = Field(
        default=4, ge=1, description="Batches of the calibration split that recalibration uses."
    )
    precision: Precision = Field(
        default="float32",
        description=(
            "What the search computes variants' outputs in. `auto` takes `bfloat16` where the "
            "processor (or the GPU) computes in it, nothing is quantized and the model runs in it, "
            "else float32 with channels-last images; last digits of scores differ from `float32`. "
            "Sensitivities and the ranking of the ten best are in float32 whatever is chosen."
        ),
    )
    racing: bool = Field(
        default=False,
        description=(
            "Score a variant on 1/8, 1/4 and 1/2 of the search split (whole batches) first, and "
            "drop it once it is confidently worse than the best one: quicker where the split has "
            "eight batches or more. Only means over samples are raced (fidelity, accuracy); other "
            "scores are taken in full. Dropped variants are never the best nor on the Pareto "
            "front, so leave it off to trade the score for costs."
        ),
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description=(
            "Seconds after which an evaluation is given up: its variant has failed, gets the worst "
            "reward and is not tried again. A single call into native code is given up only when "
            "it returns. By default there is no limit."
        ),
    )

    def in_float32(self) -> EvaluationConfig:
        """Return the same, with everything computed in float32."""
        return self.model_copy(update={"precision": "float32"})


@dataclass(frozen=True, slots=True)
class _Built:
    """A variant that was built before it is evaluated."""

    key: bytes
    network: nn.Module
    wall_s: float


class Evaluator:
    """Builds, recalibrates and scores variants of one target."""

    def __init__(
        self,
        target: Target,
        compressor: Compressor,
        score: ScoreName,
        config: EvaluationConfig,
        *,
        latency: bool = False,
        score_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Put the shared weights on the GPU, if this process sees one, and score the reference.

        Args:
            target: Supplies data and score.
            compressor: Groups, costs and shared weights.
            score: Name of the objective's score.
            config: How variants are repaired.
            latency: Measure the latency of each variant too, batch size 1.
            score_options: Its options.
        """
        keep_freed_memory()
        self._target = target
        self._compressor = compressor
        self._config = config
        self._network = compressor.network
        macs = int(compressor.costs.original["macs"])
        self._threads = threads_for(macs * target.batch_size)
        if torch.cuda.is_available():
            self._network = compressor.network.to(torch.device("cuda"))
        self._reference = own_buffers(self._network.uncompressed())
        self._quantized = compressor.has_packed and not repairs_weights(self._reference, config)
        inputs: Inputs = ()
        if latency or config.precision != "float32":
            inputs = moved(target.inputs_for(self._reference), device_of(self._reference))
        self._inputs = inputs if latency else None
        self._passes = passes_for(config.precision, self._reference, inputs)
        with threads(self._threads):
            self._score = make_score(
                score, target, self._reference, score_options, sampled=config.racing
            )
        self._known: dict[bytes, Samples] = {}
        self._ahead: _Built | None = None

    @functools.cached_property
    def original_costs(self) -> dict[str, float]:
        """Return the uncompressed target's costs, with its latency where that is measured."""
        costs = dict(self._compressor.costs.original)
        if self._inputs is not None:
            costs[LATENCY] = measure_latency_ms(self._reference, self._inputs)
        return costs

    def in_float32(self) -> Evaluator:
        """Return an evaluator that measures the same in float32, or this one if it does."""
        if self._passes == Passes():
            return self
        exact = copy.copy(self)
        exact._passes, exact._known, exact._ahead = Passes(), {}, None
        return exact

    def build_ahead(self, levels: Levels) -> None:
        """Build a variant while its evaluation is not granted yet; nothing is run.

        Args:
            levels: As for :meth:`evaluate`, which takes the same time as without, but in two parts.
        """
        start = time.perf_counter()
        self._ahead = None
        # What fails here fails again when it is evaluated, where the reason is of use.
        with contextlib.suppress(Exception), threads(self._threads):
            network = self._built(levels)
            self._ahead = _Built(levels.tobytes(), network, time.perf_counter() - start)

    def variant(self, levels: Levels) -> nn.Module:
        """Return a variant, repaired and quantized as it would be for scoring."""
        return self._repaired(self._built(levels), levels)

    def _built(self, levels: Levels) -> nn.Module:
        amounts = self._compressor.space.amounts(levels)
        # Its forward pass may write into buffers, and those of the network are shared and mapped.
        return own_buffers(self._network.variant(amounts, quantized=self._quantized))

    def _repaired(self, variant: nn.Module, levels: Levels) -> nn.Module:
        sparse = bool(self._compressor.masks(levels))
        # Statistics are of the activations that are scored; what is solved for is exact.
        statistics = _method(variant, self._config, sparse=sparse) == "batchnorm"
        with (self._passes if statistics else Passes()).of(variant):
            prepare_variant(
                variant,
                self._reference,
                self._target,
                self._config,
                self._compressor,
                levels,
                ordered=True,
                weights_made=self._quantized,
            )
        return variant

    def evaluate(self, levels: Levels, rival: Rival | None = None) -> Measurement:
        """Measure one variant on the search split.

        Args:
            levels: Shape ``(D,)``.
            rival: Where variants are raced, the one to be beaten: a variant that is confidently
                worse is not scored to the end.

        Raises:
            EvaluationError: The variant's score is not a finite number, or it took too long.
        """
        return within(self._config.timeout_s, functools.partial(self._measure, levels, rival))

    def _measure(self, levels: Levels, rival: Rival | None) -> Measurement:
        start = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        costs = self._compressor.costs.costs(levels)
        with threads(self._threads):
            if ahead is not None and ahead.key == levels.tobytes():
                start -= ahead.wall_s
                variant = self._repaired(ahead.network, levels)
            else:
                variant = self.variant(levels)
            # Before the score, for the score that is needed depends on it.
            if self._inputs:
                costs[LATENCY] = measure_latency_ms(variant, self._inputs)
            with self._passes.of(variant):
                score, share = self._scored(variant, levels, rival, costs)
        if score != score or score in (float("inf"), float("-inf")):
            amounts = self._compressor.space.amounts(levels).tolist()
            raise EvaluationError(f"the variant with units and bits {amounts} scored {score}")
        return Measurement(score, costs, time.perf_counter() - start, share)

    def _scored(
        self, variant: nn.Module, levels: Levels, rival: Rival | None, costs: dict[str, float]
    ) -> tuple[float, float]:
        """Return a variant's score and the share of the search split that it is of."""
        score = self._score
        if not self._config.racing or not score.num_samples:
            return score(variant), 1.0
        comparisons = looks(score.num_samples, self._target.batch_size)
        if not comparisons:
            return score(variant), 1.0
        blocks = (block.double().cpu().numpy() for block in score.samples(variant))
        if rival is None:
            found = race(blocks)
        else:
            found = race(
                blocks,
                self._samples_of(rival.levels, score),
                comparisons=comparisons,
                score=rival.score,
                lead=rival.needed(costs) - rival.score,
            )
        if found.share == 1.0:
            self._remember(levels, found.samples)
        return found.score, found.share

    def _samples_of(self, levels: Levels, score: Score) -> Samples:
        """Return a rival's samples, scored once more if another process measured it."""
        samples = self._known.get(levels.tobytes())
        if samples is None:
            with self._passes.of(variant := self.variant(levels)):
                samples = torch.cat(list(score.samples(variant))).double().cpu().numpy()
        self._remember(levels, samples)
        return samples

    def _remember(self, levels: Levels, samples: Samples) -> None:
        """Keep the samples used last: of the rival, and of the one that may succeed it."""
        self._known.pop(levels.tobytes(), None)
        self._known[levels.tobytes()] = samples
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]


def prepare_variant(
    variant: nn.Module,
    reference: nn.Module,
    target: Target,
    config: EvaluationConfig,
    compressor: Compressor,
    levels: Levels,
    *,
    ordered: bool,
    weights_made: bool = False,
) -> Quantization:
    """Repair and quantize a variant: what is done to it before it is scored.

    Args:
        variant: Changed in place by assigning new tensors.
        reference: The uncompressed network.
        target: Supplies the calibration split.
        config: Which repair.
        compressor: Says what the variant keeps of the reference.
        levels: The variant's, shape ``(D,)``.
        ordered: Whether the reference's channels are in the shared network's order.
        weights_made: The variant's weights are quantized by now.

    Returns:
        What was quantized; nothing where the job does not ask for it.
    """
    kept, masks = compressor.kept_outputs(levels, ordered=ordered), compressor.masks(levels)
    bits = compressor.layer_bits(levels)

    def repair(network: nn.Module) -> None:
        recalibrate(network, reference, target, config, kept, sparse=bool(masks))

    if not bits:
        repair(variant)
        return Quantization()
    # Statistics can be estimated after the weights are final; weights cannot be solved for.
    early = not weights_made and _method(variant, config, sparse=bool(masks)) != "batchnorm"
    if early:
        repair(variant)
    return quantize_variant(
        variant,
        target,
        compressor.config,
        masks,
        bits,
        calibration_batches=config.calibration_batches,
        repair=(lambda _variant: None) if early else repair,
        weights_made=weights_made,
    )


def recalibrate(
    variant: nn.Module,
    reference: nn.Module,
    target: Target,
    config: EvaluationConfig,
    kept: dict[str, Tensor],
    *,
    sparse: bool = False,
) -> None:
    """Repair a variant's statistics on the calibration split; its tensors are replaced.

    Args:
        variant: Narrowed network, changed in place by assigning new tensors.
        reference: The uncompressed network.
        target: Supplies the calibration split.
        config: Which repair.
        kept: Output channels of the reference that each narrowed layer keeps.
        sparse: Whether weights are masked, which a reconstruction would fill again.
    """
    method = _method(variant, config, sparse=sparse)
    if method == "batchnorm":
        recalibrate_batchnorm(variant, target, max_batches=config.calibration_batches)
    elif method == "reconstruction":
        reconstruct(variant, reference, target, kept, max_batches=config.calibration_batches)
    elif method == "bias":
        correct_bias(variant, reference, target, kept, max_batches=config.calibration_batches)


def repairs_weights(network: nn.Module, config: EvaluationConfig) -> bool:
    """Say whether the repair changes weights, so that they can be quantized only after it."""
    return _method(network, config, sparse=False) == "reconstruction"


def _method(variant: nn.Module, config: EvaluationConfig, *, sparse: bool) -> Recalibration:
    if config.recalibration != "auto":
        return config.recalibration
    if has_batchnorm(variant):
        return "batchnorm"
    return "bias" if sparse else "reconstruction"
