"""What happens around fitting: guidance before it, adapters and a report after it."""

from callbacks.adapter_checkpoint import AdapterCheckpoint
from callbacks.alignment_report import AlignmentReport
from callbacks.reference_guidance import ReferenceGuidance

__all__ = ["AdapterCheckpoint", "AlignmentReport", "ReferenceGuidance"]
