from __future__ import annotations

from collections.abc import Sequence

from rl_compress.agent.rllib.turns import Turns

Request = tuple[int, str]


def _batch(turns: Turns, requests: Sequence[Request], left: int) -> set[Request]:
    """Begin a batch, and return which requests have their turn, asked for in this order."""
    turns.begin(left)
    granted = {(worker, request) for worker, request in requests if turns.has(worker, request)}
    if granted:
        turns.use()
    return granted


def test_the_last_turns_do_not_depend_on_who_is_quick() -> None:
    one, two, three = ([(worker, "a"), (worker, "b")] for worker in (1, 2, 3))
    for requests in (one + two + three, three + two + one, [two[0], *one, *three, two[1]]):
        turns = Turns(3)
        assert _batch(turns, requests, left=100) == set(requests)
        assert _batch(turns, requests, left=4) == {one[0], two[0], three[0], one[1]}


def test_one_worker_has_all_that_is_left() -> None:
    turns = Turns(1)
    requests = [(1, request) for request in "abcd"]
    assert len(_batch(turns, requests, left=9)) == 4
    assert _batch(turns, requests, left=2) == set(requests[:2])


def test_a_request_asked_for_again_is_the_same() -> None:
    requests = [(1, "a"), (1, "a"), (1, "a"), (1, "b"), (1, "c")]
    assert _batch(Turns(1), requests, left=2) == {(1, "a"), (1, "b")}


def test_turns_that_nobody_uses_go_to_others() -> None:
    turns = Turns(2)
    assert _batch(turns, [(2, "a")], left=1) == set()
    assert _batch(turns, [(2, "a")], left=1) == {(2, "a")}
    assert _batch(turns, [(2, "a"), (1, "b")], left=1) == {(1, "b")}


def test_a_batch_that_nobody_played_changes_nothing() -> None:
    turns = Turns(2)
    _batch(turns, [(1, "a"), (2, "b")], left=3)
    turns.begin(1)
    turns.begin(1)
    assert _batch(turns, [(2, "a"), (1, "b")], left=1) == {(1, "b")}
