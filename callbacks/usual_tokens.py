"""Measures the usual tokens of streams that are reduced by salience, before a fit."""

from itertools import zip_longest
from typing import Final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.trainer_access import data, is_fast_dev_run, run_folder, writes_files
from vlynx_pl.adapter_training import evaluating
from vlynx_pl.adapters import AdapterError
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.stream_reduction import USUAL
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning
from vlynx_pl.usual_tokens import UsualTokenSums

_CLIPS: Final = 256  # of training; each place is then a mean over thousands of frames


class UsualTokens(Callback):
    """Gives the streams their usual tokens, and saves them in the run folder.

    Those that an earlier session saved there are used if they fit. Otherwise each process reads
    its share of the first training clips; a stopped pass starts again from the beginning.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs before :class:`callbacks.KeepTokens`, whose keys depend on the usual tokens."""
        if stage != "fit" or not isinstance(pl_module, InstructionTuning):
            return
        streams = pl_module.streams
        if not isinstance(streams, AlignedStreams) or not streams.reduction.unfitted():
            return
        file = run_folder(trainer) / USUAL
        fits = False
        if writes_files(trainer) and file.exists():
            try:
                streams.load_usual(file)
                fits = True
            except AdapterError as error:
                rank_zero_info(f"{error.__cause__}: they are measured anew")
        # Only the first rank looks, since network folders may differ between nodes.
        if trainer.strategy.broadcast(fits):
            streams.load_usual(file)
            return
        _measure(trainer, pl_module, streams)
        if writes_files(trainer):
            streams.save_usual(file)


def _measure(trainer: Trainer, module: InstructionTuning, streams: AlignedStreams) -> None:
    """Measure the first training clips, of which each rank reads its share."""
    device = trainer.strategy.root_device
    module.to(device)
    most = 1 if is_fast_dev_run(trainer) else _CLIPS
    names = [episode.name for episode in data(trainer).episodes("train")][:most]
    share = names[trainer.global_rank :: trainer.world_size]
    loader = data(trainer).episode_batches("train", share) if share else ()
    batches = track(loader, "Usual tokens", len(share))
    sums = {name: UsualTokenSums() for name in streams.reduction.unfitted()}
    # Ranks agree after each clip, each the same number of times, so that all stop together.
    for _, batch in zip_longest(range(0, len(names), trainer.world_size), batches):
        for episode in batch or ():
            frames = {name: each.to(device) for name, each in episode["streams"].items()}
            streams.check(episode)
            with evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
                encoded = streams.encode_whole({**episode, "streams": frames})
            for name, one in sums.items():
                one.update(encoded[name])
        if trainer.strategy.reduce_boolean_decision(asked_to_stop(), all=False):
            raise Interrupted(
                "Stopped while measuring usual tokens, as asked. Run the same command again to "
                "go on; the clips are read from the beginning."
            )
    shape = module.backbone.tokens_per_frame, module.backbone.token_size
    streams.reduction.usual.update({name: one.mean(shape, device) for name, one in sums.items()})
