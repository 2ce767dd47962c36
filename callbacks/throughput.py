"""Throughput of training, in the logs and on the progress bar."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.trainer_access import expect_module
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.distributed import total_over_ranks
from vlynx_pl.flops import LinearFlops, peak_flops


class Throughput(Callback):
    """Logs ``train/clips_per_s``, ``train/visual_tokens_per_s`` and ``train/mfu``.

    They are means since the last step that was logged, totals over all process ranks. Waiting for
    data counts. Validation, checkpoints and the first step of a session do not.

    MFU is the share of the GPUs' peak in bf16 that the linear layers use, LoRA's included, see
    :class:`vlynx_pl.flops.LinearFlops`. The operations of a session's second batch are counted, and
    later ones have as many per visual token. It is logged for GPUs in ``PEAK_FLOPS`` only.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._peak = peak_flops(pl_module.device)
        self._counter: LinearFlops | None = None
        self._per_token: float | None = None  # operations
        self._first = True
        self._since: float | None = None  # s; None if the time until the next batch does not count
        self._seconds, self._clips, self._tokens = 0.0, 0, 0
        self._logged_at = trainer.global_step

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._first:  # slower, as it chooses kernels and the frame chunk
            return
        if self._peak is not None and self._per_token is None:
            self._counter = LinearFlops(pl_module)
        if self._since is None:
            self._since = perf_counter()

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if self._counter is not None:
            self._counter.stop()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._first = False
        clips, tokens = expect_module(pl_module, AdapterTraining).batch_size(batch)
        if self._counter is not None and tokens:
            self._per_token = self._counter.total / tokens
            self._counter = None
        if self._since is not None:
            now = perf_counter()
            self._seconds, self._since = self._seconds + now - self._since, now
            self._clips, self._tokens = self._clips + clips, self._tokens + tokens
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._seconds and every and step % every == 0 and step > self._logged_at:
            self._log(pl_module)
            self._logged_at = step
            self._seconds, self._clips, self._tokens = 0.0, 0, 0

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = None

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        self._since = None

    def _log(self, module: LightningModule) -> None:
        tokens = self._tokens / self._seconds
        mine = [self._clips / self._seconds, tokens, tokens * (self._per_token or 0.0)]
        totals = torch.tensor([*mine, self._peak or 0.0], device=module.device)
        clips, tokens, flops, peak = total_over_ranks(totals).tolist()
        logged = {"train/clips_per_s": clips, "train/visual_tokens_per_s": tokens}
        if self._peak is not None:
            logged["train/mfu"] = flops / peak
        module.log_dict(logged, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
