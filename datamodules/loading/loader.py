"""A DataLoader that raises one clear error, wherever it happened."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from typing_extensions import override

from datamodules.loading.supervision import (
    SupervisedIter,
    make_board,
    reported,
    share_tensors,
)
from datamodules.loading.worker_errors import Reading, explained, starting
from datamodules.processes import READERS
from vlynx_pl.io.errors import UserError


class Item(Protocol):
    """What is read as a sample, such as a clip or an episode."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> tuple[Path, ...]: ...


class SampleDataset(Dataset[Any]):
    """Items that are read on demand; returns a UserError instead of raising it.

    Returned as a value, it leaves a worker unchanged.

    Args:
        items: unread.
        reader: reads one.

    Attributes:
        board: where workers report what they read, if there are any.
    """

    board: Tensor | None = None

    def __init__(self, items: Sequence[Item], reader: Callable[[Any], Any]) -> None:
        self.items, self.reader = items, reader

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: otherwise each tensor in it travels as an open file, and 253 are the limit.
        return _unpickled, (pickle.dumps((self.items, self.reader)), self.board)

    def __len__(self) -> int:
        return len(self.items)

    def reading(self, index: int) -> Reading:
        """What is read for a sample."""
        return Reading(self.items[index].name, self.items[index].files)

    @override
    def __getitem__(self, index: int) -> Any:
        try:
            with reported(self.board, index), explained(self.reading(index)):
                return self.reader(self.items[index])
        except UserError as bad:
            return bad


def _unpickled(content: bytes, board: Tensor | None) -> SampleDataset:
    dataset = SampleDataset(*pickle.loads(content))  # sent by the process that started this one
    dataset.board = board
    return dataset


def collate_or_error(batch: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """Return a batch of the samples, or the UserError of the first that is bad."""
    if bad := [sample for sample in samples if isinstance(sample, UserError)]:
        return bad[0]
    try:
        made = batch(samples)
        # Torch would do this later, in a thread that silently loses a batch without memory.
        if get_worker_info() is not None:
            share_tensors(made)
    except UserError as bad_batch:
        return bad_batch
    return made


class Loader(DataLoader[Any]):
    """Raises in the training process the one error for a bad sample or a lost worker.

    Its dataset is sent to the workers by pickle.

    Args:
        dataset: what to read.
        batch_size: see DataLoader.
        num_workers: number of processes; 0 reads in this process.
        timeout: time in s that a worker may take for a clip.
        while_waiting: called at least once a second while workers are awaited; it may raise.
        settings: others of DataLoader.
    """

    dataset: SampleDataset

    def __init__(
        self,
        dataset: SampleDataset,
        batch_size: int | None = 1,
        num_workers: int = 0,
        timeout: float = 0,
        while_waiting: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> None:
        self._while_waiting = while_waiting
        if num_workers > 0:
            settings |= {"timeout": timeout, "multiprocessing_context": READERS}
        super().__init__(dataset, batch_size, num_workers=num_workers, **settings)

    @override
    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        with starting(self.num_workers):
            board = self.dataset.board = make_board(self.num_workers)
            return SupervisedIter(self, board, self.dataset.reading, self._while_waiting)

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except GeneratorExit:  # no more batches are wanted, perhaps until the next epoch
            raise
        except BaseException:
            self._iterator = None  # another try gets new workers
            if isinstance(batches, SupervisedIter):
                batches.abandon()
            raise
