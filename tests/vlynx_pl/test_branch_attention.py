import pytest
import torch
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import BlockMask

from tests.vlynx_pl.conftest import assert_equal_gradients, branch_gradients, dense
from vlynx_pl import branch_attention
from vlynx_pl.branch_attention import visible_blocks

LENGTHS = (30, 171, 5, 64)


@pytest.fixture
def masks(monkeypatch):
    """The masks that the LLM's layers are given."""
    given = []

    def listen(name):
        run = getattr(branch_attention, name)

        def attend(module, query, key, value, mask, **kwargs):
            given.append(mask)
            return run(module, query, key, value, mask, **kwargs)

        monkeypatch.setattr(branch_attention, name, attend)

    listen("sdpa_attention_forward")
    listen("flex_attention_forward")
    return given


def test_a_single_branch_needs_no_mask(tuned, masks):
    found = branch_gradients(tuned, LENGTHS[:1])
    assert set(masks) == {None}, "SDPA is causal by itself"
    assert_equal_gradients(found, branch_gradients(tuned, LENGTHS[:1], dense))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_give_the_losses_and_gradients_of_the_dense_mask(tuned, monkeypatch, masks):
    wanted = branch_gradients(tuned, LENGTHS)
    assert {mask.dtype for mask in masks} == {torch.bool}, "a CPU has the dense mask"
    masks.clear()
    # FlexAttention refuses gradients on a CPU for lack of a kernel. Uncompiled, it needs none.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    with torch.compiler.set_stance("force_eager"):
        found = branch_gradients(tuned, LENGTHS, visible_blocks)
    assert {type(mask) for mask in masks} == {BlockMask}
    assert_equal_gradients(found, wanted)


def test_blocks_that_no_token_sees_are_skipped():
    owners = torch.tensor([0, 1, 2, 3]).repeat_interleave(torch.tensor([128, 256, 256, 200]))
    blocks = visible_blocks(owners)
    assert blocks.shape == (1, 1, 896, 896)
    # The prefix's column, and the lower triangle of each branch.
    assert blocks.to_dense().sum() == 7 + 3 + 3 + 3
