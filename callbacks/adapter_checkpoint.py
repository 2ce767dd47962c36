"""Keeps what was trained, and only that, as plain PEFT folders."""

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.access import data, leaves_files, run_folder, stage
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.adapters import save_adapter


class AdapterCheckpoint(Callback):
    """Writes ``adapters/vision-<modality>/`` or ``llm-<task>/`` into the run folder every epoch.

    A folder is replaced as a whole or not at all, and loads with plain ``peft``. Its
    ``made_with.json`` names the backbone and how frames were made.
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if leaves_files(trainer):
            module = stage(pl_module, AdapterTraining)
            made_with = {
                "backbone": module.backbone.name,
                "fingerprint": module.backbone.fingerprint,
                "frames": data(trainer).preprocessing,
            }
            for folder, (adapters, name) in module.trained_adapters().items():
                save_adapter(adapters, name, run_folder(trainer) / "adapters" / folder, made_with)
