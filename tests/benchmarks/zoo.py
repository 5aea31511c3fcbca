"""The zoo: what becomes of networks that other people wrote.

    python tests/benchmarks/zoo.py [--only PATTERNS] [--jobs 2] [--output results/zoo] [--again]

Each network of torchvision, timm, pytorchcv and transformers that is installed goes through
`rl-compress check` in a process of its own, within 120 s of CPU time. Then a variant that loses
30 % of every group, a random one and the smallest must be sound: the fast path, the delivered
network and the one loaded again agree, the full-width variant is the model, and MACs are those
counted of the network as built. torch-pruning gets the same network beside it.

Writes a line per network as it goes, a JSON file that a later call continues, and a table.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: networks share the machine

import numpy as np
import torch
from figures import RESULTS, folded
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from zoo_networks import build, example, names

from rl_compress.errors import RLCompressError

LIMIT_S = 120
"""CPU seconds of a process; it may last five times as long, as other work may be going on."""
AGREEMENT = 1e-5
"""Largest difference of outputs that should be equal, relative to the largest output."""
SHARES = ("params_share", "macs_share")
STATUSES = ("ok", "refused", "crashed", "hung", "wrong")


class WrongError(Exception):
    """Two figures or outputs that must agree do not."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="names that hold one of these patterns")
    parser.add_argument("--jobs", type=int, default=2, help="networks at once")
    parser.add_argument("--output", type=Path, default=RESULTS / "zoo", help="without its suffix")
    parser.add_argument("--again", action="store_true", help="repeat what is in the file already")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "NETWORK", "FILE"), help="internal")
    options = parser.parse_args()
    if options.child:
        what, name, file = options.child
        {"check": try_network, "torch-pruning": try_torch_pruning}[what](name, Path(file))
        return
    chosen = [
        name
        for name in names()
        if any(fnmatch.fnmatch(name, f"*{part}*") for part in options.only.split(","))
    ]
    stored = options.output.with_suffix(".json")
    earlier = json.loads(stored.read_text()) if stored.exists() else []
    rows = {row["network"]: row for row in earlier}
    left = [name for name in chosen if options.again or name not in rows]
    with ThreadPoolExecutor(options.jobs) as pool:
        for number, row in enumerate(pool.map(run_network, left), start=1):
            print(f"[{number}/{len(left)}] {line_of(row)}", flush=True)
            rows[row["network"]] = row
            save(stored, [rows[name] for name in names() if name in rows])
    shown = list(rows.values())
    options.output.with_suffix(".md").write_text(table(shown), encoding="utf-8")
    print("\n".join(summary(shown)))


def run_network(name: str) -> dict[str, Any]:
    """Try a network, and torch-pruning on it, each in a process that may hang or die."""
    row = run_child("check", name)
    beside = run_child("torch-pruning", name)
    return row | {"torch_pruning": beside["status"], "torch_pruning_reason": beside["reason"]}


def run_child(what: str, name: str) -> dict[str, Any]:
    """Return what a child process found, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        row: dict[str, Any] = {"network": name, "seconds": float(LIMIT_S)}
        command = [sys.executable, __file__, "--child", what, name, str(file)]
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        resource.prlimit(child.pid, resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
        try:
            _, errors = child.communicate(timeout=5 * LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
            hung = True
        else:
            hung = child.returncode == -signal.SIGXCPU
        if hung:
            stage = json.loads(file.read_text())["stage"] if file.exists() else "import"
            return row | {"status": "hung", "reason": f"over {LIMIT_S} s in: {stage}"}
        found = json.loads(file.read_text()) if file.exists() else {}
        if "status" not in found:
            last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            return row | {"status": "crashed", "reason": last[0]}
        return row | found


class Progress:
    """A file that says how far a child is, and at last what it found."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.found: dict[str, Any] = {}

    def stage(self, name: str) -> None:
        save(self._file, {"stage": name})
        self.found["stage"] = name

    def finish(self, status: str, reason: str = "") -> None:
        save(self._file, self.found | {"status": status, "reason": " ".join(reason.split())})


def try_network(name: str, file: Path) -> None:
    """Check a network and its variants; see the module."""
    progress = Progress(file)
    torch.set_num_threads(1)
    progress.stage("import")
    importlib.import_module(name.partition(":")[0])
    try:
        soundness(name, progress)
    except RLCompressError as error:
        broken = "\n" in str(error)
        progress.finish("crashed" if broken else "refused", str(error))
    except WrongError as error:
        progress.finish("wrong", str(error))
    except Exception as error:
        stage = progress.found["stage"]
        progress.finish("crashed", f"{stage}: {type(error).__name__}: {str(error)[:300]}")
    else:
        progress.finish("ok")


def soundness(name: str, progress: Progress) -> None:
    """Raise if anything about a network is wrong; note the shares that can be pruned."""
    from rl_compress.execution import check
    from rl_compress.job import Job

    job = Job(
        name="zoo",
        target={"factory": "zoo_target:network", "options": {"name": name}},
        budget={"macs": 0.999},
        export={"onnx": False},
    )
    progress.stage("check")
    start, cpu = time.perf_counter(), cpu_seconds()
    try:
        session = check(job)
    finally:
        progress.found["seconds"] = round(time.perf_counter() - start, 2)
        progress.found["cpu_seconds"] = round(cpu_seconds() - cpu, 2)
    model, compressor, inputs = session.model, session.problem.compressor, session.example_inputs
    space, costs = compressor.space, compressor.costs
    inputs = [noise_like(tensor) for tensor in inputs]
    expected_macs = count_macs(model, inputs)
    agree_on_macs("the model", sum(expected_macs), costs.original["macs"])
    progress.stage("full width")
    full = compressor.variant(space.full)
    agree("the full-width variant and the model", full, model, inputs)
    for kind, levels in policies(space).items():
        progress.stage(f"{kind} policy")
        fast = compressor.variant(levels)
        macs = count_macs(fast, inputs)
        agree_on_macs(f"the {kind} variant", sum(macs), costs.costs(levels)["macs"])
        delivered, loaded = deliver_and_load(session, job, levels)
        agree(f"fast path and delivered ({kind})", delivered, fast, inputs)
        agree(f"delivered and loaded ({kind})", loaded, delivered, inputs)
        if kind == "smallest":
            progress.found["macs_share"] = share_changed(expected_macs, macs)
            progress.found["params_share"] = params_changed(model, fast)


def policies(space: Any) -> dict[str, Any]:
    """Return levels: 30 % less of every group, random ones, the smallest."""
    return {
        "uniform": space.nearest(0.7 * space.full_amounts),
        "random": np.random.default_rng(0).integers(space.full + 1),
        "smallest": space.smallest,
    }


def deliver_and_load(session: Any, job: Any, levels: Any) -> tuple[nn.Module, nn.Module]:
    """Return a variant as it is delivered, without training, and the same read from its folder."""
    from rl_compress.export.artifact import ExportConfig, load_compressed, save_artifact
    from rl_compress.export.format import Delivered
    from rl_compress.export.manifest import Manifest

    compressor = session.problem.compressor
    policy = compressor.space.policy_of(levels)
    delivered = compressor.cut(session.model, levels)
    manifest = Manifest(target=job.target.model_dump(mode="json"), policy_id=policy.policy_id)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "best"
        config = ExportConfig(onnx=False)
        written = Delivered(delivered, manifest, policy, session.example_inputs)
        save_artifact(artifact, written, config)
        return delivered.eval(), load_compressed(artifact)


def agree(what: str, left: nn.Module, right: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Raise if two networks give different outputs.

    Deep networks with random weights blow rounding up, so that double precision decides.
    """
    with torch.no_grad():
        found = difference(left(*inputs), right(*inputs))
        if not found <= AGREEMENT:
            doubled = [t.double() if t.is_floating_point() else t for t in inputs]
            a, b = (copy.deepcopy(network).double()(*doubled) for network in (left, right))
            if not (in_double := difference(a, b)) <= AGREEMENT:
                raise WrongError(f"{what} differ by {found:.1e} ({in_double:.1e} in double)")


def difference(left: Tensor, right: Tensor) -> float:
    """Return the largest difference of two outputs, relative to the largest of them."""
    if left.shape != right.shape:
        return float("inf")
    return float((left - right).abs().max() / right.abs().max())


def agree_on_macs(what: str, counted: int, claimed: float) -> None:
    """Raise unless a network has the MACs that the costs say."""
    if counted != claimed:
        raise WrongError(f"costs: {what} has {counted:,d} MACs, not {int(claimed):,d}")


class _Counting(TorchDispatchMode):
    """Counts every matrix product and convolution as it is carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if (flops := flop_registry.get(func._overloadpacket)) is not None:
            self.macs.append(flops(*args, **(kwargs or {}), out_val=outputs) // 2)
        return outputs


def count_macs(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Return the MACs of each operation of a forward pass, in order.

    Attention and LSTM are taken apart into matrix products, whose sizes speak for themselves.
    """
    with torch.no_grad(), all_in_the_open(), _Counting() as counting:
        model(*inputs)
    return counting.macs


@contextmanager
def all_in_the_open() -> Iterator[None]:
    """Let no fused kernel hide matrix products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def share_changed(full: Sequence[int], smallest: Sequence[int]) -> float:
    """Return the share of MACs in operations that are smaller in the smallest variant."""
    return sum(a for a, b in zip(full, smallest, strict=True) if a != b) / max(sum(full), 1)


def params_changed(full: nn.Module, smallest: nn.Module) -> float:
    """Return the share of parameters in tensors that are smaller in the smallest variant."""
    sizes = {name: tensor.numel() for name, tensor in full.named_parameters()}
    others = {name: tensor.numel() for name, tensor in smallest.named_parameters()}
    changed = sum(size for name, size in sizes.items() if others[name] != size)
    return changed / max(sum(sizes.values()), 1)


def try_torch_pruning(name: str, file: Path) -> None:
    """Let torch-pruning find its groups in a network, and prune 30 % of every one."""
    import torch_pruning as tp

    progress = Progress(file)
    torch.set_num_threads(1)
    progress.stage("import")
    model, inputs = build(name), example(name)
    shape = model(inputs).shape
    last = [
        layer
        for layer in model.modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == shape[1]
    ]
    try:
        progress.stage("get_all_groups")
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
        list(graph.get_all_groups(ignored_layers=last))
        progress.stage("pruning")
        pruner = tp.pruner.BasePruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(),
            pruning_ratio=0.3,
            ignored_layers=last,
        )
        before = sum(parameter.numel() for parameter in model.parameters())
        pruner.step()
        progress.stage("forward")
        found = model(inputs).shape
        after = sum(parameter.numel() for parameter in model.parameters())
    except Exception as error:
        stage = progress.found["stage"]
        progress.finish("fails", f"{stage}: {type(error).__name__}: {str(error)[:200]}")
        return
    sound = found == shape and after < before
    progress.finish("runs" if sound else "fails", f"{after / before:.2f} of the parameters left")


def noise_like(tensor: Tensor) -> Tensor:
    """Return an input that excites every channel; tokens stay as they are."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def save(file: Path, content: Any) -> None:
    """Write a JSON file whole."""
    unfinished = file.with_name(f".{file.name}.tmp")
    unfinished.write_text(folded(content) + "\n", encoding="utf-8")
    unfinished.replace(file)


def line_of(row: dict[str, Any]) -> str:
    shares = " ".join(f"{row[key]:5.2f}" if key in row else "    -" for key in SHARES)
    return (
        f"{row['network']:<42} {row['status']:<8} {shares} {row['seconds']:6.1f} s  "
        f"torch-pruning {row['torch_pruning']:<7} {row['reason']}"
    )


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Count by package and status, with median shares of what is ok."""
    lines = [
        f"| package | networks | {' | '.join(STATUSES)} | params share | MACs share | "
        "CPU s of check | torch-pruning runs |",
        "|---" * (len(STATUSES) + 6) + "|",
    ]
    packages = dict.fromkeys(row["network"].partition(":")[0] for row in rows)
    for package in (*packages, "all"):
        own = [row for row in rows if package in ("all", row["network"].partition(":")[0])]
        counts = Counter(row["status"] for row in own)
        ok = [row for row in own if row["status"] == "ok"]
        medians = (
            f"{statistics.median(row[key] for row in ok):.2f}" if ok else "-"
            for key in (*SHARES, "cpu_seconds")
        )
        runs = sum(row["torch_pruning"] == "runs" for row in own)
        by_status = " | ".join(str(counts[status]) for status in STATUSES)
        lines.append(f"| {package} | {len(own)} | {by_status} | {' | '.join(medians)} | {runs} |")
    return lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return all results as a page."""
    lines = [
        "# The zoo",
        "",
        "By `python tests/benchmarks/zoo.py`: random weights, small images. Shares are of the",
        "parameters and MACs in tensors and operations that become smaller in the smallest",
        "variant; medians are of the networks that are ok. Seconds are by the clock, with other",
        "work on the machine. Where torch-pruning was not run it counts as not running.",
        "",
        *summary(rows),
        "",
        "| network | status | params share | MACs share | seconds | torch-pruning | reason |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (f"{row[key]:.2f}" if key in row else "" for key in SHARES)
        reason = row["reason"].replace("|", "\\|")
        lines.append(
            f"| {row['network']} | {row['status']} | {' | '.join(shares)} | {row['seconds']:.1f} | "
            f"{row['torch_pruning']} | {reason} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
