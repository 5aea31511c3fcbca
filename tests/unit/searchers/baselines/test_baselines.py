from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import zoo
from problems import toy_problem
from torch.utils.data import TensorDataset

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.ledger import EvaluationLedger, Progress
from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.baseline_search import run_baseline
from rl_compress.searchers.baselines.uniform import Uniform
from rl_compress.searchers.searcher import make_searcher
from rl_compress.space.budget import Budget
from rl_compress.space.projection import project
from rl_compress.space.space_config import PruningConfig, SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor


def test_uniform_tightens_from_everything_to_the_smallest(
    compressor: Compressor, budget: Budget
) -> None:
    uniform = Uniform(toy_problem(compressor.space, budget, compressor.costs))
    asked = []
    while (keep := uniform.ask()) is not None:
        asked.append(keep)
        assert len(set(keep.tolist())) == 1
    assert asked[0].tolist() == [1, 1, 1]
    assert all((after < before).all() for before, after in pairwise(asked))
    # The last one is narrower than the smallest in some group, yet not in all.
    assert (asked[-1] * compressor.space.full_amounts >= compressor.space.smallest).any()


def test_the_first_uniform_candidate_is_at_the_budget(
    compressor: Compressor, budget: Budget
) -> None:
    keep = Uniform(toy_problem(compressor.space, budget, compressor.costs)).ask()
    assert keep is not None
    levels = project(keep, budget, compressor.space, compressor.costs, fill=False)
    assert 0.8 < budget.usage(compressor.costs.costs(levels)) <= 1.0


@pytest.mark.parametrize(
    ("config", "learns", "curves"),
    [
        (SearchConfig(), True, True),
        (SearchConfig(algorithm="sac", prior="none"), True, False),
        (SearchConfig(algorithm="greedy"), False, True),
        (SearchConfig(algorithm="greedy_evolution"), False, True),
        (SearchConfig(algorithm="random"), False, False),
        (SearchConfig(algorithm="tpe"), False, False),
    ],
    ids=["ppo", "no-prior", "greedy", "greedy_evolution", "random", "tpe"],
)
def test_what_an_algorithm_needs(config: SearchConfig, learns: bool, curves: bool) -> None:
    assert (config.learns, config.needs == "curves") == (learns, curves)


class Run:
    """A real run of a baseline on a tiny target."""

    def __init__(self, folder: Path, limit: int, config: SpaceConfig | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        data = TensorDataset(
            torch.randn(8, 1, 8, 8, generator=generator), torch.zeros(8, dtype=torch.long)
        )
        model = zoo.make("plain")
        target = ClassificationTarget(lambda: model, dict.fromkeys(SPLITS, data))
        self.compressor = Compressor.prepare(model, zoo.EXAMPLE, config or SpaceConfig())
        self.space, self.costs = self.compressor.space, self.compressor.costs
        self.budget = Budget.parse({"macs": 0.5}, self.costs.costs(self.space.full))
        self.store = EvaluationStore(folder)
        self.ledger = EvaluationLedger(self.store, limit)
        self.candidates = CandidateEvaluator(
            Evaluator(target, self.compressor, "fidelity", EvaluationConfig()),
            self.ledger,
            self.space,
            lambda score, _costs: score,
            RunIdentity(run="toy", algorithm="toy", seed=0),
        )
        self.progress: list[Progress] = []

    def search(self, name: str, candidates: CandidateEvaluator | None = None) -> str | None:
        baseline = make_searcher(name, toy_problem(self.space, self.budget, self.costs))
        return run_baseline(
            baseline,
            candidates or self.candidates,
            self.ledger,
            self.progress.append,
        )


@pytest.mark.parametrize("name", ["random", "evolution", "tpe", "cmaes"])
def test_exactly_the_evaluations_asked_for_are_made(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path, 7)
    assert run.search(name) is None
    records = run.store.read()
    assert [record.evaluation_id for record in records] == list(range(7))
    assert len({record.policy_id for record in records}) == 7
    assert all(run.budget.admits(record.costs) for record in records)
    assert run.progress[-1].exhausted


@pytest.mark.parametrize("name", ["random", "evolution", "tpe", "cmaes"])
def test_a_resumed_search_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    Run(tmp_path / "parts", 3).search(name)
    resumed = Run(tmp_path / "parts", 12)
    resumed.search(name)
    whole = Run(tmp_path / "whole", 12)
    whole.search(name)
    assert [record.policy_id for record in resumed.store.read()] == [
        record.policy_id for record in whole.store.read()
    ]


def test_a_baseline_that_runs_out_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, 1000)
    assert run.search("uniform") == "the baseline has no other candidate"
    assert 1 < run.ledger.progress().done < 1000


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_compress.searchers.baseline_search._PATIENCE", 100)


@pytest.mark.usefixtures("_impatient")
def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    config = SpaceConfig(pruning=PruningConfig(max_ratio=0.7, round_to=8))
    run = Run(tmp_path, 1000, config)
    reason = run.search("random")
    assert reason is not None
    assert "no new variant" in reason


@pytest.mark.usefixtures("_impatient")
def test_a_search_whose_variants_all_fail_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, 5)
    calls = 0

    def fail(*_args: object) -> None:
        nonlocal calls
        calls += 1
        assert calls < 1000, "the search does not end"
        raise EvaluationError("variant failed")

    assert run.search("random", fail) is not None  # type: ignore[arg-type]
