"""One reader per benchmark: official annotation files in, episodes out; no media file is opened."""

from datamodules.benchmarks.avqa import AVQA
from datamodules.benchmarks.avsd import AVSD
from datamodules.benchmarks.avut import AVUT
from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.egoexo import EgoExo4D
from datamodules.benchmarks.instruct import InstructJSON
from datamodules.benchmarks.llava_video import LLaVAVideo
from datamodules.benchmarks.mlvu import MLVU
from datamodules.benchmarks.music_avqa import MusicAVQA
from datamodules.benchmarks.mvbench import MVBench
from datamodules.benchmarks.scanqa import ScanQA
from datamodules.benchmarks.sqa3d import SQA3D
from datamodules.benchmarks.video_mme import VideoMME

__all__ = [
    "AVQA",
    "AVSD",
    "AVUT",
    "MLVU",
    "SQA3D",
    "Benchmark",
    "EgoExo4D",
    "InstructJSON",
    "LLaVAVideo",
    "MVBench",
    "MusicAVQA",
    "ScanQA",
    "VideoMME",
]
