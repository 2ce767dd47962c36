"""Records where a run's numbers come from."""

import hashlib
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.trainer_access import data, expect_module, run_folder, writes_files
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.runs.provenance import add_session, provenance


class Provenance(Callback):
    """Appends an entry to ``provenance.json`` whenever a run starts or goes on.

    An entry names the code, the machine, the step, the backbone and the data. Files with scores
    quote it through ``vlynx_pl.runs.provenance.last_session``.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in on_fit_start, where a checkpoint's step has not been restored yet.
        if writes_files(trainer):
            add_session(run_folder(trainer), _session(trainer, pl_module))

    on_test_start = on_train_start


def _session(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    backbone = expect_module(module, AdapterTraining).backbone
    return provenance() | {
        "stage": "test" if trainer.testing else "fit",
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "device": module.device.type,
        "precision": str(trainer.precision),
        "nodes": trainer.num_nodes,
        "backbone": {
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "quantization": backbone.quantization,
        },
        "config": _config(run_folder(trainer) / "config.yaml"),
        "data": {"found": repr(data(trainer)), **data(trainer).report()},
    }


def _config(path: Path) -> dict[str, str] | None:
    """Identify the configuration; None for a run without the command line."""
    if not path.exists():
        return None
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
