"""How long does `check` take, here and with other releases? CPU seconds on one thread.

    python tests/benchmarks/check_times.py [--before CHECKOUT] [NETWORK ...]

Networks are those of the zoo, at 64 x 64, with weights as their packages draw them. The target is
built, and packages are imported, before the clock starts. With `--before`, the code of another
checkout is measured right before this one's on every network, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETWORKS = {
    "torchvision:densenet121": {"macs": 0.5},
    "pytorchcv:peleenet": {"macs": 0.5},
    "torchvision:vgg11": {"macs": 0.5},
    "pytorchcv:bninception": {"macs": 0.5},
    "torchvision:resnet50": {"size_bytes": 0.3},
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--before", type=Path, help="folder of another checkout")
    parser.add_argument("--child", action="store_true", help="internal")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(checked(options.networks[0])))
        return
    print("| network | budget | before | after | ratio |\n|---|---|---|---|---|")
    for name in options.networks:
        before = seconds(name, options.before.resolve()) if options.before else None
        after = seconds(name, HERE.parents[1])
        print(
            f"| {name} | {NETWORKS[name]} | {'' if before is None else f'{before:.1f}'} | "
            f"{after:.1f} | {'' if before is None else f'{after / before:.2f}'} |",
            flush=True,
        )


def seconds(name: str, checkout: Path) -> float:
    """Return the CPU seconds that a checkout takes, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", name],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(checkout), str(HERE)]),
            "OMP_NUM_THREADS": "1",
        },
        cwd=checkout,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def checked(name: str) -> float:
    """Check a job in this process."""
    import torch

    from rl_compress.job import Job
    from rl_compress.targets.factory import make_target

    try:
        from rl_compress.execution import check
    except ImportError:  # release 0.1.0
        from rl_compress.run import check

    torch.set_num_threads(1)
    options = {"name": name, "side": 64, "lively": False}
    job = Job(
        name="check-times",
        target={"factory": "zoo_target:network", "options": options},
        budget=NETWORKS[name],
    )
    make_target(job.target).build()
    start = time.process_time()
    check(job)
    return time.process_time() - start


if __name__ == "__main__":
    main()
