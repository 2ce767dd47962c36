"""The picture of a question, on maps whose values are known."""

import io

import torch

from vlynx_pl.analysis.attention_figure import MapRow, draw_attention


def frames_of(count, size=32):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8), range(count)


def norms(figure):
    """Limits of each map, row by row; frames are RGB and have none."""
    return [
        [(image.norm.vmin, image.norm.vmax) for image in axes.images[1:]]
        for axes in figure.axes
        if len(axes.images) == 2
    ]


def test_maps_of_a_row_share_a_colour_scale_and_rows_do_not():
    torch.manual_seed(0)
    streams = {"video": frames_of(5), "3d": frames_of(2)}
    maps = {"video": torch.ones(5, 16), "3d": torch.ones(2, 16)}
    peaked = {"video": torch.ones(5, 16), "3d": torch.ones(2, 16)}
    peaked["3d"][1, 3] = 4.0
    rows = [MapRow("layer", {"video": 0.5, "3d": 0.5}, one) for one in (maps, peaked)]
    figure = draw_attention(["Why?"], streams, rows, (4, 4))
    found = norms(figure)
    assert len(found) == 2 * (3 + 2), "three of five frames, and both of two"
    assert {limits for [limits] in found[:5]} == {(1 / 1.05, 1.05)}
    assert {limits for [limits] in found[5:]} == {(0.25, 4.0)}
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "Why?" in texts
    assert "3d 50%" in texts


def test_streams_that_are_not_read_pooled_tokens_and_no_attention_at_all_are_drawn():
    streams = {"video": frames_of(2), "3d": frames_of(1)}
    maps = {"video": torch.tensor([[0.0], [2.0]])}
    figure = draw_attention(
        ["$x^", "line of \ud83d text"], streams, [MapRow("layer 1", {}, maps)], (4, 4)
    )
    figure.savefig(io.BytesIO(), format="png")
    assert len(norms(figure)) == 2
    assert any(text.get_text() == "not read" for axes in figure.axes for text in axes.texts)
