"""What happens around fitting: guidance before it, adapters, a report and scores after it."""

from callbacks.adapter_checkpoint import AdapterCheckpoint
from callbacks.alignment_report import AlignmentReport
from callbacks.answer_scores import AnswerScores
from callbacks.keep_tokens import KeepTokens
from callbacks.reference_guidance import ReferenceGuidance

__all__ = [
    "AdapterCheckpoint",
    "AlignmentReport",
    "AnswerScores",
    "KeepTokens",
    "ReferenceGuidance",
]
