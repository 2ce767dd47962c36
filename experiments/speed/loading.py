"""Cost of reading a clip relative to the plain way, as ratios of runs in this process.

The clip has 30 s of 720p H.264 with sound and is generated here. Read are 20 slow frames, 80 fast
frames in tiles of four, and a log-mel spectrogram for every slow frame. The plain way opens the
file once per stream, decodes all of it from the start, converts every frame in Python, and then
selects and resizes.
"""

import resource
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset
from torchaudio.functional import resample

from datamodules import Audio, HighFrameRate
from datamodules.loading.frame_cache import FrameCache
from datamodules.loading.loader import SampleDataset
from datamodules.loading.reading import ReadEpisode, resize_ignoring_aspect
from datamodules.modalities.modality import FrameSpec, Modalities
from datamodules.samples import Episode, EpisodeMedia
from datamodules.signals import log_mel, tiling
from experiments.speed.bench import new_table, parse_options, timed

SLOW, FAST, SIZE = 20, 80, (384, 384)


def write_clip(path: Path, seconds: int, size: tuple[int, int], fps: int = 30) -> None:
    """Write a moving pattern with grain, and a rising tone."""
    height, width = size
    grain = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, width)[None, :, None].repeat(height, 0).astype(np.uint8)
    with av.open(str(path), "w") as container:
        # One slice per frame, as in videos that were not made for live streaming.
        options = {"preset": "veryfast", "x264-params": "sliced-threads=0"}
        video = container.add_stream("libx264", rate=fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=44_100)
        for i in track(range(seconds * fps), "Making the clip", transient=True):
            pixels = np.roll(ramp, 7 * i, 1) + np.roll(grain, 3 * i, 0)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(video.encode())
        times = np.arange(seconds * 44_100) / 44_100
        wave = 0.5 * np.sin(2 * np.pi * (200 + 50 * times) * times)
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        frame.rate = 44_100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def plain(path: Path) -> dict[str, torch.Tensor]:
    """Read the three streams, decoding the whole file for each."""

    def sample(count: int) -> tuple[torch.Tensor, list[float]]:
        with av.open(str(path)) as container:
            total = container.streams.video[0].frames
            chosen = set(np.linspace(0, total - 1, count).astype(int).tolist())
            frames, times = [], []
            for i, frame in enumerate(container.decode(video=0)):
                pixels = frame.to_ndarray(format="rgb24")
                if i in chosen:
                    frames.append(torch.from_numpy(pixels).permute(2, 0, 1))
                    times.append(frame.time)
        return torch.stack(frames), times

    slow, times = sample(SLOW)
    fast, _ = sample(FAST)
    with av.open(str(path)) as container:
        wave = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)
        rate = container.streams.audio[0].rate
    mono = resample(torch.from_numpy(wave).mean(0), rate, 16_000)
    sound = resize_ignoring_aspect(log_mel(mono, times), SIZE)
    return {
        "video": resize_ignoring_aspect(slow, SIZE),
        "audio": sound,
        "highfps": tiling(fast, SIZE),
    }


def dataset(folder: Path, cache: bool) -> SampleDataset:
    """Return the clip as an episode of tuning."""
    modalities = Modalities((Audio(), HighFrameRate()), folder, FrameSpec(SLOW, SIZE))
    made = modalities.preprocessing
    kept = FrameCache(folder / "cache", made) if cache else None
    episode = Episode("clip", {"video": "clip.mp4"}, ())
    media = EpisodeMedia(episode, modalities.streams(episode))
    return SampleDataset([media], ReadEpisode(SIZE, made, kept))


def touched(episodes: SampleDataset) -> int:
    """Read the episode and every byte of it, since a file may be mapped but not yet read."""
    return sum(int(stream.sum()) for stream in episodes[0]["streams"].values())


class Weighed(Dataset[float]):
    """Reads an episode repeatedly; an item is the memory of the process after it, in MiB."""

    def __init__(self, episodes: SampleDataset, samples: int) -> None:
        self.episodes, self.samples = episodes, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> float:
        self.episodes[0]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20


def memory(episodes: SampleDataset, samples: int) -> list[float]:
    """Return the most memory of a worker in each tenth of so many samples, in MiB."""
    loader = DataLoader(
        Weighed(episodes, samples), None, num_workers=1, multiprocessing_context="spawn"
    )
    held = list(track(loader, "Reading again and again", transient=True))
    return [max(held[i : i + samples // 10]) for i in range(0, samples, samples // 10)]


def main() -> None:
    """Print the table of ratios and the memory."""
    options = parse_options(__doc__, seconds=30, repeats=3, samples=1000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_clip(folder / "clip.mp4", options.seconds, (720, 1280))
        write_clip(folder / "small.mp4", 2, (120, 160))
        fresh, cached = dataset(folder, cache=False), dataset(folder, cache=True)
        expected, found = plain(folder / "clip.mp4"), fresh[0]["streams"]
        worst = {
            name: (found[name].float() - expected[name].float()).abs().mean().item()
            for name in expected
        }
        cached[0]
        seconds = timed(
            {
                "plain": lambda: plain(folder / "clip.mp4"),
                "one pass": lambda: touched(fresh),
                "second epoch, cached": lambda: touched(cached),
            },
            options.repeats,
            "cpu",
        )
        (folder / "clip.mp4").write_bytes((folder / "small.mp4").read_bytes())
        held = memory(dataset(folder, cache=False), options.samples)
    title = f"{SLOW} slow + {FAST} fast frames + sound of {options.seconds} s of 720p"
    table = new_table(title, "", "s per clip", "times as fast", "at least")
    for name, bound in (("plain", "1"), ("one pass", "3"), ("second epoch, cached", "10")):
        ratio = seconds["plain"] / seconds[name]
        table.add_row(name, f"{seconds[name]:.3f}", f"{ratio:.1f}", bound)
    console = Console()
    console.print(table)
    console.print(f"mean difference from the plain way, of 255: {worst}")
    console.print(
        f"memory of a worker over {options.samples} samples, the most in each tenth, MiB: "
        + " ".join(f"{mebibytes:.0f}" for mebibytes in held)
    )


if __name__ == "__main__":
    main()
