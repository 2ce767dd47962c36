"""Keeps what was trained, and only that, as plain PEFT folders."""

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.access import alignment, data, leaves_files, run_folder
from vlynx_pl.adapters import save_adapter


class AdapterCheckpoint(Callback):
    """Writes ``adapters/vision-<modality>/`` into the run folder after every epoch.

    The folder is replaced as a whole or not at all, and loads with plain ``peft``. Its
    ``made_with.json`` names the backbone and how frames were made.
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if leaves_files(trainer):
            module = alignment(pl_module)
            folder = run_folder(trainer) / "adapters" / f"vision-{module.modality}"
            source = module.guidance.source
            made_with = {
                "backbone": source.backbone,
                "fingerprint": source.fingerprint,
                "frames": data(trainer).preprocessing,
            }
            save_adapter(module.backbone.vision_adapters, module.modality, folder, made_with)
