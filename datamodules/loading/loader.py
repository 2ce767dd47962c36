"""A DataLoader whose errors are one message each, wherever they happened."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from typing_extensions import override

from datamodules.loading.watching import SupervisedIter, make_board, noted, share
from datamodules.loading.worker_errors import Reading, explained, starting
from datamodules.processes import READERS
from datamodules.samples import Clip, EpisodeMedia
from vlynx_pl.io.errors import UserError

Item = Clip | EpisodeMedia


class SampleDataset(Dataset[Any]):
    """Items that are read when asked for; gives a UserError instead of raising it.

    As a value it survives the way out of a worker.

    Args:
        items: clips or episodes, unread.
        reader: reads one.

    Attributes:
        board: where workers note what they read, if there are any.
    """

    board: Tensor | None = None

    def __init__(self, items: Sequence[Item], reader: Callable[[Any], Any]) -> None:
        self.items, self.reader = items, reader

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: each tensor in it would else travel as an open file, of which 253 are the most.
        return _unpickled, (pickle.dumps((self.items, self.reader)), self.board)

    def __len__(self) -> int:
        """Number of clips or episodes."""
        return len(self.items)

    def reading(self, index: int) -> Reading:
        """What is read for a sample."""
        return Reading(self.items[index].name, self.items[index].files)

    @override
    def __getitem__(self, index: int) -> Any:
        try:
            with noted(self.board, index), explained(self.reading(index)):
                return self.reader(self.items[index])
        except UserError as bad:
            return bad


def _unpickled(made_of: bytes, board: Tensor | None) -> SampleDataset:
    dataset = SampleDataset(*pickle.loads(made_of))  # of the process that started this one
    dataset.board = board
    return dataset


def collate_or_error(batch: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """A batch of the samples, or what is bad about the first that is; UserErrors are given."""
    if bad := [sample for sample in samples if isinstance(sample, UserError)]:
        return bad[0]
    try:
        made = batch(samples)
        # Torch would do it later in a thread, where it loses a batch that finds no room.
        if get_worker_info() is not None:
            share(made)
    except UserError as bad_batch:
        return bad_batch
    return made


class Loader(DataLoader[Any]):
    """Raises what a worker found bad, or became of it, as one message where the training is.

    Its dataset travels to the workers by pickle. ``timeout`` is the time in s that one clip may
    take.
    """

    dataset: SampleDataset

    def __init__(self, dataset: SampleDataset, batch_size: int | None = 1, **settings: Any) -> None:
        context = READERS if settings.get("num_workers") else None
        super().__init__(dataset, batch_size, multiprocessing_context=context, **settings)

    @override
    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        with starting(self.num_workers):
            self.dataset.board = make_board(self.num_workers)
            return SupervisedIter(self, self.dataset.board, self.dataset.reading)

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            for batch in super().__iter__():
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except UserError:
            self._iterator = None  # its workers may be gone; another try has new ones
            raise
