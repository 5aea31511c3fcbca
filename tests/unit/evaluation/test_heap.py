"""What is freed is kept, so that the system need not clear it anew."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from rl_compress.evaluation.heap import keep_freed_memory
{call}
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [bytearray(b"x") * (20 << 20) for _ in range(6)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(call: str) -> int:
    program = _PROGRAM.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return int(done.stdout)


def test_blocks_are_used_again() -> None:
    assert _faults("keep_freed_memory()") < 0.1 * _faults("")
