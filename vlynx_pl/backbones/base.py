"""The interface between Video LLMs and the method.

A family is a subclass that names its vision tower, LLM and attention layers, and turns frames into
tokens.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import InterpolationMode, resize
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from vlynx_pl.adapters import use_adapter
from vlynx_pl.attention import LISTENING_ATTENTION
from vlynx_pl.backbones.adapted_model import AdaptedModel
from vlynx_pl.backbones.prompt import Block, Chat, Prompt, Stream, token_ids
from vlynx_pl.branch_attention import BRANCH_ATTENTION
from vlynx_pl.frame_chunks import in_chunks, joined
from vlynx_pl.io.errors import UserError

_PATCHES: Final = 32 * 729  # without gradients at once; enough to keep any GPU busy


class BackboneError(UserError):
    """A model that cannot be loaded, or whose family is not supported."""


class VideoBackbone(AdaptedModel):
    """A frozen Video LLM: frames in, tokens out, with one adapter or none.

    Args:
        name: path or hub name the model was loaded from.
        model: the transformers model; it is frozen and put into eval mode.
        processor: its processor; None only for models without data, such as parameter counts.
        side: pixels of a frame's height and width; None is the family's default.

    Raises:
        BackboneError: the family cannot take frames of this size, or the LLM or the tokenizer is of
            a kind that it does not support.
    """

    never_quantized: ClassVar[tuple[str, ...]]
    """Names of the modules with linear layers, except for the LLM."""
    chat: ClassVar[Chat]
    """The texts around questions and answers."""
    float16: ClassVar[bool] = False
    """Whether activations stay within the range of float16."""
    axes: ClassVar[int] = 1
    """A, the axes of the LLM's positions: 1, or 3 for M-RoPE."""
    vision_attention: ClassVar[str] = LISTENING_ATTENTION
    """Name of the vision encoder's attention function in transformers' registry."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: ProcessorMixin | None,
        side: int | None = None,
    ) -> None:
        super().__init__(name, model)
        self.processor = processor
        self._refuse_what_fails()
        self.side = self._checked_side(side)
        language_model: Any = self.language_model
        language_model.set_attn_implementation(BRANCH_ATTENTION)
        model.set_attn_implementation({"vision_config": self.vision_attention})
        self.frame_chunk: int | None = None
        """Maximum frames with gradients in the vision encoder at once; None is all of a call."""
        self.train(False)

    def _refuse_what_fails(self) -> None:
        """Raise BackboneError for an LLM or a tokenizer that the method cannot use."""
        kinds = set(getattr(self.model.config.text_config, "layer_types", None) or ())
        if others := kinds - {"full_attention"}:
            raise BackboneError(
                f"{self.name}: its LLM has layers with {' and '.join(sorted(others))}, in which "
                "questions that share a prefix would see each other; use a model whose layers all "
                "have full attention"
            )
        if self.processor is not None:
            vocabulary = self.tokenizer.get_vocab()
            if lacking := [token for token in self.chat.stop if token not in vocabulary]:
                raise BackboneError(
                    f"{self.name}: its tokenizer lacks {lacking[0]!r}, so its prompts differ from "
                    f"those of {type(self).__name__}; use another model of the family"
                )

    def _checked_side(self, side: int | None) -> int:
        own, multiple = self.default_side, self.side_multiple
        if side is None or side == own:
            return own
        if multiple is None:
            raise BackboneError(
                f"backbone.side={side}: {self.name} takes frames of {own} pixels only; leave side "
                "null"
            )
        if side < multiple or side % multiple:
            raise BackboneError(
                f"backbone.side={side}: {self.name} takes frames whose side is a multiple of "
                f"{multiple} pixels; give one, or null for {own}"
            )
        return side

    @property
    @abstractmethod
    def default_side(self) -> int:
        """Height and width of frames in pixels, unless another side is given."""

    @property
    def side_multiple(self) -> int | None:
        """Other sides must be a multiple of this; None for a single one."""
        return None

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Q, channels of the vision encoder's features before its projector, for each token."""

    @property
    @abstractmethod
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches in a frame."""

    @property
    @abstractmethod
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of the LLM's tokens of a frame."""

    @abstractmethod
    def attention_layers(self) -> list[nn.Module]:
        """The vision self-attention modules, in order."""

    @abstractmethod
    def output_projection(self, layer: nn.Module) -> nn.Module:
        """The linear layer after the attention of ``layer``."""

    @abstractmethod
    def _tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, T, 3, H, W) → tokens (B, T, N, W)."""

    @abstractmethod
    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, T, 3, H, W) → features (B, T, N, Q) and tokens (B, T, N, W)."""

    @abstractmethod
    def _layout(self, stream: Stream, index: int) -> Iterator[str | Block | Tensor]:
        """Lay out a stream, the ``index``-th of a prompt.

        Yields:
            Texts, visual tokens, and learned tokens (n, D) of the family.
        """

    @property
    def deep_layers(self) -> int:
        """J, the LLM's first layers whose output gets visual features of its own (Qwen3-VL)."""
        return 0

    @property
    def newline(self) -> Tensor | None:
        """(D,) the learned token that ends a stream, in families that have one."""
        return None

    @property
    def patch_places(self) -> Tensor:
        """(rows, columns) long, the position of each patch in the vision encoder's sequence."""
        rows, columns = self.patch_grid
        return torch.arange(rows * columns).view(rows, columns)

    @property
    def positions(self) -> int:
        """S, positions of a frame in the vision encoder's attention."""
        return math.prod(self.patch_grid)

    def attention_windows(self) -> list[Tensor | None]:
        """For each vision layer the window (S,) of each position; None if all see each other."""
        return [None] * len(self.attention_layers())

    def _positions(self, start: int, block: Block) -> tuple[Tensor, int]:
        """Positions (A, F·N) of a block that begins at ``start``, and where text goes on."""
        count = block.stream.grid.numel()
        return _running(start, count, 1), start + count

    def _deep_inputs(self, prompt: Prompt, padding: int) -> dict[str, Any]:
        """Arguments with which the LLM adds ``prompt.deep``, before ``padding`` more tokens."""
        return {}

    @property
    def frame_size(self) -> tuple[int, int]:
        """(H, W) of frames in pixels."""
        return self.side, self.side

    @property
    def hidden_size(self) -> int:
        """D, channels of an embedding at the LLM's input."""
        size: int = self.model.config.text_config.hidden_size
        return size

    @property
    def token_size(self) -> int:
        """W, channels of a visual token: D, and D more for each of ``deep_layers``."""
        return self.hidden_size * (1 + self.deep_layers)

    @property
    def tokens_per_frame(self) -> int:
        """N, the LLM's tokens per frame."""
        return math.prod(self.token_grid)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights, and of tokens."""
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        """Device of the frozen weights."""
        return self._embedding.device

    @property
    def _embedding(self) -> Tensor:
        embeddings: Any = self.model.get_input_embeddings()
        weight: Tensor = embeddings.weight
        return weight

    def encode(self, frames: Tensor, adapter: str | None = None) -> Tensor:
        """Encode frames with the vision tower and the projector.

        Args:
            frames: (B, T, 3, h, w) uint8 of any size, or floating point already normalised and of
                ``frame_size``.
            adapter: name of the vision adapter to switch on; None is the untouched base.

        Returns:
            (B, T, N, W) tokens.

        Raises:
            ValueError: the frames have another shape.
            KeyError: there is no adapter of that name.
        """

        def read(part: Tensor) -> tuple[Tensor]:
            pixels = self.normalise(part)
            with use_adapter(self.vision_tower, adapter):
                return (self._tokens(pixels),)

        chunks = in_chunks(read, frames, self.frames_at_once)
        return joined([tokens for (tokens,) in chunks], frames)

    def features(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames without adapters, and also return the features before the projector.

        Args:
            frames: as for :meth:`encode`.

        Returns:
            (B, T, N, Q) features, pooled like tokens, and (B, T, N, W) tokens as from
            :meth:`encode`.
        """

        def read(part: Tensor) -> tuple[Tensor, Tensor]:
            pixels = self.normalise(part)
            with use_adapter(self.vision_tower, None):
                return self._features(pixels)

        chunks = in_chunks(read, frames, self.frames_at_once)
        features, tokens = (joined(list(parts), frames) for parts in zip(*chunks, strict=True))
        return features, tokens

    @property
    def frames_at_once(self) -> int | None:
        """Maximum frames in the vision encoder at once; None is all of a call.

        Without gradients, chunks cost nothing and are always used.
        """
        if torch.is_grad_enabled():
            return self.frame_chunk
        most = max(1, _PATCHES // math.prod(self.patch_grid))
        return min(self.frame_chunk or most, most)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer.

        Raises:
            ValueError: the backbone was built without a processor.
        """
        if self.processor is None:
            raise ValueError(f"{self.name} was built without a processor and cannot read text")
        return self.processor.tokenizer

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids (n,) as the LLM's input (n, D)."""
        return self.model.get_input_embeddings()(ids)

    def text(self, ids: Sequence[int], positions: Iterable[int]) -> Prompt:
        """Make a prompt of n token ids at n positions, which are equal on all axes."""
        embeddings = self.embed(torch.tensor(ids, dtype=torch.long, device=self.device))
        places = list(positions)
        on_axes = torch.tensor(places, dtype=torch.long).expand(self.axes, -1)
        return self._without_frames(embeddings, on_axes, max(places, default=-1) + 1)

    def prompt(self, streams: Sequence[Stream]) -> Prompt:
        """Write what all questions on a clip begin with: the chat's opening and the streams.

        Args:
            streams: RGB first, then the modalities.

        Raises:
            ValueError: a stream has another shape.
        """
        parts: list[Prompt] = []
        start = 0
        for piece in self._pieces(streams):
            parts.append(self._part(piece, start))
            start = parts[-1].next
        return Prompt.joined(parts)

    def prompt_length(
        self, streams: Sequence[Stream], words: Callable[[str], int] | None = None
    ) -> int:
        """Count the tokens of :meth:`prompt`; the values of the streams' tokens are not read.

        Args:
            streams: as for :meth:`prompt`.
            words: counts the tokens of a text; None is the backbone's tokenizer.
        """
        count = words or (lambda text: len(token_ids(self.tokenizer, text)))
        return sum(
            count(piece)
            if isinstance(piece, str)
            else len(piece.stream.rows if isinstance(piece, Block) else piece)
            for piece in self._pieces(streams)
        )

    def _pieces(self, streams: Sequence[Stream]) -> Iterator[str | Block | Tensor]:
        """The parts of a prompt. Adjacent texts are joined, as they are tokenised together."""
        layouts = [
            chain([stream.label] if stream.label else (), self._layout(stream, index))
            for index, stream in enumerate(streams)
        ]
        for is_text, group in groupby(
            chain([self.chat.opening], *layouts), key=lambda piece: isinstance(piece, str)
        ):
            if is_text:
                yield "".join(map(str, group))
            else:
                yield from group

    def _part(self, piece: str | Block | Tensor, start: int) -> Prompt:
        if isinstance(piece, str):
            ids = token_ids(self.tokenizer, piece)
            return self.text(ids, range(start, start + len(ids)))
        if isinstance(piece, Tensor):
            end = start + len(piece)
            return self._without_frames(piece, _running(start, len(piece), self.axes), end)
        stream, size = piece.stream, self.hidden_size
        wanted = 3 if stream.kept is None else 2
        if stream.tokens.ndim != wanted or stream.tokens.shape[-1] != self.token_size:
            raise ValueError(
                f"a stream must be (T, N, {self.token_size}), got {tuple(stream.tokens.shape)}"
            )
        rows = stream.rows.to(self.dtype)
        positions, end = self._positions(start, piece)
        if stream.kept is not None:
            positions = positions[:, stream.kept.flatten().cpu()]
            if stream.compact:
                positions, end = _running(start, len(rows), self.axes), start + len(rows)
        visual = torch.ones(len(rows), dtype=torch.bool)
        deep = rows[:, size:].unflatten(-1, (self.deep_layers, size)).transpose(0, 1)
        return Prompt(rows[:, :size], positions, visual, deep, end)

    def _without_frames(self, embeddings: Tensor, positions: Tensor, end: int) -> Prompt:
        visual = torch.zeros(len(embeddings), dtype=torch.bool)
        deep = embeddings.new_empty(self.deep_layers, 0, self.hidden_size)
        return Prompt(embeddings, positions, visual, deep, end)

    def read(
        self,
        prompt: Prompt,
        adapter: str | None = None,
        mask: Tensor | BlockMask | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run the LLM.

        Args:
            prompt: P tokens.
            adapter: name of the LLM adapter to switch on; None is the untouched base.
            mask: (1, 1, P, L) of the tokens that each may attend to, of the cache and of
                ``prompt``; or (1, 1, M, M) with M ≥ P. None is plain causal.
            cache: what was read before; this prompt is added.

        Returns:
            (P, D) last hidden states.
        """
        length = len(prompt.embeddings)
        padding = 0 if mask is None else mask.shape[-2] - length
        if mask is None and cache is None and self.axes == 1 and prompt.next != length:
            # transformers would take gaps between positions for borders of packed sequences.
            mask = torch.ones(1, length, dtype=torch.bool, device=self.device)
        positions = pad(prompt.positions, (0, padding)).to(self.device)
        with use_adapter(self.language_model, adapter):
            hidden: Tensor = self.language_model(
                inputs_embeds=pad(prompt.embeddings, (0, 0, 0, padding))[None],
                attention_mask=mask,
                position_ids=positions if self.axes == 1 else positions[:, None],
                past_key_values=cache,
                use_cache=cache is not None,
                **self._deep_inputs(prompt, padding),
            ).last_hidden_state[0]
        return hidden[:length]

    def logits(self, hidden: Tensor) -> Tensor:
        """Map the LLM's last hidden states (..., D) to float32 logits (..., V)."""
        return self.model.get_output_embeddings()(hidden).float()

    def normalise(self, frames: Tensor) -> Tensor:
        """Resize and normalise frames as the model's own processor does (method.md section 0).

        Resizing to ``frame_size`` is bicubic with antialiasing, and ignores the aspect ratio.

        Args:
            frames: uint8 (B, T, 3, h, w), or floating point, already normalised, (B, T, 3, H, W).

        Returns:
            (B, T, 3, H, W) in the model's dtype.

        Raises:
            ValueError: the frames have another shape, or no processor was given.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames must be (B, T, 3, H, W), got {tuple(frames.shape)}")
        right_size = tuple(frames.shape[-2:]) == self.frame_size
        if frames.is_floating_point():
            if not right_size:
                raise ValueError(
                    f"floating point frames must be normalised and {self.frame_size} in size, got "
                    f"{tuple(frames.shape[-2:])}; pass uint8 frames to have them resized"
                )
            return frames.to(self.dtype)
        if not right_size:
            size = list(self.frame_size)
            frames = resize(frames, size, InterpolationMode.BICUBIC, antialias=True)
        mean, std = (torch.tensor(x, device=frames.device) for x in self.normalisation)
        pixels = (frames.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return pixels.to(self.dtype)

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, for pixels from 0 to 1.

        Raises:
            ValueError: the backbone was built without a processor.
        """
        if self.processor is None:
            raise ValueError(f"{self.name} was built without a processor and cannot take frames")
        video = self.processor.video_processor
        return list(video.image_mean), list(video.image_std)


def _running(start: int, count: int, axes: int) -> Tensor:
    """Positions (axes, count) that go on by one."""
    return torch.arange(start, start + count).expand(axes, -1)
