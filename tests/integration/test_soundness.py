"""What a run would find late is refused by `check`, and by `search` before it measures anything."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Outcome, make_job, read_records, run_here, write_job

from rl_compress import load_compressed
from rl_compress.execution import check
from rl_compress.job import parse_job
from rl_compress.rehearsal import rehearse


def _check(folder: Path, fault: str, **changes: Any) -> Outcome:
    changes |= {"target": {"factory": "unsound_target:unsound", "options": {"fault": fault}}}
    return run_here("check", write_job(folder, **changes))


REFUSED = [
    pytest.param("out of range", ["'search'", "from 0 to 4", "4 classes"], id="out of range"),
    pytest.param("negative", ["'train'", "from -1 to 2"], id="negative"),
    pytest.param("one-hot", ["'test'", "(2, 4)", "one-hot"], id="one-hot"),
    pytest.param("column", ["'calibration'", "(2, 1)", "squeeze"], id="column"),
    pytest.param("floats", ["'search'", "integer type", "float32"], id="floats"),
    pytest.param("overflow", ["'calibration'", "outputs", "hold NaN"], id="NaN outputs"),
    pytest.param("columns", ["'test'", "'train'", "(1,)", "alike"], id="labels differ"),
    pytest.param("nan score", ["'train'", "accuracy is nan", "finite"], id="NaN score"),
    pytest.param("noise", ["differ", "random numbers"], id="random outputs"),
    pytest.param("item", ["'train'", "OSError: image truncated", "unsound_target.py:"], id="item"),
    pytest.param("score", ["score() of _Unsound", "ValueError: bad shape", ".py:"], id="score"),
    pytest.param("loss", ["loss() of _Unsound", "RuntimeError: no loss today", ".py:"], id="loss"),
    pytest.param("augment", ["augment() of", "IndexError: cropped too far"], id="augment"),
    pytest.param("factory", ["target.factory", "again", "has expired"], id="factory"),
    pytest.param("architecture", ["architecture()", "build()", "0.conv1"], id="architecture"),
    pytest.param("attribute", ["loaded", "differ", "state dict"], id="attribute"),
]


@pytest.mark.parametrize(("fault", "words"), REFUSED)
def test_it_is_refused_in_one_line(tmp_path: Path, fault: str, words: list[str]) -> None:
    outcome = _check(tmp_path, fault)
    assert outcome.code == 2, outcome
    assert outcome.stderr.splitlines()[:-1] == ["preparation …"]
    for word in words:
        assert word in outcome.error, f"{word!r} not in {outcome.error!r}"
    assert str(tmp_path.parent.parent) not in outcome.error  # nothing is to be looked for there


@pytest.mark.parametrize("fault", ["column", "loss"])
def test_a_search_refuses_it_too_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    target = {"factory": "unsound_target:unsound", "options": {"fault": fault}}
    job = write_job(tmp_path, target=target)
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert not (tmp_path / "run").exists()


def test_it_is_refused_before_the_target_is_trained(tmp_path: Path) -> None:
    target = {"factory": "unsound_target:unsound", "options": {"fault": "augment"}}
    job = write_job(tmp_path, target=target, pretraining={"mode": "finetune", "epochs": 1000})
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert "trying pre-training" in outcome.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["untrained", "renumbered", "no r2"])
def test_a_score_no_better_than_guessing_is_warned_of(tmp_path: Path, fault: str) -> None:
    outcome = _check(tmp_path, fault)
    assert outcome.code == 0, outcome
    assert "search split: the uncompressed model is no better than guessing" in outcome.stdout
    # The test split's score tells nothing before the end.
    assert re.search(r"test\W+usable", outcome.stdout)
    assert "test split" not in outcome.stdout


def test_a_sound_target_is_not_warned_of(tmp_path: Path) -> None:
    outcome = run_here("check", write_job(tmp_path))
    assert outcome.code == 0
    assert "warning" not in outcome.stdout
    assert "accuracy of the target" in outcome.stdout


def test_a_score_that_needs_more_samples_is_given_them(tmp_path: Path) -> None:
    outcome = _check(tmp_path, "all classes", objective={"score": "accuracy"})
    assert outcome.code == 0, outcome


def test_words_are_tagged_from_the_check_to_the_delivery(tmp_path: Path) -> None:
    target = {"factory": "unsound_target:tagger"}
    job = write_job(tmp_path, target=target, budget={"macs": 0.7}, finetuning={"epochs": 2})
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert load_compressed(tmp_path / "run" / "best")(torch.zeros(2, 6, 8)).shape == (2, 6, 3)


def test_a_split_that_a_run_does_not_score_may_have_no_score(tmp_path: Path) -> None:
    outcome = _check(tmp_path, "no score")
    assert outcome.code == 0, outcome
    assert "train split: cannot be scored" in outcome.stdout


@pytest.mark.parametrize("fault", ["counter", "inference"])
def test_a_model_that_writes_in_its_forward_pass_is_delivered(tmp_path: Path, fault: str) -> None:
    target = {"factory": "unsound_target:unsound", "options": {"fault": fault}}
    job = write_job(
        tmp_path, target=target, objective={"score": "accuracy"}, finetuning={"epochs": 2}
    )
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert len(read_records(tmp_path / "run")) == 12
    assert load_compressed(tmp_path / "run" / "best")(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {"quantization": {"weight_bits": [4, 8], "activation_bits": [4, 8]}}},
        {"space": {"pruning": {"structure": "weights"}}},
        {"space": {"action": "mask"}, "search": {"algorithm": "random"}},
        {"finetuning": {"schedule": "contribution"}, "contribution": {"finetune_steps": 9}},
        {"pretraining": {"mode": "layerwise", "epochs": 50}},
        {"objective": {"score": "robust_accuracy"}},
        {"export": {"onnx": True}},
    ],
    ids=["bits", "sparse", "masks", "contribution", "layerwise", "robust", "onnx"],
)
def test_a_rehearsal_leaves_everything_as_it_was(changes: dict[str, Any]) -> None:
    job = parse_job(make_job(**changes))
    session = check(job)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = copy.deepcopy(session.model.state_dict())
    tensors = {
        name: tensor.clone() for name, tensor in session.problem.compressor.network.tensors.items()
    }
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    rehearse(session)
    assert all(torch.equal(t, before[name]) for name, t in session.model.state_dict().items())
    assert all(
        torch.equal(t, tensors[n]) for n, t in session.problem.compressor.network.tensors.items()
    )
    assert not any(module.training for module in session.model.modules())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1] == generators[1]).all()
    assert random.getstate() == generators[2]
