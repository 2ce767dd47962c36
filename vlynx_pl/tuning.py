"""Stage 2: instruction tuning (paper section 3.4).

The LLM learns to use the aligned tokens: [video, modalities, question] → answer. All questions on a
clip share its prefix (see prefix_sharing.py). Vision adapters stay as alignment left them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftModel
from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.adapter_training import AdapterTraining, FrameChunk, evaluating
from vlynx_pl.adapters import LLM_LORA, Lora
from vlynx_pl.answering import answer_each, choose
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.distributed import share_of_batch
from vlynx_pl.io.progress import say
from vlynx_pl.io.tensor_store import PRECISION, TokenStore
from vlynx_pl.memory import fitting, free_bytes
from vlynx_pl.muting import BASELINE, Encodings, Way, muted
from vlynx_pl.prefix_sharing import (
    Branch,
    question_branch,
    question_losses,
    split_by_budget,
)
from vlynx_pl.questions import Question
from vlynx_pl.saved_adapters import SavedAdapter
from vlynx_pl.stream_tokens import EncodedClip, StreamTokens
from vlynx_pl.streams import AlignedStreams

_FEW: Final = 64  # tokens, to measure what one of them needs
_TURN: Final = 20  # upper bound of the tokens around a question and its answer


class InstructionTuning(AdapterTraining):
    """Trains one task's LLM adapter on episodes: a clip, its streams, and all its questions.

    Args:
        backbone: the frozen Video LLM; adapters are added to it.
        task: name of the LLM adapter, such as ``scanqa``.
        streams: how streams become the LLM's tokens; null is AlignedStreams without modalities, the
            LoRA-only baseline.
        lora: settings of a new LLM adapter; of a loaded one, only the dropout is used.
        llm_adapter: folder of an LLM adapter to continue or evaluate, of any rank. Other weights
            that were trained with it are loaded from beside it.
        question_budget: maximum tokens of questions and answers in a sequence; a clip with more
            becomes several sequences.
        max_new_tokens: maximum tokens of an answer.
        choices: letters, such as ``ABCD``, of which the most likely one is the answer, as in AVQA's
            evaluation (method.md section 5.3). Empty for free answers.
        checkpointing: recompute the LLM's activations in the backward pass; needs at most half the
            memory and a third more time. ``auto`` does so if they need more than half of the memory
            that is free at the first step.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with linear warmup, before a cosine decay to zero.
        frame_chunk: see :class:`AdapterTraining`.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        task: str,
        streams: StreamTokens | None = None,
        lora: Lora = LLM_LORA,
        llm_adapter: str | None = None,
        question_budget: int = 4096,
        max_new_tokens: int = 64,
        choices: str = "",
        checkpointing: bool | Literal["auto"] = "auto",
        learning_rate: float = 1e-4,
        warmup: float = 0.03,
        frame_chunk: FrameChunk = "auto",
    ) -> None:
        super().__init__(backbone, learning_rate, warmup, frame_chunk)
        self.task, self.llm_adapter, self.choices = task, llm_adapter, choices
        self.question_budget, self.max_new_tokens = question_budget, max_new_tokens
        self.streams = streams or AlignedStreams()
        self.made_with = self.streams.made_with
        self.token_store: TokenStore | None = None
        self.encodings: Encodings | None = None
        """Where clips are kept that were encoded to answer questions."""
        self._loaded = None if llm_adapter is None else backbone.saved_adapter(Path(llm_adapter))
        if self._loaded is None:
            backbone.add_llm_adapter(task, lora)
        else:
            self._warn_of_quantization(self._loaded)
            self._loaded.config.lora_dropout = lora.dropout
            backbone.load_llm_adapter(task, self._loaded)
        self.streams.attach(backbone, self._loaded)
        self.checkpointing = checkpointing
        if checkpointing is True:
            backbone.checkpoint_llm()
        self.train()

    def _warn_of_quantization(self, saved: SavedAdapter) -> None:
        then, now = saved.made_with.get("quantization"), self.backbone.quantization
        if saved.made_with and then != now:
            rank_zero_warn(
                f"{saved.folder} was tuned with backbone.quantization={then}, here it is {now}: "
                "the LLM's weights differ, so answers may too"
            )

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        llm = {f"llm-{self.task}": (self.backbone.llm_adapters, self.task)}
        return llm | self.streams.trained_adapters()

    @override
    def save_adapters(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        super().save_adapters(folder, made_with)
        self.streams.save(folder, made_with)

    @override
    def learning_rates(self) -> list[tuple[nn.Module, float | None]]:
        return [(self.streams.trained(), self.streams.learning_rate)]

    @override
    def adapter_metadata(self) -> dict[str, Any]:
        return self.streams.adapter_metadata()

    @override
    def batch_size(self, batch: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        return len(batch), sum(map(self.streams.visual_tokens, batch))

    @override
    def encoded_with_gradients(self, batch: Sequence[Mapping[str, Any]]) -> list[int] | None:
        trained = [name for _, name in self.streams.trained_adapters().values()]
        return [len(e["streams"][name]) for e in batch for name in trained] if trained else None

    @override
    def encode_one(self, frame: Tensor) -> object:
        [(_, name), *_] = self.streams.trained_adapters().values()
        return self.backbone.encode(frame, name)

    @override
    def fit_to_memory(self, batch: Sequence[Mapping[str, Any]], reserved: int = 0) -> None:
        calls = self.encoded_with_gradients(batch)
        if self.checkpointing != "auto" and calls is None:
            return
        each = self.kept_bytes(self._read_tokens) // _FEW
        tokens = sum(
            self.backbone.prompt_length(self.streams.outline(episode))
            + sum(len(branch.ids) for branch in part)
            for episode in batch
            for part in self._parts(episode)
        )
        free = free_bytes(self.device)
        if self.checkpointing == "auto" and tokens > fitting(free, self._trained_numbers(), each):
            self.backbone.checkpoint_llm()
            self.train()
            say(
                f"model.checkpointing is true: the batch's {tokens} tokens would keep "
                f"{tokens * each / 2**30:.1f} GiB for the backward pass, and "
                f"{free / 2**30:.1f} GiB are free"
            )
            each = self.kept_bytes(self._read_tokens) // _FEW
        super().fit_to_memory(batch, reserved + tokens * each)

    def _read_tokens(self) -> object:
        """Run the LLM on a few tokens."""
        return self.backbone.read(self.backbone.text([0] * _FEW, range(_FEW)), self.task)

    @override
    def batch_memory_hint(self, batch: Sequence[Mapping[str, Any]]) -> str:
        questions = [len(episode["questions"]) for episode in batch]
        modalities = self.streams.settings.get("modalities")
        fewer = "keep fewer tokens (model.streams.keep), " if modalities else ""
        return (
            f"{len(batch)} clips with {questions} questions, in sequences of up to "
            f"model.question_budget={self.question_budget} tokens beside the clip's own; lower it "
            f"or data.batch_size or data.frames, {fewer}or compute activations again instead of "
            "keeping them with model.checkpointing=true"
        )

    @override
    def resume_invariants(self) -> dict[str, Any]:
        return super().resume_invariants() | self.streams.resume_invariants()

    @override
    def on_test_start(self) -> None:
        """Raise AdapterError where the LLM adapter was tuned on other streams."""
        if self._loaded is None:
            rank_zero_warn("model.llm_adapter is null: the untuned LLM answers")
        else:
            self.streams.refuse_others(self._loaded)

    def encode(self, episode: Mapping[str, Any]) -> list[Stream]:
        """Encode an episode as the LLM's tokens.

        Args:
            episode: with ``streams`` and ``times``, see :meth:`StreamTokens.encode`; or with
                ``tokens`` from a store, name → (U, N, C), and ``times``.

        Returns:
            The streams that the LLM reads, tokens (U, N, W) each, the video first.

        Raises:
            UserError: a stream is missing, or its timestamps differ in their numbers of frames.
        """
        return self.streams.tokens(self._encoded(episode), episode)

    def _encoded(self, episode: Mapping[str, Any]) -> Mapping[str, Tensor]:
        if kept := episode.get("tokens"):
            encoded: Mapping[str, Tensor] = kept
            return encoded
        self.streams.check(episode)
        encoded = self.streams.encode(episode)
        if self.token_store is None:
            return encoded
        # Rounded at once, so that the first epoch trains on the same tokens as later ones.
        rounded = {
            name: each.to(PRECISION) if each.is_floating_point() else each
            for name, each in encoded.items()
        }
        times = episode["times"]
        self.token_store.save(
            episode["key"], {name: (each, times.get(name, ())) for name, each in rounded.items()}
        )
        return rounded

    def losses(self, episode: Mapping[str, Any]) -> Tensor:
        """Compute the loss (K,) of each question of an episode, its history's answers included."""
        prefix = self.backbone.prompt(self.encode(episode))
        parts = self._parts(episode)
        return torch.cat([question_losses(self.backbone, prefix, p, self.task) for p in parts])

    def _parts(self, episode: Mapping[str, Any]) -> list[list[Branch]]:
        """Return the questions of each sequence of an episode."""
        branches = [self._branch(question) for question in episode["questions"]]
        return split_by_budget(branches, self.question_budget)

    def _branch(self, question: Question) -> Branch:
        return question_branch(self.backbone.tokenizer, self.backbone.chat, question, learnt=True)

    def unfit(self, question: Question, learnt: bool) -> str | None:
        """Return why a question cannot be learnt (or only asked), or None."""
        reason = question.unfit(self.backbone.tokenizer.get_added_vocab(), learnt)
        if reason is not None or not learnt:
            return reason
        turns = [*question.history, (question.prompt, question.target)]
        bytes_of_texts = sum(len(text.encode()) for turn in turns for text in turn)
        # A token has at least one byte, so most questions need not be tokenised for this.
        if bytes_of_texts + _TURN * len(turns) <= self.question_budget:
            return None
        length = len(self._branch(question).ids)
        if length <= self.question_budget:
            return None
        return (
            f"question {question.id!r:.60} has {length} tokens, more than "
            f"model.question_budget={self.question_budget}"
        )

    @property
    def asking(self) -> dict[str, Any]:
        """How questions are answered, as plain data for the predictions file."""
        how = {"choices": self.choices} if self.choices else {"max_new_tokens": self.max_new_tokens}
        loaded = {"llm_adapter": self.llm_adapter, **self.streams.settings}
        return {"task": self.task, "decoding": "greedy", **loaded, **how}

    def answers(self, episode: Mapping[str, Any]) -> list[str]:
        """Answer all questions of an episode, in eval mode."""
        clip = self.encoded_clip(episode)
        if self.encodings is not None:
            self.encodings.keep(clip)
        with evaluating(self), torch.inference_mode():
            tokens = self.streams.tokens(clip.encoded, episode)
            [said] = self._said(clip, [tokens], self.task)
        return said

    def encoded_clip(self, episode: Mapping[str, Any]) -> EncodedClip:
        """Encode an episode to answer its questions, in eval mode."""
        with evaluating(self), torch.inference_mode():
            return EncodedClip(episode, self._encoded(episode))

    def answers_again(
        self, ways: Sequence[Way], clip: EncodedClip, other: EncodedClip | None
    ) -> dict[Way, list[str]]:
        """Answer all questions on a clip in other ways, in eval mode.

        Args:
            ways: see :mod:`vlynx_pl.muting`.
            clip: the one that the questions are about.
            other: another one, for ways that need it.
        """
        said: dict[Way, list[str]] = {}
        with evaluating(self), torch.inference_mode():
            for adapter in (self.task, None):
                read = [way for way in ways if (way == BASELINE) == (adapter is None)]
                tokens = [muted(self.streams, way, clip, other) for way in read]
                said |= zip(read, self._said(clip, tokens, adapter), strict=True)
        return said

    def _said(
        self, clip: EncodedClip, read: Sequence[Sequence[Stream]], adapter: str | None
    ) -> list[list[str]]:
        """Answer the questions on a clip for each of several inputs."""
        questions = clip.episode["questions"]
        if not read:
            return []
        if not self.choices:
            most = self.max_new_tokens
            return answer_each(
                self.backbone, read, questions, max_new_tokens=most, llm_adapter=adapter
            )
        return [
            choose(self.backbone, tokens, questions, self.choices, llm_adapter=adapter)
            for tokens in read
        ]

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.streams.training_place = (self._seed, self.current_epoch)
        super().on_train_batch_start(batch, batch_idx)

    @override
    def training_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Tensor:
        loss, count = self._mean_loss(batch)
        loss = loss * share_of_batch(count, self.device)
        self.log("train/loss", loss, prog_bar=True, batch_size=1, sync_dist=True)
        return loss

    def _mean_loss(self, batch: Sequence[Mapping[str, Any]]) -> tuple[Tensor, int]:
        """Mean loss of this rank's part of a batch, and its number of questions."""
        # A rank may have no part of an epoch's last batch, but the others wait for its gradients.
        losses = [self.losses(episode) for episode in batch] or [self._nothing()]
        return torch.cat(losses).mean(), sum(len(episode["questions"]) for episode in batch)

    def _nothing(self) -> Tensor:
        """Return (1,) zero, with a zero gradient for every trained parameter."""
        trained = (parameter for parameter in self.parameters() if parameter.requires_grad)
        return torch.stack([parameter.sum() * 0 for parameter in trained]).sum()[None]

    @override
    def validation_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> None:
        loss, count = self._mean_loss(batch)
        self.log_mean("val/loss", loss, count)

    @override
    def test_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Mapping[str, Any]:
        return {"answers": [self.answers(episode) for episode in batch]}
