"""Answers a question about a clip with a model beside this file, with torch and transformers alone.

    python answer.py clip.safetensors "What colour is the box?"

The clip holds for each stream of ``streams.json`` its frames, uint8 (T, 3, H, W), and under
``<stream>.times`` their U timestamps in s, each with T / U frames.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")


class Block(NamedTuple):
    """Frames without text between them."""

    tokens: Tensor  # (F, N, W)
    steps: Sequence[int]  # of the F frames on the axis of time


class Prefix(NamedTuple):
    """What all questions about a clip begin with, as the LLM has read it."""

    cache: DynamicCache
    end: int  # position of the next token


class ExportedModel:
    """A Video LLM whose vision encoder has a merged copy for each modality.

    Args:
        folder: that ``vlynx export`` has written.
        device: of the model.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        self.settings = json.loads((folder / "streams.json").read_text())
        self.chat: dict[str, Any] = self.settings["chat"]
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
        self.model.eval().to(device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.llm = self.model.get_submodule(self.settings["modules"]["llm"])
        encoder: Any = self.model.get_submodule(self.settings["modules"]["vision"])
        self.encoders = dict.fromkeys(self.settings["encoders"], encoder)
        for name, own in self.settings["encoders"].items():
            if own:
                merged = type(encoder).from_pretrained(folder / own, dtype="auto")
                self.encoders[name] = merged.eval().to(device)
        self.family: str = self.model.config.model_type
        self.width: int = self.model.config.text_config.hidden_size

    @torch.inference_mode()
    def answers(
        self, clip: Mapping[str, Tensor], dialogues: Sequence[Sequence[tuple[str, str | None]]]
    ) -> list[str]:
        """Answer questions about a clip greedily.

        Args:
            clip: see the top of this file.
            dialogues: turns of question and answer; the last answer of each is None.
        """
        prefix = self.read_clip(clip)
        return [self.answer(prefix, dialogue) for dialogue in dialogues]

    def answer(self, prefix: Prefix, dialogue: Sequence[tuple[str, str | None]]) -> str:
        """Answer the last question of a dialogue."""
        tokenizer, chat = self.processor.tokenizer, self.chat
        texts, before = [], chat["asking"]
        for asked, answered in dialogue:
            texts.append(f"{before}{asked}{chat['end']}{chat['assistant']}")
            texts += (
                [] if answered is None else [f"{chat['answer']}{answered.strip()}{chat['end']}"]
            )
            before = chat["user"]
        fed = [token for text in texts for token in self.ids(text)]
        stop = [tokenizer.get_vocab()[token] for token in chat["stop"]]
        said: list[int] = []
        start = prefix.end
        for _ in range(self.settings["max_new_tokens"]):
            embedded = self.embed(fed)
            positions = torch.arange(start, start + len(fed)).expand(self.axes, -1)
            logits = self.read(embedded, positions, prefix.cache)
            if not said:
                logits[stop] = -torch.inf
            start += len(fed)
            fed = [int(logits.argmax())]
            if fed[0] in stop:
                break
            said += fed
        prefix.cache.crop(prefix.end - start)  # minus the tokens that were fed
        return str(tokenizer.decode(said, skip_special_tokens=True)).strip()

    def read_clip(self, clip: Mapping[str, Tensor]) -> Prefix:
        """Encode the streams of a clip, and have the LLM read them."""
        pieces: list[str | Block] = [self.chat["opening"]]
        for name in self.encoders:
            times = clip[f"{name}.times"].tolist()
            for piece in self.layout(self.encode(name, clip), times):
                if isinstance(piece, str) and isinstance(pieces[-1], str):
                    pieces[-1] += piece  # adjacent texts are tokenised together
                else:
                    pieces.append(piece)
        embeddings, places, deep, visual, start = [], [], [], [], 0
        for piece in pieces:
            if isinstance(piece, str):
                rows = self.embed(self.ids(piece))
                positions = torch.arange(len(rows)).expand(self.axes, -1)
            else:
                rows, positions = piece.tokens.flatten(0, 1), self.positions(piece)
                deep.append(rows[:, self.width :])
            embeddings.append(rows[:, : self.width])
            places.append(start + positions)
            visual += [not isinstance(piece, str)] * len(rows)
            start = int(places[-1].max()) + 1
        given = {}
        if deep[0].numel():  # Qwen3-VL
            layers = torch.cat(deep).unflatten(1, (-1, self.width)).transpose(0, 1)
            given = {
                "visual_pos_masks": torch.tensor([visual], device=layers.device),
                "deepstack_visual_embeds": list(layers),
            }
        cache = DynamicCache()
        self.read(torch.cat(embeddings), torch.cat(places, 1), cache, **given)
        return Prefix(cache, start)

    def encode(self, name: str, clip: Mapping[str, Tensor]) -> Tensor:
        """Encode a stream: (U, N, W) tokens."""
        frames = clip[name]
        self.model.set_submodule(self.settings["modules"]["vision"], self.encoders[name])
        if self.family == "llava_onevision":
            video = self.processor.video_processor
            read = video([frames], do_resize=False, return_tensors="pt").pixel_values_videos
            found = self.model.model.get_video_features(self.cast(read), return_dict=True)
            tokens = found.pooler_output[0, :-1]  # without the newline
        else:
            read = self.processor.image_processor(
                list(frames), do_resize=False, return_tensors="pt"
            )
            grid = read.image_grid_thw.to(self.model.device)
            pixels = self.cast(read.pixel_values)
            found = self.encoders[name](pixels, grid_thw=grid, return_dict=True)
            tokens = torch.cat([found.pooler_output, *getattr(found, "deepstack_features", [])], -1)
        times = len(clip[f"{name}.times"])
        return tokens.view(times, len(frames) // times, -1, tokens.shape[-1]).mean(1)

    def layout(self, tokens: Tensor, times: Sequence[float]) -> Iterator[str | Block]:
        """Lay out the tokens (U, N, W) of a stream as its family reads them."""
        if self.family == "llava_onevision":
            yield Block(tokens, range(len(tokens)))
            yield Block(self.model.model.image_newline[None, None], [0])
        elif self.family == "qwen2_5_vl":
            rate = self.model.config.vision_config.tokens_per_second
            yield "<|vision_start|>"
            yield Block(tokens, [floor((time - times[0] + 1e-4) * rate) for time in times])
            yield "<|vision_end|>"
        else:
            for frame, time in zip(tokens, times, strict=True):
                yield f"<{time:.1f} seconds><|vision_start|>"
                yield Block(frame[None], [0])
                yield "<|vision_end|>"

    @property
    def axes(self) -> int:
        """Axes of positions: one, or time, height and width."""
        return 1 if self.family == "llava_onevision" else 3

    def positions(self, block: Block) -> Tensor:
        """Positions (A, F · N) of a block's tokens from its start."""
        frames, count = block.tokens.shape[:2]
        if self.axes == 1:
            return torch.arange(frames * count)[None]
        rows, columns = (1, 1) if count == 1 else self.settings["grid"]
        axes = torch.tensor(block.steps), torch.arange(rows), torch.arange(columns)
        return torch.cartesian_prod(*axes).T

    def read(
        self, embeddings: Tensor, positions: Tensor, cache: DynamicCache, **given: object
    ) -> Tensor:
        """Have the LLM read (P, D) embeddings; returns the (V,) logits after the last."""
        positions = positions.to(embeddings.device)
        found = self.llm(
            inputs_embeds=embeddings[None],
            position_ids=positions if self.axes == 1 else positions[:, None],
            past_key_values=cache,
            use_cache=True,
            **given,
        )
        logits: Tensor = self.model.get_output_embeddings()(found.last_hidden_state[0, -1])
        return logits.float()

    def ids(self, text: str) -> list[int]:
        """Tokenise a text."""
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embed tokens: (n, D)."""
        tokens = torch.tensor(ids, device=self.model.device)
        embedded: Tensor = self.model.get_input_embeddings()(tokens)
        return embedded

    def cast(self, pixels: Tensor) -> Tensor:
        """Bring pixels to the model's device and dtype."""
        return pixels.to(self.model.device, self.model.dtype)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit('usage: python answer.py clip.safetensors "question"')
    path, question = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exported = ExportedModel(Path(__file__).parent, device)
    print(*exported.answers(load_file(path), [[(question, None)]]))
