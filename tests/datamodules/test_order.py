"""The order of samples depends on seed, epoch and position alone."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.loading.order import Batches
from vlynx_pl.io.errors import UserError

counts = st.integers(0, 40)
sizes = st.integers(1, 9)
epochs = st.integers(0, 5)


def joined(shares: list[list[list[int]]]) -> list[list[int]]:
    """Batches of all ranks together, each sorted."""
    return [
        sorted(index for share in batch for index in share)
        for batch in zip_longest(*shares, fillvalue=[])
    ]


@given(counts, sizes, st.integers(1, 9), epochs, st.integers(0, 9))
def test_ranks_share_the_batches_of_a_single_process(count, size, ranks, epoch, seed):
    alone = list(Batches(count, size, seed=seed, epoch=epoch))
    if ranks > size:
        with pytest.raises(UserError, match=r"raise data\.batch_size"):
            Batches(count, size, ranks=ranks)
        return
    order = {"seed": seed, "epoch": epoch, "ranks": ranks}
    shares = [list(Batches(count, size, rank=r, **order)) for r in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert joined(shares) == [sorted(batch) for batch in alone]
    assert sorted(index for batch in alone for index in batch) == list(range(count))


@given(counts, sizes, st.integers(1, 4), st.data())
def test_a_later_start_skips_the_batches_already_seen(count, size, ranks, data):
    ranks = min(ranks, size)
    rank = data.draw(st.integers(0, ranks - 1))
    order = {"seed": 3, "rank": rank, "ranks": ranks}
    every = list(Batches(count, size, epoch=2, **order))
    start = data.draw(st.integers(0, len(every)))
    batches = Batches(count, size, epoch=2, start=start, **order)
    assert len(batches) == len(every)  # Lightning also counts those already seen
    batches.set_epoch(2)  # Lightning sets the present epoch again
    assert list(batches) == every[start:]
    assert list(batches) == every
    batches.start = start
    batches.set_epoch(3)
    assert list(batches) == list(Batches(count, size, epoch=3, **order))


def test_each_epoch_and_seed_has_its_own_order():
    orders = {
        tuple(index for [index] in Batches(20, 1, seed=seed, epoch=epoch))
        for seed, epoch in [(None, 0), (0, 0), (0, 1), (7, 0)]
    }
    assert len(orders) == 4
