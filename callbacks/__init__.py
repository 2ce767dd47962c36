"""Callbacks around fitting: guidance before it; adapters, a report and scores after it."""

from callbacks.adapter_checkpoint import AdapterCheckpoint
from callbacks.alignment_report import AlignmentReport
from callbacks.answer_scores import AnswerScores
from callbacks.keep_tokens import KeepTokens
from callbacks.progress_lines import ProgressLines
from callbacks.provenance import Provenance
from callbacks.reference_guidance import ReferenceGuidance
from callbacks.run_checkpoint import RunCheckpoint
from callbacks.throughput import Throughput
from callbacks.training_faults import TrainingFaults
from callbacks.usual_tokens import UsualTokens

__all__ = [
    "AdapterCheckpoint",
    "AlignmentReport",
    "AnswerScores",
    "KeepTokens",
    "ProgressLines",
    "Provenance",
    "ReferenceGuidance",
    "RunCheckpoint",
    "Throughput",
    "TrainingFaults",
    "UsualTokens",
]
