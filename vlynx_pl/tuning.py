"""Stage 2: instruction tuning (paper section 3.4).

The LLM learns to use the aligned tokens: [video, modalities, question] → answer. All questions on a
clip share its prefix (see prefix_sharing.py); vision adapters stay as alignment left them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftModel
from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.adapter_training import AdapterTraining, evaluating
from vlynx_pl.adapters import (
    LLM_LORA,
    VISION_LORA,
    AdapterError,
    Lora,
    adapter_hash,
    adapter_parameters,
    train_adapters,
)
from vlynx_pl.answering import answer, choose
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.errors import UserError
from vlynx_pl.prefix_sharing import (
    learning_branch,
    question_losses,
    shared_prefix,
    split_by_budget,
)
from vlynx_pl.question_texts import Question, target, unfit
from vlynx_pl.ranks import share_of_batch
from vlynx_pl.saved_adapters import SavedAdapter, saved_config
from vlynx_pl.tensor_store import PRECISION, TokenStore

_TURN: Final = 20  # more than the tokens around a question and its answer


class InstructionTuning(AdapterTraining):
    """Trains one task's LLM adapter on episodes: a clip, its streams, and all its questions.

    Args:
        backbone: the frozen Video LLM; adapters are added to it here.
        task: name of the LLM adapter, such as ``scanqa``.
        modalities: stream → folder of its aligned vision adapter; null reads the stream with the
            untouched base. Streams go to the LLM in this order, after the video; a stream that is
            not named is left out, so none at all is the LoRA-only baseline.
        lora: an LLM adapter that begins from nothing; of a loaded one, only the dropout counts.
        llm_adapter: folder of an LLM adapter to begin with, or to evaluate, whatever its rank.
            Vision adapters that were trained along lie beside it, and are loaded with it.
        train_vision: train the vision adapters along; with null folders from nothing, which is the
            paper's "no interface adaptation" (Table 5).
        vision_lora: vision adapters that begin from nothing.
        vision_learning_rate: peak of theirs; null is ``learning_rate``. What suits the LLM may be
            far too much for a vision encoder.
        pooled: modalities whose tokens are averaged over each frame.
        question_budget: most tokens of questions and answers in a sequence; a clip with more
            becomes several sequences.
        max_new_tokens: most tokens of an answer.
        choices: letters, such as ``ABCD``; the most likely one is the answer, as AVQA is evaluated
            (method.md section 5.3). Without any, answers are free.
        checkpointing: compute the LLM's activations again for the backward pass and keep none, for
            half the memory or less and a third more time.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with a linearly rising rate, before a cosine to zero.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        task: str,
        modalities: Mapping[str, str | None] | None = None,
        lora: Lora = LLM_LORA,
        llm_adapter: str | None = None,
        train_vision: bool = False,
        vision_lora: Lora = VISION_LORA,
        vision_learning_rate: float | None = None,
        pooled: Sequence[str] = (),
        question_budget: int = 4096,
        max_new_tokens: int = 64,
        choices: str = "",
        checkpointing: bool = False,
        learning_rate: float = 1e-4,
        warmup: float = 0.03,
    ) -> None:
        if vision_learning_rate is not None and not (train_vision and modalities):
            raise UserError(
                f"vision_learning_rate={vision_learning_rate} trains nothing without "
                "train_vision=true and modalities; give them, or leave it null"
            )
        super().__init__(backbone, learning_rate, warmup)
        self.task, self.modalities = task, dict(modalities or {})
        self.train_vision, self.vision_learning_rate = train_vision, vision_learning_rate
        self.pooled = frozenset(pooled)
        self.question_budget, self.max_new_tokens = question_budget, max_new_tokens
        self.choices = choices
        self.token_store: TokenStore | None = None  # where tokens are kept, if they are
        self._tuned_on: Mapping[str, Any] | None = None  # what the loaded LLM adapter was tuned on
        self._adapters: dict[str, str | None] = {}  # stream → vision adapter that reads it
        if train_vision and llm_adapter is not None:  # what was trained along lies beside it
            beside = {name: Path(llm_adapter).parent / f"vision-{name}" for name in self.modalities}
            self.modalities |= {name: str(path) for name, path in beside.items() if path.is_dir()}
        for name, folder in self.modalities.items():
            self._adapters[name] = self._add_vision(name, folder, vision_lora)
        self.llm_adapter = llm_adapter
        if llm_adapter is None:
            backbone.add_llm_adapter(task, lora)
        else:
            saved = self._saved(llm_adapter)
            self._tuned_on = saved.made_with.get("reads")
            saved.config.lora_dropout = lora.dropout
            backbone.load_llm_adapter(task, saved)
        if checkpointing:
            backbone.checkpoint_llm()
        self.train()

    def _add_vision(self, name: str, folder: str | None, lora: Lora) -> str | None:
        if folder is None:
            if not self.train_vision:
                return None
            self.backbone.add_vision_adapter(name, lora)
            return name
        saved = self._saved(folder)
        self.made_with[name] = saved.made_with
        self.backbone.load_vision_adapter(name, saved)
        for parameter in adapter_parameters(self.backbone.vision_adapters, name).values():
            parameter.requires_grad_(self.train_vision)
        return name

    def _saved(self, folder: str) -> SavedAdapter:
        """What a folder says of its adapter; raises AdapterError if it is another backbone's."""
        saved = saved_config(Path(folder))
        made_for = saved.made_with.get("fingerprint")
        if made_for not in {None, self.backbone.fingerprint}:
            raise AdapterError(
                f"{folder} was trained on {saved.made_with.get('backbone')} (fingerprint "
                f"{made_for}), this backbone is {self.backbone.name} "
                f"({self.backbone.fingerprint}); train it on this backbone"
            )
        return saved

    @override
    def train(self, mode: bool = True) -> "InstructionTuning":
        super().train(mode)
        if not self.train_vision and any(self._adapters.values()):
            # A frozen adapter reads without dropout, as it will when questions are answered.
            train_adapters(self.backbone.vision_adapters, False)
        return self

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        trained = {f"llm-{self.task}": (self.backbone.llm_adapters, self.task)}
        if self.train_vision:
            for name in self.modalities:
                trained[f"vision-{name}"] = (self.backbone.vision_adapters, name)
        return trained

    @override
    def learning_rates(self) -> list[tuple[nn.Module, float | None]]:
        return [(self.backbone.vision_tower, self.vision_learning_rate)]

    @property
    def roads(self) -> dict[str, str]:
        """Stream → all that its tokens depend on beside the pictures.

        Raises:
            UserError: they change while they are trained.
        """
        if self.train_vision:
            raise UserError(
                "train_vision changes the tokens at every step, so that none can be kept; take "
                "callbacks.KeepTokens out of trainer.callbacks"
            )
        return {stream: self._road(how) for stream, how in {"video": {}, **self._reads()}.items()}

    def _road(self, how: Mapping[str, Any]) -> str:
        road = {
            "backbone": self.backbone.fingerprint,
            "dtype": str(self.backbone.newline.dtype),
            "normalisation": self.backbone.normalisation,
        }
        return json.dumps({**road, **how})

    @property
    def read_streams(self) -> tuple[str, ...]:
        """Names of the streams that are read, the video's first."""
        return ("video", *self.modalities)

    def _reads(self) -> dict[str, dict[str, Any]]:
        """Modality → how its pictures become tokens."""
        return {
            stream: {
                "adapter": adapter and adapter_hash(self.backbone.vision_adapters, adapter),
                "pooled": stream in self.pooled,
            }
            for stream, adapter in self._adapters.items()
        }

    @override
    def notes(self) -> dict[str, Any]:
        return {"reads": self._reads()}

    @override
    def sizes(self, batch: Sequence[Mapping[str, Any]]) -> str:
        questions = [len(episode["questions"]) for episode in batch]
        pool = "pool tokens (model.pooled), " if self.modalities else ""
        return (
            f"{len(batch)} clips with {questions} questions, in sequences of up to "
            f"model.question_budget={self.question_budget} tokens beside the clip's own; lower it "
            f"or data.batch_size or data.frames, {pool}or compute activations again instead of "
            "keeping them with model.checkpointing=true"
        )

    @override
    def premises(self) -> dict[str, Any]:
        # Vision adapters that are trained along change with every step.
        reads = {} if self.train_vision else {"reads": self._reads()}
        return super().premises() | reads

    @override
    def on_test_start(self) -> None:
        """An LLM adapter is examined with the senses that it was tuned on.

        Raises:
            AdapterError: they are others.
        """
        if self.llm_adapter is None:
            rank_zero_warn("model.llm_adapter is null: the untuned LLM answers")
        self._check_senses()

    def _check_senses(self) -> None:
        if self._tuned_on is not None and self._tuned_on != self._reads():
            raise AdapterError(
                f"{self.llm_adapter} was tuned on {self._tuned_on}, this run reads "
                f"{self._reads()}; give the model.modalities and pooled of its tuning, or, where "
                "it has a patch, PAVE with its side and sizes"
            )

    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        """What a token store takes for an episode with its streams, see :meth:`read`."""
        self._check(episode)
        bytes_of_one = self.backbone.hidden_size * PRECISION.itemsize
        tokens = 0
        for name in self.read_streams:
            each = 1 if name in self.pooled else self.backbone.tokens_per_frame
            tokens += len(episode["times"][name]) * each
        return tokens * bytes_of_one

    def encode(self, episode: Mapping[str, Any]) -> list[Tensor]:
        """What the LLM is given of an episode: tokens of the video and of each modality.

        Args:
            episode: see :meth:`read`.

        Returns:
            (T, N, D) each, the video's first.

        Raises:
            UserError: a stream is not there.
        """
        return self.read(episode)

    def read(self, episode: Mapping[str, Any]) -> list[Tensor]:
        """What the visual road makes of an episode, kept tokens if it has them.

        Args:
            episode: ``streams``, name → uint8 (T, 3, H, W), has all of ``read_streams``, and
                ``times`` the U timestamps of each, with T / U frames each; or else ``tokens`` has
                them, name → (U, N, D).

        Returns:
            (U, N, D) each, in the order of ``read_streams``.

        Raises:
            UserError: a stream is not there, or its timestamps have unlike numbers of frames.
        """
        names = self.read_streams
        if kept := episode.get("tokens"):
            return [kept[name] for name in names]
        tokens = self._read(episode)
        if self.token_store is None:
            return tokens
        # Rounded at once, so that the first epoch learns from what all others do.
        streams = {
            name: (each.to(PRECISION), episode["times"][name])
            for name, each in zip(names, tokens, strict=True)
        }
        self.token_store.save(episode["key"], streams)
        return [kept for kept, _ in streams.values()]

    def _read(self, episode: Mapping[str, Any]) -> list[Tensor]:
        self._check(episode)
        streams = episode["streams"]
        with torch.no_grad():
            tokens = [self.backbone.encode(streams["video"][None], None)[0]]
        for name, adapter in self._adapters.items():
            with torch.set_grad_enabled(self.train_vision and torch.is_grad_enabled()):
                read = self.backbone.encode(streams[name][None], adapter)[0]  # (T, N, D)
                timestamps = len(episode["times"][name])
                if len(read) > timestamps:
                    read = read.unflatten(0, (timestamps, -1)).mean(1)
                if name in self.pooled:
                    read = read.mean(1, keepdim=True)
            tokens.append(read)
        return tokens

    def _check(self, episode: Mapping[str, Any]) -> None:
        streams, times = episode["streams"], episode["times"]
        if missing := [name for name in self.read_streams if name not in streams]:
            raise UserError(
                f"the data has no stream {missing[0]!r}, only {', '.join(streams)}; name the "
                "modalities of model.modalities, or PAVE's model.side, as the data module does"
            )
        for name in self.read_streams:
            frames, timestamps = len(streams[name]), len(times[name])
            if not timestamps or frames % timestamps:
                raise UserError(
                    f"stream {name!r} has {frames} frames for {timestamps} timestamps; correct the "
                    "data module, which must give each timestamp as many"
                )

    def losses(self, episode: Mapping[str, Any]) -> Tensor:
        """(K,) the loss of each of an episode's questions, answers of its history included."""
        prefix = shared_prefix(self.backbone, self.encode(episode))
        tokenizer = self.backbone.tokenizer
        branches = [learning_branch(tokenizer, question) for question in episode["questions"]]
        parts = split_by_budget(branches, self.question_budget)
        return torch.cat([question_losses(self.backbone, prefix, p, self.task) for p in parts])

    def unfit(self, question: Question, learnt: bool) -> str | None:
        """Why a question cannot be learnt, or cannot be asked; None where it can be."""
        tokenizer = self.backbone.tokenizer
        reason = unfit(question, tokenizer.get_added_vocab(), target(question) if learnt else None)
        if reason is not None or not learnt:
            return reason
        turns = [*question.history, (question.prompt, target(question))]
        bytes_of_texts = sum(len(text.encode()) for turn in turns for text in turn)
        # A token is a byte at least, and few questions are worth being tokenised for this.
        if bytes_of_texts + _TURN * len(turns) <= self.question_budget:
            return None
        length = len(learning_branch(tokenizer, question).ids)
        if length <= self.question_budget:
            return None
        return (
            f"question {question.id!r:.60} has {length} tokens, more than "
            f"model.question_budget={self.question_budget}"
        )

    @property
    def asking(self) -> dict[str, Any]:
        """How questions are answered, beside what is loaded: plain numbers and names."""
        how = {"choices": self.choices} if self.choices else {"max_new_tokens": self.max_new_tokens}
        loaded = {"llm_adapter": self.llm_adapter, "modalities": self.modalities}
        return {"task": self.task, "decoding": "greedy", **loaded, **how}

    def answers(self, episode: Mapping[str, Any]) -> list[str]:
        """Answers to all questions of an episode, whatever mode the module is in."""
        with evaluating(self):
            with torch.inference_mode():
                tokens = self.encode(episode)
            asked = self.backbone, tokens, episode["questions"]
            if self.choices:
                return choose(*asked, self.choices, llm_adapter=self.task)
            return answer(*asked, max_new_tokens=self.max_new_tokens, llm_adapter=self.task)

    @override
    def training_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Tensor:
        loss, count = self._mean_loss(batch)
        loss = loss * share_of_batch(count, self.device)
        self.log("train/loss", loss, prog_bar=True, batch_size=1, sync_dist=True)
        return loss

    def _mean_loss(self, batch: Sequence[Mapping[str, Any]]) -> tuple[Tensor, int]:
        """Of a rank's part of a batch, and of how many questions it is the mean."""
        # A rank may have nothing of an epoch's last batch, but the others wait for its gradients.
        losses = [self.losses(episode) for episode in batch] or [self._nothing()]
        return torch.cat(losses).mean(), sum(len(episode["questions"]) for episode in batch)

    def _nothing(self) -> Tensor:
        """(1,) zero, with a gradient of zero for all that is trained."""
        trained = (parameter for parameter in self.parameters() if parameter.requires_grad)
        return torch.stack([parameter.sum() * 0 for parameter in trained]).sum()[None]

    @override
    def validation_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> None:
        loss, count = self._mean_loss(batch)
        self.log_mean("val/loss", loss, count)

    @override
    def test_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Mapping[str, Any]:
        return {"answers": [self.answers(episode) for episode in batch]}
