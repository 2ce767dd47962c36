"""The data module for depth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from datamodules.base import ModalityDataModule
from datamodules.media.depth_units import DepthScale
from datamodules.media.scannet_frames import Encoding, NormalFrame
from datamodules.modalities.depth import Depth
from datamodules.modalities.modality import Modality


@dataclass(eq=False, repr=False, kw_only=True)
class DepthDataModule(ModalityDataModule):
    """Depth of ScanNet scenes for alignment and tuning: the modality ``Depth``.

    Args:
        root: folder of scenes, folder with ``scans/`` in it, or one scene.
        encoding: how depth is rendered; ``turbo+normals`` gives two frames per timestamp.
        near_mm: nearest depth in mm that has a colour of its own.
        far_mm: farthest depth in mm that has a colour of its own.
        normal_frame: axes of the normals.
        depth_scale: units per metre of the depth files: 1000 is mm; or ``sun``, of SUN RGB-D.
        frames_per_sample: depth frames per clip in alignment, which uses all frames.
        reference_frames: colour frames per reference video; the last of a scene may be shorter.
    """

    kind: ClassVar[type[Modality]] = Depth
    modalities: Sequence[Modality | str] = field(init=False)
    encoding: Encoding = "turbo"
    near_mm: float = 200
    far_mm: float = 10_000
    normal_frame: NormalFrame = "camera"
    depth_scale: DepthScale = 1000
    frames_per_sample: int = 1
    reference_frames: int = 20
