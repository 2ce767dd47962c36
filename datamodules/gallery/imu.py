"""Inertial measurement units as a modality: spectrograms of what a body-worn sensor felt."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.media.tables import read_table
from datamodules.modalities.files import FileModality
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample

_COLUMNS = 64  # of a frame


@dataclass(frozen=True, kw_only=True)
class Imu(FileModality):
    """CSV files in EuRoC's layout: time in ns, rotation rates in rad/s, accelerations in m/s².

    A frame has the spectra of acceleration above those of rotation, low frequencies at the bottom
    of each; x, y and z are red, green and blue.
    """

    name, pattern = "imu", "*.csv"

    def render(self, path: Path, spec: FrameSpec) -> Tensor:
        """Return the spectra of equal parts of the time, uint8 (T, 3, 66, 64)."""
        table = read_table(path, "ns wx wy wz ax ay az", ",")
        steps, columns = table[:, 0].diff(), spec.frames * _COLUMNS
        if len(table) < columns or steps.min() <= 0 or steps.max() > 2 * steps.median():
            reason = f"is not {columns} or more samples at a constant rate"
            raise BadSample(path, reason, "Resample it, without gaps", "too short")
        felt, window = table[:, 1:].T, torch.hann_window(64, dtype=table.dtype)
        hop = len(table) // columns
        power = torch.stft(felt, 64, hop, window=window, return_complex=True).abs() ** 2
        decades = (power[..., :columns] + 1e-4).log10()  # (6, 33, columns), -4 … 4
        image = ((decades + 4) / 8 * 255).clamp(0, 255).to(torch.uint8).flip(1)
        rotation, acceleration = image.reshape(2, 3, 33, spec.frames, _COLUMNS)
        return torch.cat([acceleration, rotation], 1).permute(2, 0, 1, 3)
