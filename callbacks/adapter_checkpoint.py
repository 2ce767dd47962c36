"""Saves what was trained as plain PEFT folders."""

import json

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.trainer_access import data, expect_module, run_folder, writes_files
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.cards import write_cards


class AdapterCheckpoint(Callback):
    """Writes ``adapters/vision-<modality>/`` or ``adapters/llm-<task>/`` after every epoch.

    A folder is replaced as a whole or not at all, and loads with plain ``peft``. Its
    ``made_with.json`` names the backbone and tells how frames were made, and its ``README.md`` is a
    model card, which the results complete.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse frames drawn with other settings than those a modality was aligned on."""
        here = json.loads(json.dumps(data(trainer).rendering_settings))
        for name, made_with in expect_module(pl_module, AdapterTraining).made_with.items():
            drawn, now = made_with.get("drawing", {}).get(name), here.get(name)
            if None not in (drawn, now) and drawn != now:
                raise UserError(
                    f"modality {name!r} was aligned on frames drawn with {drawn}, this run draws "
                    f"them with {now}; give data the same settings, or align anew"
                )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (
            run_folder(trainer) / "adapters"
        ).exists():  # started after the last epoch of another run
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if writes_files(trainer):
            module = expect_module(pl_module, AdapterTraining)
            made_with = {
                "backbone": module.backbone.name,
                "fingerprint": module.backbone.fingerprint,
                "quantization": module.backbone.quantization,
                "frames": data(trainer).preprocessing,
                "drawing": data(trainer).rendering_settings,
                "data": data(trainer).found,
                "modules": module.backbone.adapted_modules,
                **module.adapter_metadata(),
            }
            module.save_adapters(run_folder(trainer) / "adapters", made_with)
            write_cards(run_folder(trainer))
