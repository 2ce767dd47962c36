"""One reader per benchmark: official annotation files in, episodes out; no media file is opened."""

from datamodules.benchmarks.avqa import AVQA as AVQA
from datamodules.benchmarks.avsd import AVSD as AVSD
from datamodules.benchmarks.avut import AVUT as AVUT
from datamodules.benchmarks.base import Benchmark as Benchmark
from datamodules.benchmarks.egoexo import EgoExo4D as EgoExo4D
from datamodules.benchmarks.instruct import InstructJSON as InstructJSON
from datamodules.benchmarks.llava_video import LLaVAVideo as LLaVAVideo
from datamodules.benchmarks.mlvu import MLVU as MLVU
from datamodules.benchmarks.music_avqa import MusicAVQA as MusicAVQA
from datamodules.benchmarks.mvbench import MVBench as MVBench
from datamodules.benchmarks.scanqa import ScanQA as ScanQA
from datamodules.benchmarks.sqa3d import SQA3D as SQA3D
from datamodules.benchmarks.video_mme import VideoMME as VideoMME
