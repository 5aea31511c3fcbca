"""Targets: the model to compress, its data splits and its score."""

from rl_compress.targets.datasets import as_dataset
from rl_compress.targets.factory import TargetConfig, make_target
from rl_compress.targets.splits import disjoint_splits
from rl_compress.targets.target import SPLITS, ClassificationTarget, Target

__all__ = [
    "SPLITS",
    "ClassificationTarget",
    "Target",
    "TargetConfig",
    "as_dataset",
    "disjoint_splits",
    "make_target",
]
