"""The data module of depth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        encoding: how a depth frame is drawn; ``turbo+normals`` gives two frames per timestamp.
        near_mm: nearest depth in mm that keeps its own colour.
        far_mm: farthest depth in mm that keeps its own colour.
        normal_frame: axes of the normals.
        depth_scale: units per metre of the depth files: 1000 is mm; or ``sun``, of SUN RGB-D.
        frames_per_sample: depth frames of a clip of alignment, which uses all frames.
        reference_frames: colour frames of a reference video; a scene's last may be shorter.
    """

    modalities: Sequence[Modality | str] = field(init=False)
    encoding: Encoding = "turbo"
    near_mm: float = 200
    far_mm: float = 10_000
    normal_frame: NormalFrame = "camera"
    depth_scale: DepthScale = 1000
    frames_per_sample: int = 1
    reference_frames: int = 20

    def __post_init__(self) -> None:
        """Make the modality of the settings."""
        self.modalities = [
            Depth(
                encoding=self.encoding,
                near_mm=self.near_mm,
                far_mm=self.far_mm,
                normal_frame=self.normal_frame,
                depth_scale=self.depth_scale,
                frames_per_sample=self.frames_per_sample,
                reference_frames=self.reference_frames,
            )
        ]
        super().__post_init__()
