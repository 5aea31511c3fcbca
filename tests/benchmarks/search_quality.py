"""How good the searches are, under the same conditions, and what their results are worth.

    python tests/benchmarks/search_quality.py joint --targets cnn,resnet,mobilenet,fashion --seeds 5
    python tests/benchmarks/search_quality.py pipeline --targets cnn --seeds 3
    python tests/benchmarks/search_quality.py finetuned
    python tests/benchmarks/search_quality.py share
    python tests/benchmarks/search_quality.py conditioned

`joint` compares algorithms by their best score after N evaluations; it can be interrupted and
continued, and given further algorithms later. `pipeline` compares the joint search with pruning and
quantizing one after the other, `finetuned` measures what a delivered model loses, `share` how much
of an env runner's time evaluations take, and `conditioned` one agent for several budgets with an
agent for each. Figures and tables go to `results/search_quality/`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the runners share the machine

from figures import RESULTS
from quality import conditioned, finetuned, joint, pipeline, share
from quality.subjects import TARGETS, VARIANTS, Subjects

ALGORITHMS = "ppo,uniform,random,greedy,greedy_evolution,evolution,tpe,cmaes"


def _names(known: dict[str, object]):
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown {', '.join(wrong)}; choose from {', '.join(known)}"
            )
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    variants = _names(VARIANTS)

    def command(module, targets: str, evaluations: int, seeds: int = 1):
        name = module.__name__.rpartition(".")[2]
        added = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        added.set_defaults(run=module.run)
        added.add_argument("--targets", type=_names(TARGETS), default=targets)
        added.add_argument("--seeds", type=int, default=seeds)
        added.add_argument("--first-seed", type=int, default=0)
        added.add_argument("--evaluations", type=int, default=evaluations)
        added.add_argument("--env-runners", type=int, default=1)
        added.add_argument("--fashion-folder", help="folder of the Fashion-MNIST files")
        added.add_argument("--out", type=Path, default=RESULTS / "search_quality")
        return added

    added = command(joint, "cnn,resnet,mobilenet,fashion", 300, seeds=5)
    added.add_argument("--algorithms", type=variants, default=ALGORITHMS)
    added.add_argument("--rl-evaluations", type=int, default=100)
    added.add_argument("--again", type=variants, default="", help="algorithms to run anew")
    added = command(pipeline, "cnn", 100, seeds=5)
    added.add_argument("--algorithm", default="greedy_evolution", help="baseline of the stages")
    added.add_argument("--no-rl", action="store_true", help="leave out the joint search by ppo")
    added = command(finetuned, "fashion", 100)
    added.add_argument("--epochs", type=int, default=30, help="of fine-tuning")
    added.add_argument("--budgets", choices=finetuned.BUDGETS, nargs="+", help="by default all")
    command(share, "fashion", 60)
    added = command(conditioned, "cnn", 100, seeds=3)
    added.add_argument("--shared-evaluations", type=int, default=126, help="of the one agent")
    added.add_argument(
        "--score",
        choices=("fidelity", "accuracy"),
        default="fidelity",
        help="what is searched for; points of accuracy are compared in any case",
    )
    options = parser.parse_args()
    options.run(options, Subjects(options.fashion_folder), options.out)


if __name__ == "__main__":
    main()
