"""Pictures of streams, on rows whose axes are known."""

import io
import sys

import pytest
import torch
from torch.testing import assert_close

from vlynx_pl.analysis.interface_figure import (
    draw_interface,
    draw_layers,
    draw_names,
    principal_plane,
)
from vlynx_pl.io.errors import UserError


def rows_of(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 5.0, 0.1, 2.0], dtype=torch.float64)
    return scale * torch.randn(count, 4, dtype=torch.float64, generator=generator)


def test_the_plane_has_the_directions_of_most_variance_with_fixed_signs():
    rows = rows_of(4000)
    mean, axes, shares = principal_plane(rows + 7)
    assert_close(mean, rows.mean(0) + 7)
    wanted = torch.eye(4, dtype=torch.float64)[:, [1, 3]]
    assert_close(axes, wanted, atol=0.05, rtol=0)
    assert_close(shares, torch.tensor([25 / 30.01, 4 / 30.01]).double(), atol=0.02, rtol=0)
    assert_close(principal_plane(-rows)[1], principal_plane(rows)[1])


def test_streams_are_drawn_as_unit_vectors_in_two_planes():
    streams = {"vocabulary": rows_of(seed=1), "video": rows_of(), "3d after": rows_of(seed=2)}
    figure = draw_interface(streams, tsne=False)
    longer = draw_interface({name: 9 * rows for name, rows in streams.items()}, tsne=False)
    assert [axes.get_title() for axes in figure.axes] == [
        "PCA of all streams",
        "PCA of video alone",
    ]
    for panel, other in zip(figure.axes, longer.axes, strict=True):
        for one, same in zip(panel.collections, other.collections, strict=True):
            assert_close(torch.tensor(one.get_offsets()), torch.tensor(same.get_offsets()))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == list(streams)


def test_tsne_without_scikit_learn_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match=r"needs scikit-learn.*\.\[analysis\]"):
        draw_interface({"video": rows_of()}, tsne=True)


def test_tsne_is_a_third_panel_and_deterministic():
    pytest.importorskip("sklearn")
    streams = {"video": rows_of(), "3d after": rows_of(seed=2)}
    places = [
        torch.tensor(draw_interface(streams, tsne=True).axes[2].collections[0].get_offsets())
        for _ in range(2)
    ]
    assert len(places[0]) == 60
    assert torch.equal(*places)


def test_names_with_signs_of_mathematics_and_layers_are_drawn():
    names = draw_names({"video": {"$x^": 0.7, "_": 0.1}, "3d before": {"sphere": 1.0}})
    shares = {"keys": [1.0, 0.5], "values": [1.0, 0.2], "responses": [0.9, 0.1]}
    layers = draw_layers({"video": {part: [1.0, 1.0] for part in shares}, "3d after": shares})
    for figure, count in ((names, 2), (layers, 3)):
        figure.savefig(io.BytesIO(), format="png")
        assert len(figure.axes) == count
    assert layers.axes[1].lines[1].get_ydata().tolist() == [100.0, 20.0]
