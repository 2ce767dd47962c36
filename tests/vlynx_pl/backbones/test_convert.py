"""InternVL in its authors' layout becomes one that backbones are loaded from."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForImageTextToText, AutoProcessor, InternVLConfig

from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.backbones.convert import convert_internvl
from vlynx_pl.backbones.prompt import Stream

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
# transformers' name → the authors', as in github.com/OpenGVLab/InternVL
ORIGINAL = [
    (r"^model\.vision_tower\.embeddings\.cls_token", "vision_model.embeddings.class_embedding"),
    (
        r"^model\.vision_tower\.embeddings\.position_embeddings",
        "vision_model.embeddings.position_embedding",
    ),
    (
        r"^model\.vision_tower\.embeddings\.patch_embeddings\.projection",
        "vision_model.embeddings.patch_embedding",
    ),
    (r"^model\.vision_tower\.encoder\.layer", "vision_model.encoder.layers"),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.(q|k)_norm\.", r".attn.\1_norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_", ".ls"),
    (r"^model\.multi_modal_projector\.layer_norm", "mlp1.0"),
    (r"^model\.multi_modal_projector\.linear_1", "mlp1.1"),
    (r"^model\.multi_modal_projector\.linear_2", "mlp1.3"),
    (r"^model\.language_model", "language_model.model"),
    (r"^lm_head", "language_model.lm_head"),
]


def original_weights(model):
    weights = dict(model.state_dict())
    for name in [name for name in weights if ".q_proj." in name and "vision_tower" in name]:
        parts = [weights.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        fused = name.replace(".attention.q_proj.", ".attn.qkv.")
        weights[fused] = torch.cat(parts)
    for found, wanted in ORIGINAL:
        weights = {re.sub(found, wanted, name): tensor for name, tensor in weights.items()}
    return weights


def write_tokenizer(folder):
    """The files that InternVL2.5-4B has, with bytes for a vocabulary."""
    alphabet = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(alphabet)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(i): {"content": token, "special": True, "normalized": False}
        for i, token in enumerate(SPECIAL, len(alphabet))
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL[1:],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": "{{ 'of texts only' }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
}
LLM = {
    "vocab_size": 264,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "head_dim": 12,
}


@pytest.fixture(params=["qwen2", "qwen3"])
def original(request, tmp_path):
    """A folder as the authors publish it, and the model that it should become."""
    llm = LLM | {"model_type": request.param}
    config = InternVLConfig(
        vision_config=VISION | {"attention_bias": True, "use_qk_norm": True},
        text_config=llm | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
        image_token_id=261,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path / "original"
    folder.mkdir()
    weights = original_weights(model)
    vision = {name: t.clone() for name, t in weights.items() if not name.startswith("language")}
    text = {name: t.clone() for name, t in weights.items() if name.startswith("language")}
    save_file(vision, folder / "model-00001-of-00002.safetensors")
    save_file(text, folder / "model-00002-of-00002.safetensors")
    code = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    settings = {
        "model_type": "internvl_chat",
        "auto_map": code,
        "architectures": ["InternVLChatModel"],
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "force_image_size": 16,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "llm_config": llm | {"rope_theta": 5e4, "tie_word_embeddings": False, "use_bfloat16": True},
        "vision_config": VISION
        | {"qkv_bias": True, "qk_normalization": True, "drop_path_rate": 0.1},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "configuration_internvl_chat.py").write_text("raise SystemExit('this was run')")
    write_tokenizer(folder)
    return folder, model


@torch.inference_mode()
def test_converted_weights_tokens_and_logits_are_those_of_the_model(original, tmp_path, vlynx):
    folder, model = original
    code, said = vlynx("convert", folder, "--out", tmp_path / "native")
    assert code == 0, said
    native = AutoModelForImageTextToText.from_pretrained(tmp_path / "native").eval()
    wanted = model.state_dict()
    assert native.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in native.state_dict().items())
    assert original_weights(native).keys() == original_weights(model).keys()
    processor = AutoProcessor.from_pretrained(tmp_path / "native")
    frames = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=text, videos=[frames], return_tensors="pt")
    assert (inputs.input_ids == 261).sum() == 2 * 4
    assert torch.equal(native(**inputs).logits, model(**inputs).logits)

    backbone = load_backbone(str(tmp_path / "native"), "float32")
    tokens = backbone.encode(frames[None])[0]
    features = model.get_image_features(inputs.pixel_values, return_dict=True)
    torch.testing.assert_close(tokens, features.pooler_output, atol=1e-5, rtol=1e-5)
    tokenizer = backbone.tokenizer
    assert (
        tokenizer.decode(
            tokenizer("<|im_start|>a<img>b<|im_end|>").input_ids, skip_special_tokens=True
        )
        == "ab"
    )
    assert int(backbone.prompt([Stream(tokens)]).visual.sum()) == 8


def test_no_code_of_the_folder_is_run_and_its_files_are_not_changed(original, tmp_path):
    folder, _ = original
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    convert_internvl(folder, tmp_path / "native")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert not list((tmp_path / "native").glob("*.py"))
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_head_that_is_the_embeddings_stays_so(original, tmp_path):
    folder, _ = original
    edit(folder, lambda settings: settings["llm_config"].update(tie_word_embeddings=True))
    edit_weights(folder, lambda text: text.pop("language_model.lm_head.weight"))
    convert_internvl(folder, tmp_path / "native")
    model = load_backbone(str(tmp_path / "native"), "float32").model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def edit(folder, change):
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    (folder / "config.json").write_text(json.dumps(settings))


def edit_weights(folder, change):
    file = folder / "model-00002-of-00002.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def pickled(folder):
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def damaged(folder):
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def twice(folder):
    file = folder / "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").write_bytes(file.read_bytes())


@pytest.mark.parametrize("original", ["qwen2"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (pickled, r"no \.safetensors file; model-\d+-of-00002\.bin may run code"),
        (damaged, r"00001-of-00002\.safetensors is damaged .*download it again"),
        (twice, r"mlp1\.0\.bias is both in model-00001.* and in .*model\.safetensors"),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(),
            r"\d+ missing, for example model\.multi_modal_projector\.layer_norm\.bias",
        ),
        (
            lambda folder: edit_weights(
                folder, lambda text: text.pop("language_model.lm_head.weight")
            ),
            r"weights 1 missing, for example lm_head\.weight",
        ),
        (
            lambda folder: edit_weights(folder, lambda text: text.update(other=torch.zeros(1))),
            r"weights 1 not part of the model, for example other\.",
        ),
        (
            lambda folder: edit(folder, lambda all_: all_["llm_config"].update(hidden_size=52)),
            r"of a wrong shape, for example lm_head\.weight",
        ),
        (
            lambda folder: edit(
                folder, lambda all_: all_["llm_config"].update(tie_word_embeddings=True)
            ),
            r"the output head is the embeddings .* the weights have another head; set it to false",
        ),
        (
            lambda folder: edit(folder, lambda all_: all_.update(ps_version="v1")),
            r"ps_version='v1'",
        ),
        (lambda folder: edit(folder, lambda all_: all_.update(use_llm_lora=16)), "use_llm_lora=16"),
        (
            lambda folder: edit(folder, lambda all_: all_.update(force_image_size=32)),
            "are for 16 pix",
        ),
        (lambda folder: edit(folder, lambda all_: all_.pop("select_layer")), "'select_layer'"),
        (
            lambda folder: edit(folder, lambda all_: all_["vision_config"].pop("qkv_bias")),
            r"setting or a token is missing or wrong .*'qkv_bias'",
        ),
        (
            lambda folder: edit(
                folder, lambda all_: all_["llm_config"].update(model_type="internlm2")
            ),
            r"the LLM is 'internlm2', and only qwen2 and qwen3",
        ),
        (
            lambda folder: edit(folder, lambda all_: all_["llm_config"].update(vocab_size=None)),
            r"is missing or wrong .*vocab_size",
        ),
        (
            lambda folder: edit(folder, lambda all_: all_["vision_config"].update(hidden_act="x")),
            r"is missing or wrong \(KeyError\('x'\)\)",
        ),
        (lambda folder: (folder / "vocab.json").unlink(), "its tokenizer cannot be loaded"),
        (lambda folder: (folder / "merges.txt").write_text("x"), "its tokenizer cannot be loaded"),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            "not the configuration of an orig",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(original, tmp_path, fault, message):
    folder, _ = original
    fault(folder)
    with pytest.raises(BackboneError, match=message):
        convert_internvl(folder, tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_an_existing_folder_is_kept(tmp_path):
    with pytest.raises(BackboneError, match="exists; give a new folder"):
        convert_internvl(tmp_path, tmp_path)
