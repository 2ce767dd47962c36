"""Positions of visual tokens on the axes of time, height and width, and joined prompts."""

import torch

from vlynx_pl.backbones.prompt import Prompt, grid_positions


def test_positions_of_a_small_grid():
    found = grid_positions(1, [0, 2, 4], 2, 2)
    time, height, width = found.tolist()
    assert time == [1] * 4 + [3] * 4 + [5] * 4
    assert height == [1, 1, 2, 2] * 3
    assert width == [1, 2, 1, 2] * 3


def test_joined_prompts_keep_their_order_and_end_where_the_last_ends():
    def part(start, end):
        positions = grid_positions(start, [0, 9], 1, 2)
        visual = torch.ones(4, dtype=torch.bool)
        return Prompt(torch.full((4, 8), start), positions, visual, torch.zeros(1, 4, 8), end)

    whole = Prompt.joined([part(3, 13), part(13, 23)])
    assert whole.embeddings[:, 0].tolist() == [3] * 4 + [13] * 4
    assert whole.positions[0].tolist() == [3, 3, 12, 12, 13, 13, 22, 22]
    assert whole.deep.shape == (1, 8, 8) and whole.next == 23
