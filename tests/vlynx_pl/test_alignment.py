from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.vlynx_pl.conftest import randomise
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.attention import listen
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.losses import reference_response, token_statistics_loss
from vlynx_pl.objectives import (
    AlignmentObjective,
    PaperObjective,
    RelativeObjective,
    ReleasedObjective,
)


@pytest.fixture
def module(backbone, videos) -> InterfaceAlignment:
    module = InterfaceAlignment(backbone, "3d", lora=Lora(8, 16, 0.0))
    module.use_guidance(estimate_guidance(backbone, [videos]))
    return module


@pytest.fixture
def depth(videos):
    return 255 - videos[:, :1]


def test_defaults_are_the_released_recipe(backbone):
    module = InterfaceAlignment(backbone, "3d")
    config = backbone.vision_adapters.peft_config["3d"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (64, 128, 0.05)
    assert type(module.objective) is AlignmentObjective


RECIPES = {
    ReleasedObjective: {"include_newline": True, "statistics": "rank"},
    PaperObjective: {"queries": "all", "response": "context", "detach_reference": True},
    RelativeObjective: {"stat_weight": 1.0, "attn_floor": True, "stat_scale": "relative"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_changes_only_what_it_names(recipe):
    plain = vars(AlignmentObjective())
    assert plain == {
        "attn_weight": 1.0, "stat_weight": 0.01, "queries": "pooled", "response": "projected",
        "detach_reference": False, "attn_floor": False, "stat_scale": "absolute",
        "include_newline": False, "statistics": "batch",
    }  # fmt: skip
    assert vars(recipe()) == plain | RECIPES[recipe]


def test_another_objective_names_its_own_losses(backbone, videos):
    class Means(AlignmentObjective):
        def losses(self, backbone, encoded, clips, mean, variance, video_gaps=None, share=1.0):
            distance = share * (encoded.tokens.mean((0, 1, 2)) - mean).norm()
            return {"means": distance, "total": distance}

    module = InterfaceAlignment(backbone, "3d", Means(), lora=Lora(2, 4))
    module.use_guidance(estimate_guidance(backbone, [videos]))
    logged = {}
    module.log_dict = lambda losses, **_: logged.update(losses)
    module.training_step({"frames": videos}, 0).backward()
    assert logged.keys() == {"train/means", "train/total"}


@pytest.fixture
def trained(module):
    """With an adapter that is not zero."""
    randomise(module.backbone.vision_adapters, "3d", 0.1)
    return module


@torch.no_grad()
def heard(module, frames):
    """Tokens, and in each layer its responses less those to the guidance, (L, F, Q, C)."""
    layers, guidance, found = module.backbone.attention_layers(), module.guidance, []
    step = 2 if module.objective.queries == "pooled" else 1
    chosen = [r * 8 + c for r in range(0, 8, step) for c in range(0, 8, step)]

    def direct(call):
        keys, values = guidance.keys[call.layer], guidance.values[call.layer]
        reference = reference_response(call.query[:, :, chosen], keys, values)
        if module.objective.response == "context":
            found.append(call.context[:, chosen] - reference)
        else:
            found.append(call.output[:, chosen] - layers[call.layer].out_proj(reference))

    with listen(layers, direct, module.backbone.positions):
        tokens = module.backbone.encode(frames, "3d")
    return tokens, torch.stack(found)


@pytest.mark.parametrize("queries", ["pooled", "all"])
@pytest.mark.parametrize("response", ["projected", "context"])
@torch.no_grad()
def test_losses_are_the_mean_over_layers_and_the_weighted_sum(module, depth, queries, response):
    """Against a direct computation from what every layer projects."""
    module.objective = AlignmentObjective(queries=queries, response=response)
    tokens, differences = heard(module, depth)
    losses, guidance = module.losses(depth), module.guidance
    assert_close(losses["attn"], differences.abs().mean((1, 2, 3)).mean())
    stat = token_statistics_loss(tokens, guidance.token_mean, guidance.token_var)
    assert_close(losses["stat"], stat)
    assert_close(losses["total"], losses["attn"] + 0.01 * losses["stat"])
    assert losses.keys() == {"attn", "stat", "total"}


OPTIONS = {"attn_floor": True, "stat_scale": "relative"}


@torch.no_grad()
def test_each_option_changes_the_loss_that_it_names(trained, videos):
    frames, guidance = 255 - videos, trained.guidance
    tokens, differences = heard(trained, frames)
    gaps = differences.abs().mean((1, 2, 3))
    floor = gaps.median() * torch.tensor([0.5, 2.0]).repeat(len(gaps))[: len(gaps)]
    rows = tokens.flatten(0, 2)
    mean = (guidance.token_mean - rows.mean(0)).norm() / guidance.token_var.sum().sqrt()
    spread = guidance.token_var - rows.var(0, correction=0)
    wanted = {
        "attn_floor": {"attn": (gaps - floor).relu().mean()},
        "stat_scale": {"stat": mean + spread.norm() / guidance.token_var.norm()},
    }
    plain = trained.losses(frames)
    assert_close(plain["attn"], gaps.mean())
    trained.use_attention_floor(floor)
    for option, value in OPTIONS.items():
        trained.objective = AlignmentObjective(**{option: value})
        losses = trained.losses(frames)
        for name, loss in (plain | wanted[option]).items():
            if name != "total":
                assert_close(losses[name], loss, rtol=1e-4, atol=1e-6, msg=f"{option}: {name}")
                assert name not in wanted[option] or abs(loss - plain[name]) > 0.01
        assert_close(losses["total"], losses["attn"] + 0.01 * losses["stat"])


def test_a_floor_without_gaps_names_the_remedy(module, depth):
    module.objective.attn_floor = True
    with pytest.raises(RuntimeError, match=r"add the ReferenceGuidance callback .* call use_att"):
        module.losses(depth)


def test_alignment_needs_neither_text_nor_the_language_model(module, depth):
    def forbidden(*_):
        raise AssertionError("the language model was called")

    module.backbone.language_model.register_forward_pre_hook(forbidden)
    module.backbone.model.lm_head.register_forward_pre_hook(forbidden)
    module.losses(depth)["total"].backward()


def test_every_adapter_tensor_and_nothing_else_gets_a_gradient(trained, depth):
    trained.losses(depth)["total"].backward()  # at B = 0 no gradient would reach A
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


EACH = [{}, *({name: value} for name, value in OPTIONS.items())]


@pytest.mark.parametrize("options", EACH, ids=str)
def test_a_rank_with_nothing_of_a_batch_has_finite_losses(module, depth, options):
    module.objective = AlignmentObjective(statistics="rank", **options)
    module.use_attention_floor(torch.zeros(len(module.reference_keys)))
    losses = module.losses(depth[:0])
    losses["total"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("options", EACH, ids=str)
def test_nothing_of_a_batch_adds_nothing_to_what_the_other_ranks_have(
    trained, depth, options, monkeypatch
):
    """Every sum and count of the other rank is 1."""
    monkeypatch.setattr("vlynx_pl.objectives.world_size", lambda: 2)
    monkeypatch.setattr("vlynx_pl.objectives.total_over_ranks", lambda part: part + 1)
    trained.objective = AlignmentObjective(**options)
    reference = trained.reference_token_mean, trained.reference_token_var
    floor = torch.zeros(len(trained.reference_keys))

    def in_its_place(frames):
        encoded = trained.encode(frames, "3d")
        return trained.objective.losses(trained.backbone, encoded, 0, *reference, floor)

    losses, others = in_its_place(depth[:1]), in_its_place(255 - depth[1:])
    apart = "attn_floor" not in options
    for name in losses.keys() - ({"attn", "total"} if apart else set()):
        assert losses[name].isfinite() and torch.equal(losses[name], others[name]), name
    if not apart:
        assert losses["attn"] == 1
        losses["total"].backward()
        assert all((p.grad == 0).all() for p in trained.parameters() if p.requires_grad)


def test_the_newline_can_be_counted_as_released(module, depth):
    """Once a video, whatever its number of frames."""
    module.objective.include_newline = True
    stat = module.losses(depth)["stat"]
    with torch.no_grad():
        tokens = module.backbone.encode(depth, "3d").flatten(0, 2)
    newlines = module.backbone.newline.expand(len(depth), -1)
    guidance = module.guidance
    wanted = token_statistics_loss(
        torch.cat([tokens, newlines]), guidance.token_mean, guidance.token_var
    )
    assert_close(stat, wanted)


def test_adamw_warms_up_over_three_percent_and_cools_down_as_a_cosine(module):
    module._trainer = SimpleNamespace(estimated_stepping_batches=200)
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0, (0.9, 0.999))
    rates = []
    for _ in range(201):
        rates.append(group["lr"] / 2e-5)
        optimizer.step()
        schedule.step()
    assert rates[:7] == pytest.approx([step / 6 for step in range(7)])
    assert rates[6 + 97] == pytest.approx(0.5)
    assert rates[200] == pytest.approx(0, abs=1e-9)


def test_missing_guidance_names_the_remedy(backbone, depth):
    with pytest.raises(RuntimeError, match="add the ReferenceGuidance callback"):
        InterfaceAlignment(backbone, "3d").losses(depth)


def test_a_checkpoint_holds_the_adapter_alone_and_is_checked(module):
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    names = checkpoint["state_dict"].keys()
    assert names == {n for n, p in module.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in names)
    module.on_load_checkpoint(checkpoint)
    checkpoint["state_dict"].popitem()
    with pytest.raises(ValueError, match="does not contain this run's adapter: 1 tensors differ"):
        module.on_load_checkpoint(checkpoint)
