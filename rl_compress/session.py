"""The session: a job carried out in a run directory, step by step."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rl_compress.agent.config import SearchConfig
from rl_compress.costs.latency import REPEATS, WARMUP
from rl_compress.costs.latency_ms import LatencyMs
from rl_compress.costs.latency_table import LatencyTable
from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.ledger import EvaluationLedger, Progress
from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.evaluation.precision import settled
from rl_compress.evaluation.shared import SharedEvaluator, SharedMeasurements, Sharing
from rl_compress.export.delivery import deliver
from rl_compress.export.fine_tuned import FineTuned, Original, fine_tune_variant
from rl_compress.export.manifest import Manifest
from rl_compress.export.verification import best_distinct, verify
from rl_compress.importance.contribution import Train
from rl_compress.job import Job
from rl_compress.model.copies import copied
from rl_compress.model.nested import Inputs
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.report.report import build_report
from rl_compress.report.run_files import read_run
from rl_compress.report.run_summary import summarize
from rl_compress.report.verification import better_than_delivered
from rl_compress.runs.pareto import pareto_front
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.baseline_search import run_baseline
from rl_compress.searchers.convergence import Convergence
from rl_compress.searchers.objective import Objective
from rl_compress.searchers.preparation import parse_budgets, sound_target, table_for
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import make_searcher
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.searchers.shared_curves import (
    find_curves,
    measurement_key,
    score_of,
    shared_path,
)
from rl_compress.space.budget import LATENCY
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.batches import moved
from rl_compress.targets.soundness import Soundness, score_splits
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target
from rl_compress.training.iterative import train_scaled
from rl_compress.training.pretraining import pretrain
from rl_compress.variants.compressor import Compressor

_RANKED = 10
"""Best variants of a search that are compared in float32."""


class Session:
    """What is done with a job: :meth:`prepare`, :meth:`search`, :meth:`choose`, :meth:`deliver`,
    :meth:`report`, one after the other, or those of them that a command needs.

    A copy with another job, run or target goes the same way: so are searches compared, and runs
    rehearsed.
    """  # noqa: D205

    target: Target
    model: nn.Module
    """The uncompressed model, on the CPU."""
    example_inputs: Inputs
    problem: Problem
    soundness: Soundness | None
    """How the uncompressed model scores on some samples of each split."""
    progress: Progress
    """How far the search came."""
    stopped_early: str | None = None
    """Why it ended before all evaluations were made."""
    best: EvaluationRecord
    """The evaluation with the highest reward, once it is chosen."""

    def __init__(
        self,
        job: Job,
        run: RunDirectory,
        *,
        monitor: Monitor | None = None,
        address: str | None = None,
        measurements: SharedMeasurements | None = None,
    ) -> None:
        """Begin; nothing is built or written.

        Args:
            job: What to compress, and how far.
            run: Where the run's files go.
            monitor: Hears of progress.
            address: A Ray cluster; by default a local one is started.
            measurements: What other trials of the same sweep measured; the run is one of them.
        """
        self.job = job
        self.run = run
        self.monitor = monitor or SilentMonitor()
        self.address = address
        self.measurements = measurements
        self.settings: SearchConfig = job.search

    def prepare(
        self, built: Callable[[nn.Module, Target], None] = lambda _model, _target: None
    ) -> None:
        """Build the target, train it first where the job says so, and look at its layers.

        Args:
            built: Called with the model when it has proved sound, before it is trained.

        Raises:
            ConfigError: Target, data, space or budget cannot be used; the message names the key
                and the remedy.
        """
        job = self.job
        self.monitor.phase("preparation")
        job.check_parts()
        budget = job.effective_budget()
        self.target, self.model, self.example_inputs = sound_target(
            job.target, job.space, job.objective
        )
        table = self._latency_table(budget)
        built(self.model, self.target)
        if job.pretraining.mode != "none":
            self.monitor.phase("pre-training")
            self.pretrain(self.run.pretraining)
            self.monitor.phase("preparation")
        compressor = self._compressor()
        if table is not None:
            predictor = table.predictor(self.model, compressor.network.groups)
            compressor.costs.add(LATENCY, LatencyMs(predictor))
        for name, key in job.own_costs().items():
            compressor.costs.add_own(name, key)
        own, others = parse_budgets(budget, job.search.budgets, compressor)
        self.problem = Problem(
            target=job.target,
            compressor=compressor,
            budget=own,
            others=others,
            objective=job.objective,
            evaluation=job.evaluation,
            identity=RunIdentity(
                run=self.run.name,
                trial="" if self.measurements is None else self.run.name,
                algorithm=job.search.algorithm,
                seed=job.search.seed,
            ),
            latency_table=table,
            contribution_threshold=job.contribution.threshold,
        )
        macs = self.problem.original_costs["macs"]
        self.soundness = score_splits(self.target, self.model, macs)

    def search(self) -> None:
        """Search until the evaluations are used up.

        Raises:
            RLCompressError: The search cannot go on; evaluations made are kept.
        """
        self._settle_precision()
        problem, run = self.problem, self.run
        own = self.evaluator()
        evaluator, exact = self._shared(own), self._shared(own.in_float32(), exact=True)
        store = run.store()
        ledger = EvaluationLedger(store, self.settings.evaluations, problem.may_win)
        self.monitor.searched(ledger.progress())
        if self.settings.needs == "curves":
            problem = dataclasses.replace(problem, curves=self.curves(exact))
        run.push()
        reward = Objective(problem.objective, evaluator.original_costs)
        candidates = CandidateEvaluator(evaluator, ledger, problem.space, reward, problem.identity)
        if self.settings.learns:
            self._learn(problem, candidates, ledger)
        else:
            searcher = make_searcher(
                self.settings.algorithm, problem, self.settings.algorithm_options
            )
            convergence = Convergence(self.settings.convergence, store.read)
            self.stopped_early = run_baseline(
                searcher, candidates, ledger, self.monitor.searched, convergence
            )
            self.progress = ledger.progress()
        store.compact()

    def choose(self) -> EvaluationRecord:
        """Write the Pareto front; return the record with the highest reward within the budget.

        The front is over all records, those for other budgets included, as they were measured.
        Where that was not in float32, the ten best are measured again in it, and the best is one of
        them.

        Raises:
            EvaluationError: There is no such record; the message says why the search stopped.
        """
        records = EvaluationStore(self.run.evaluations).read()
        eligible = list(filter(self.problem.may_win, records))
        ranking = self._ranking(best_distinct(eligible, _RANKED))
        best = best_distinct(eligible, 1, ranking)
        if not best:
            raise EvaluationError(
                f"{self.run.location}: no variant could be evaluated ({self.stopped_early})"
            )
        objectives = self.job.objective.objectives(self.job.effective_budget())
        self.run.write_records("pareto.parquet", pareto_front(records, objectives))
        self.best = best[0]
        return self.best

    def deliver(
        self,
        policy: CompressionPolicy,
        directory: Path,
        *,
        passes: tuple[int, int] = (WARMUP, REPEATS),
        finished: Callable[[nn.Module], None] = lambda _model: None,
    ) -> Manifest:
        """Carry out a policy: cut, repair, fine-tune, measure, save.

        Args:
            policy: A decision for every prunable group; rounded to what is allowed.
            directory: Where the artefact goes.
            passes: Forward passes before latency is timed, and those that are timed.
            finished: Is shown the model, on the CPU, before it is saved.

        Raises:
            ConfigError: The policy does not fit the target or exceeds the budget.
        """
        job, problem = self.job, self.problem
        levels = problem.space.levels_of(policy)
        if not problem.budget.admits(costs := problem.costs.costs(levels)):
            bounds = problem.budget.as_dict()
            raise ConfigError(f"policy: its costs {costs} exceed the budget {bounds}")
        self.monitor.phase("fine-tuning")
        return deliver(
            directory,
            self._original(),
            levels,
            job,
            passes=passes,
            finished=finished,
            advance=self.monitor.step,
        )

    def verify(self, count: int, manifest: Manifest, seconds: float) -> None:
        """Fine-tune the best candidates too, to see whether the search ordered them right.

        Args:
            count: How many.
            manifest: Of the one delivered, which is done already.
            seconds: How long that took.
        """
        job, run, problem = self.job, self.run, self.problem
        self.monitor.phase("verification")

        def fine_tune(policy: CompressionPolicy) -> FineTuned:
            levels = problem.space.levels_of(policy)
            return fine_tune_variant(self._original(), levels, job, device=_device())

        assert manifest.scores is not None, "what was delivered just now has scores"
        scores = manifest.scores.search
        records = EvaluationStore(run.evaluations).read()
        rows = verify(
            run.verification,
            best_distinct(list(filter(problem.may_win, records)), count, run.ranking()),
            delivered={manifest.policy_id: (scores.before_finetuning, scores.delivered, seconds)},
            fine_tune=fine_tune,
            score=lambda variant: scored(self.target, variant.model, "search"),
            advance=self.monitor.step,
        )
        if better := better_than_delivered(rows):
            run.write_text("better_policy.json", f"{better.policy}\n")

    def report(self) -> None:
        """Write the summary and the report; the run is finished."""
        self.monitor.phase("report")
        progress = dataclasses.replace(self.progress, best=self.best)
        self.run.write_json("summary.json", summarize(read_run(self.run.path), progress))
        build_report(self.run.path)
        self.run.finish()

    def pretrain(self, folder: Path) -> None:
        """Train the model, in place, with checkpoints in a folder that are taken up."""
        config, advance = self.job.pretraining, self.monitor.step
        pretrain(self.model, self.target, config, folder, device=_device(), progress=advance)

    def evaluator(self) -> Evaluator:
        """Return an evaluator of the problem's variants, for this process."""
        return self.problem.evaluator(self.target)

    def curves(self, evaluator: Evaluator | SharedEvaluator) -> SensitivityCurves:
        """Return the sensitivity curves, which are kept in the run; see :func:`find_curves`.

        Args:
            evaluator: Measures in float32.
        """
        count = self.settings.sensitivity_levels
        return find_curves(
            self.run.sensitivity,
            shared_path(self.problem, self.target, self.model, count),
            self.problem.space,
            evaluator,
            count,
            advance=self.monitor.step,
            say=self.monitor.say,
        )

    def _original(self) -> Original:
        """Return what delivery needs to know of the target."""
        problem = self.problem
        return Original(
            target=self.target,
            model=self.model,
            example_inputs=self.example_inputs,
            compressor=problem.compressor,
            budget=problem.budget,
            latency_table=problem.latency_table,
        )

    def _latency_table(self, budget: dict[str, float | str]) -> LatencyTable | None:
        """Return what latencies are predicted from, where a budget bounds them."""
        job, profile = self.job, self.job.device_profile()
        if not any(LATENCY in spec for spec in (budget, *job.search.budgets)):
            return None
        path = None if profile is None or profile.latency_table is None else profile.latency_table
        return table_for(
            self.model,
            self.example_inputs,
            job.space,
            None if path is None else Path(path),
            job.export.latency_batch_size,
        )

    def _compressor(self) -> Compressor:
        contribution = self.job.contribution
        if self.job.search.needs != "contributions":
            # To rank units for another search they are measured once, at full keep-ratios.
            contribution = contribution.model_copy(update={"iterations": 1})
        between: Train | None = None
        if contribution.finetune_steps:
            between = functools.partial(
                train_scaled, teacher=self.model, target=self.target, config=contribution
            )
        return Compressor.prepare(
            self.model,
            self.example_inputs,
            self.job.space,
            target=self.target,
            contribution=contribution,
            train=between,
        )

    def _settle_precision(self) -> None:
        """Settle how all processes of a run measure, on whichever machines it goes on."""
        if self.problem.evaluation.precision != "auto":
            return

        def choose() -> str:
            model = copied(self.model).to(_device())
            inputs = moved(self.example_inputs, _device())
            quantized = self.job.space.quantization.quantizes
            return settled("auto", model, inputs, quantized=quantized)

        chosen = self.run.settle("precision.txt", choose)
        evaluation = self.problem.evaluation.model_copy(update={"precision": chosen})
        self.problem = dataclasses.replace(self.problem, evaluation=evaluation)

    def _sharing(self, *, exact: bool = False) -> Sharing | None:
        """Return where to look for others' measurements; None outside a sweep."""
        if self.measurements is None:
            return None
        problem = self.problem
        if exact:
            problem = dataclasses.replace(problem, evaluation=problem.evaluation.in_float32())
        latencies = pickle.dumps((problem.objective.needs_latency, problem.latency_table))
        key = measurement_key(problem, self.target, self.model, latencies=latencies)
        return Sharing(self.measurements, key, problem.identity.trial)

    def _shared(self, evaluator: Evaluator, *, exact: bool = False) -> Evaluator | SharedEvaluator:
        """Return an evaluator that asks other trials first, in a sweep."""
        sharing = self._sharing(exact=exact)
        if sharing is None:
            return evaluator
        return SharedEvaluator(evaluator, self.problem.space, sharing)

    def _learn(
        self, problem: Problem, candidates: CandidateEvaluator, ledger: EvaluationLedger
    ) -> None:
        """Search with an agent, on Ray."""
        # Ray takes seconds to import, and baselines do without it.
        from rl_compress.agent.rllib.driver import run_rllib
        from rl_compress.agent.rllib.standby import portable_factory
        from rl_compress.agent.rllib.weights import write_weights
        from rl_compress.agent.task import set_up

        task = set_up(problem, self.settings, candidates)
        self.progress = ledger.progress()
        self.monitor.searched(self.progress)
        if self.progress.exhausted:
            return
        tensors = problem.compressor.network.tensors
        weights = write_weights(tensors)
        compressor = problem.compressor.with_tensors(tensors, weights.with_suffix(""))
        task = dataclasses.replace(
            task,
            problem=dataclasses.replace(problem, compressor=compressor.without_weights()),
            sharing=self._sharing(),
            weights=weights,
            factory=portable_factory(problem.target),
        )
        self.progress, self.stopped_early = run_rllib(
            task,
            self.settings,
            store=self.run.store(),
            checkpoints=self.run.checkpoints,
            on_checkpoint=self.run.push,
            tensorboard=self.run.path / "tensorboard",
            address=self.address,
            monitor=self.monitor,
        )

    def _ranking(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        """Return records' rewards as measured in float32, by policy id, and keep them in the run.

        What was measured before is not measured again, and what fails is left out. Where the
        search measures in float32 there is nothing to do.
        """
        problem = self.problem
        if problem.evaluation.precision == "float32":
            return {}
        exact, rewards = self.evaluator().in_float32(), self.run.ranking()
        reward = Objective(problem.objective, exact.original_costs)
        for record in records:
            if record.policy_id not in rewards:
                score = score_of(exact, problem.space.levels_of(record.realised_policy()))
                if score is not None:
                    rewards[record.policy_id] = reward(score, record.costs)
                    self.run.write_ranking(rewards)
        return rewards


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
