"""Operations are counted as torch counts matrix products, whatever is computed again."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.vlynx_pl.conftest import episode, tuning
from vlynx_pl.adapters import Lora
from vlynx_pl.flops import LinearFlops
from vlynx_pl.streams import AlignedStreams


def counted(module, asked):
    counter = LinearFlops(module)
    loss = module.losses(asked).mean()
    counter.stop()
    loss.backward()
    return counter.total


def streams():
    return AlignedStreams({"3d": "base"}, train_vision=True, lora=Lora(2, 4, 0.0))


@pytest.mark.parametrize("trained", [True, False])
def test_operations_are_those_of_matrix_products(fresh, videos, trained):
    module = tuning(streams() if trained else None, fresh)
    asked = episode(videos, *(["3d"] * trained))
    with FlopCounterMode(display=False) as every:
        total = counted(module, asked)
    # Torch does not count attention on a CPU.
    convolution = every.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert total == every.get_total_flops() - convolution > 0


def test_what_is_computed_again_does_not_count(fresh, videos):
    module = tuning(streams(), fresh)
    total = counted(module, episode(videos, "3d"))
    fresh.frame_chunk = 1
    fresh.checkpoint_llm()
    module.train()
    assert counted(module, episode(videos, "3d")) == total
    module.losses(episode(videos, "3d"))
    assert counted(module, episode(videos, "3d")) == total, "nothing counts after stop()"
