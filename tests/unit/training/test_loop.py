from __future__ import annotations

import torch

from rl_compress.training.loop import seeded


def test_numbers_depend_on_the_seed_alone_and_the_callers_go_on_where_they_were() -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(1)
    undisturbed = torch.rand(2)
    torch.manual_seed(1)
    first = torch.rand(1)
    drawn = []
    for seed in (5, 5, 6):
        with seeded(seed, cpu):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.cat([first, torch.rand(1)]), undisturbed)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
