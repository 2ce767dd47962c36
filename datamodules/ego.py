"""The data module for egocentric video."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.base import ModalityDataModule
from datamodules.modalities.ego import EXO, Ego
from datamodules.modalities.modality import Modality


@dataclass(eq=False, repr=False, kw_only=True)
class EgoDataModule(ModalityDataModule):
    """Views of Ego-Exo4D takes for alignment and tuning: the modality ``Ego``.

    Args:
        root: folder that holds ``takes/``.
        rgb_views: cameras of the RGB stream; a take needs one of them.
        modality_views: cameras of the modality; a take needs one of them.
    """

    modalities: Sequence[Modality | str] = field(init=False)
    rgb_views: Sequence[str] = EXO
    modality_views: Sequence[str] = ("ego",)

    def __post_init__(self) -> None:
        views = tuple(self.rgb_views), tuple(self.modality_views)
        self.modalities = [Ego(rgb_views=views[0], modality_views=views[1])]
        super().__post_init__()
