"""Depth as a modality: ScanNet scenes as pictures of disparity and normals (paper section 4)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.base import AlignmentClips, ModalityDataModule
from datamodules.media.scannet import ScanNetFrame, ScanNetScene, open_scene
from datamodules.media.scannet_splits import find_scenes, hold_out, listed_scenes
from datamodules.samples import BadSample, Clip
from datamodules.signals.disparity import check_range, disparity
from datamodules.signals.normals import normals

Encoding = Literal["turbo", "gray", "normals", "turbo+normals"]
NormalFrame = Literal["camera", "world"]


class DepthDataModule(ModalityDataModule):
    """Depth frames of ScanNet scenes for alignment, and their colour frames for the guidance.

    Scenes of ``scannetv2_train.txt`` in the root are for training, those of ``scannetv2_val.txt``
    are held out, others are not read. Without lists the last 20 % of the scenes by name are held
    out, at least one; of a single scene, the last 20 % of its frames. The reference videos are
    always from training scenes.

    Frames without a usable pose are dropped whatever the encoding, as ScanNet's users do: without
    tracking there is often motion blur, and all stages then see the same frames.

    Args:
        root: folder of scenes, folder with ``scans/`` in it, or one scene.
        encoding: pictures of a depth frame; ``turbo+normals`` gives two, in this order. The
            released scripts use it; the paper names only disparity with a colour table.
        near_mm: nearest depth in mm that keeps its own colour.
        far_mm: farthest depth in mm that keeps its own colour.
        normal_frame: axes of the normals.
        frames_per_sample: depth frames a clip. The last clip of a scene ends at its last frame, and
            overlaps the one before where the count does not divide.
        reference_frames: colour frames a reference video; the last of a scene may be shorter.
        reference_root: folder of other scenes for the reference videos, split by the same rule.
        frame_size: (H, W) of the frames; the command line takes it from the backbone.
        batch_size: clips a batch.
        num_workers: processes that read, per loader.
        seed: seed of the order of training and reference clips.
        on_bad_sample: stop at the first file that cannot be used, or check all before fitting and
            skip those (see ModalityDataModule).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        encoding: Encoding = "turbo",
        near_mm: float = 200,
        far_mm: float = 10_000,
        normal_frame: NormalFrame = "camera",
        frames_per_sample: int = 1,
        reference_frames: int = 20,
        reference_root: str | Path | None = None,
        frame_size: tuple[int, int] = (384, 384),
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        on_bad_sample: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(
            root,
            frame_size=frame_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            on_bad_sample=on_bad_sample,
        )
        check_range(near_mm, far_mm)
        if frames_per_sample < 1 or reference_frames < 1:
            raise ValueError(
                f"frames_per_sample={frames_per_sample} and reference_frames={reference_frames} "
                "must be 1 or more"
            )
        self.encoding, self.normal_frame = encoding, normal_frame
        self.near_mm, self.far_mm = near_mm, far_mm
        self.frames_per_sample, self.reference_frames = frames_per_sample, reference_frames
        self.reference_root = None if reference_root is None else Path(reference_root)
        self.train_scenes: list[ScanNetScene] = []
        self.val_scenes: list[ScanNetScene] = []

    @property
    @override
    def preprocessing(self) -> dict[str, Any]:
        return super().preprocessing | {
            "encoding": self.encoding,
            "near_mm": self.near_mm,
            "far_mm": self.far_mm,
            "normal_frame": self.normal_frame,
            "frames_per_sample": self.frames_per_sample,
        }

    @override
    def find_clips(self) -> AlignmentClips:
        self.train_scenes, self.val_scenes = self._open(self.root)
        reference = self.train_scenes
        if self.reference_root is not None:
            reference = self._open_reference(self.reference_root)
        return AlignmentClips(
            train=self._depth_clips(self.train_scenes),
            val=self._depth_clips(self.val_scenes),
            reference=[
                Clip(_name(scene, part), partial(colour_frames, scene, part))
                for scene in reference
                for part in chunks(scene.frames, self.reference_frames)
            ],
        )

    def _open(self, root: Path) -> tuple[list[ScanNetScene], list[ScanNetScene]]:
        """Training and held-out scenes."""
        if listed := listed_scenes(root):
            return self.usable(open_scene, listed["train"]), self.usable(open_scene, listed["val"])
        folders = find_scenes(root)
        if len(folders) > 1:
            train, val = hold_out(folders)
            return self.usable(open_scene, train), self.usable(open_scene, val)
        train_scenes, val_scenes = [], []
        for scene in self.usable(open_scene, folders):
            first, last = hold_out(scene.frames)
            train_scenes.append(replace(scene, frames=tuple(first)))
            val_scenes.append(replace(scene, frames=tuple(last)))
        return train_scenes, val_scenes

    def _open_reference(self, root: Path) -> list[ScanNetScene]:
        """Training scenes of another root, none of which this root keeps from training."""
        reference, _ = self._open(root)
        training = {scene.folder.resolve() for scene in self.train_scenes}
        kept_back = {folder.resolve() for folder in find_scenes(self.root)} - training
        for scene in reference:
            if scene.folder.resolve() in kept_back:
                raise BadSample(
                    scene.folder,
                    f"would be a reference video, but {self.root} does not train on it",
                    "Leave reference_root out, or put the same scannetv2_*.txt into it",
                )
        return reference

    def _depth_clips(self, scenes: list[ScanNetScene]) -> list[Clip]:
        encode = partial(
            depth_frames,
            encoding=self.encoding,
            near_mm=self.near_mm,
            far_mm=self.far_mm,
            normal_frame=self.normal_frame,
        )

        def clips_of(scene: ScanNetScene) -> list[Clip]:
            return [
                Clip(_name(scene, part), partial(encode, scene, part))
                for part in windows(scene, self.frames_per_sample)
            ]

        return [clip for clips in self.usable(clips_of, scenes) for clip in clips]

    @override
    def report(self) -> dict[str, list[str]]:
        dropped = [
            f"{scene.name}/{frame}: {reason}"
            for scene in (*self.train_scenes, *self.val_scenes)
            for frame, reason in scene.dropped.items()
        ]
        return super().report() | {"dropped_frames": dropped}

    def __repr__(self) -> str:
        """Counts of scenes and frames, and why frames were dropped."""
        scenes = [*self.train_scenes, *self.val_scenes]
        reasons = Counter(reason for scene in scenes for reason in scene.dropped.values())
        dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        train, val = _count(self.train_scenes), _count(self.val_scenes)
        return (
            f"{type(self).__name__}({self.encoding} of {self.root}: train {train}; val {val}; "
            f"dropped frames: {dropped or 'none'}; skipped: {len(self.bad_samples)})"
        )


def depth_frames(
    scene: ScanNetScene,
    frames: Sequence[ScanNetFrame],
    *,
    encoding: Encoding = "turbo",
    near_mm: float = 200,
    far_mm: float = 10_000,
    normal_frame: NormalFrame = "camera",
) -> Tensor:
    """Depth frames as pictures, uint8 (T, 3, h, w), or (2T, 3, h, w) with ``turbo+normals``.

    Raises:
        BadSample: a file cannot be used, or the intrinsics do not belong to the depth images.
    """
    depth = torch.stack([scene.read_depth(frame) for frame in frames])  # (T, h, w)
    pictures = []
    if encoding != "normals":
        colours: Literal["gray", "turbo"] = "gray" if encoding == "gray" else "turbo"
        pictures.append(disparity(depth, near_mm, far_mm, colours))
    if encoding in {"normals", "turbo+normals"}:
        pose = None
        if normal_frame == "world":
            pose = torch.stack([scene.read_pose(frame) for frame in frames])
        try:
            pictures.append(normals(depth, scene.intrinsics, near_mm, far_mm, pose))
        except ValueError as error:
            raise BadSample(
                scene.folder, str(error), "Correct intrinsic_depth.txt, or use encoding=turbo"
            ) from error
    return torch.stack(pictures, 1).flatten(0, 1)


def colour_frames(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> Tensor:
    """Colour frames, uint8 (T, 3, h, w).

    Raises:
        BadSample: a file cannot be used.
    """
    return torch.stack([scene.read_colour(frame) for frame in frames])


def windows(scene: ScanNetScene, length: int) -> list[Sequence[ScanNetFrame]]:
    """All frames in runs of ``length``; the last run ends at the last frame.

    Raises:
        BadSample: the scene has fewer frames.
    """
    frames = scene.frames
    if len(frames) < length:
        raise BadSample(
            scene.folder,
            f"has {len(frames)} usable frames here, fewer than frames_per_sample={length}",
            "Lower frames_per_sample, or leave the scene out",
        )
    starts = (min(start, len(frames) - length) for start in range(0, len(frames), length))
    return [frames[start : start + length] for start in starts]


def chunks(frames: Sequence[ScanNetFrame], length: int) -> list[Sequence[ScanNetFrame]]:
    """All frames in runs of ``length``, of which the last may be shorter."""
    return [frames[start : start + length] for start in range(0, len(frames), length)]


def _name(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> str:
    return f"{scene.name}/{','.join(str(frame.id) for frame in frames)}"


def _count(scenes: list[ScanNetScene]) -> str:
    return f"{len(scenes)} scenes, {sum(len(scene.frames) for scene in scenes)} frames"
