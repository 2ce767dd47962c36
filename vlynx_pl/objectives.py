"""The alignment objectives, chosen by ``model.objective``.

An objective defines where attention is compared with the guidance, how token statistics are
measured, and their weights. A new one is a subclass, or a class with the same members.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vlynx_pl.attention import AttentionCall
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.distributed import total_over_ranks, world_size
from vlynx_pl.guidance import token_rows
from vlynx_pl.losses import attention_response_loss, mean_of_all, token_statistics_loss


@dataclass(frozen=True)
class Encoded:
    """Tokens of a batch and how far each layer's attention is from the guidance."""

    tokens: Tensor  # (B, T, N, W)
    attention_gaps: Tensor  # (L,) float32


class AlignmentObjective:
    """The attention response loss L_attn and the token statistics loss L_stat (paper eq. 4-9).

    Distances are means over layers and elements (eq. 6 has a sum), which keeps β independent of the
    model's size, and norms are not squared (the text on eq. 8 says squared). The defaults are the
    released losses, except that statistics are of all processes, without the newline token.

    L_attn alone has a degenerate minimum: attention that responds the same to every input, so that
    tokens lose what distinguishes samples. L_stat and ``attn_floor`` prevent this; the study in
    experiments/paper compares further remedies.

    Args:
        attn_weight: weight of L_attn.
        stat_weight: β, weight of L_stat (eq. 9).
        queries: compare every second row and column of patches, or all.
        response: compare after or before the attention's output projection.
        detach_reference: stop the gradient through the reference response.
        attn_floor: a layer's gap costs nothing up to that of RGB video, as tokens nearer to the
            mean video than videos are do not resemble video more. ReferenceGuidance measures it.
        stat_scale: L_stat in the tokens' own units, or ``relative`` to the guidance's spread, so
            that β means the same for every backbone.
        include_newline: count the newline token in the statistics, as the released code does.
        statistics: over the whole ``batch``, whatever the number of processes, or over each process
            ``rank``'s part, as released.
    """

    def __init__(
        self,
        attn_weight: float = 1.0,
        stat_weight: float = 0.01,
        queries: Literal["pooled", "all"] = "pooled",
        response: Literal["projected", "context"] = "projected",
        detach_reference: bool = False,
        attn_floor: bool = False,
        stat_scale: Literal["absolute", "relative"] = "absolute",
        include_newline: bool = False,
        statistics: Literal["batch", "rank"] = "batch",
    ) -> None:
        self.attn_weight, self.stat_weight = attn_weight, stat_weight
        self.queries, self.response = queries, response
        self.detach_reference, self.attn_floor = detach_reference, attn_floor
        self.stat_scale, self.include_newline = stat_scale, include_newline
        self.statistics = statistics

    @property
    def safeguard(self) -> tuple[str, float]:
        """Name and value of the setting that keeps tokens from collapsing; 0 turns it off."""
        return "stat_weight", self.stat_weight

    def positions(self, places: Tensor) -> Tensor:
        """Return the positions (Q,) of the compared patches.

        Args:
            places: (rows, columns), the position of each patch in the vision encoder's sequence.
        """
        step = 2 if self.queries == "pooled" else 1
        return places[::step, ::step].flatten()

    def attention_gap(
        self,
        call: AttentionCall,
        positions: Tensor,
        projection: nn.Module,
        keys: Tensor,
        values: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Distance of a layer's response from its response to the guidance, a scalar (eq. 4-6).

        Args:
            call: the layer's result.
            positions: (Q,) of the compared patches.
            projection: the layer's output projection.
            keys: (h, S, d) of the guidance in this layer.
            values: (h, S, d).
            visible: (Q, S) bool, the positions that each compared patch attends to; None is all.
        """
        projected = self.response == "projected"
        return attention_response_loss(
            call.query[:, :, positions],
            (call.output if projected else call.context)[:, positions],
            keys,
            values,
            projection if projected else None,
            self.detach_reference,
            visible,
        )

    def losses(
        self,
        backbone: VideoBackbone,
        encoded: Encoded,
        clips: int,
        mean: Tensor,
        variance: Tensor,
        video_gaps: Tensor | None = None,
        share: float = 1.0,
    ) -> dict[str, Tensor]:
        """Return each loss by its name, and ``total``, their weighted sum (eq. 9).

        Args:
            backbone: the one that encoded the tokens.
            encoded: this process's part of a batch.
            clips: number of its clips, B; 0 if a black frame takes the place of an empty part.
            mean: (W,) of the guidance's tokens.
            variance: (W,) of the guidance's tokens.
            video_gaps: (L,) attention gaps of RGB video, for ``attn_floor``.
            share: factor of this process's own losses, with which their average over processes is
                the mean over all clips.

        Raises:
            RuntimeError: ``attn_floor`` without ``video_gaps``.
        """
        apart, gaps = self.statistics == "rank", encoded.attention_gaps
        total = None if apart or world_size() == 1 else total_over_ranks
        if self.attn_floor:
            if video_gaps is None:
                raise RuntimeError(
                    "no gaps of RGB video for attn_floor yet: add the ReferenceGuidance callback "
                    "to the trainer, or call use_attention_floor"
                )
            if total is not None:
                gaps = mean_of_all(gaps.expand(clips, -1), total)
            gaps = (gaps - video_gaps.to(gaps)).relu()
        # An empty part has no mean; with statistics of its own it has weight zero anyway.
        counted = encoded.tokens if apart else encoded.tokens[:clips]
        rows = token_rows(backbone, counted, self.include_newline)
        stat = token_statistics_loss(rows, mean, variance, total, self.stat_scale == "relative")
        attn = gaps.mean()
        if apart or not self.attn_floor:
            attn = share * attn
        if apart:
            stat = share * stat
        summed = self.attn_weight * attn + self.stat_weight * stat
        return {"attn": attn, "stat": stat, "total": summed}


class ReleasedObjective(AlignmentObjective):
    """The losses of the released code, in float32."""

    def __init__(self, attn_weight: float = 1.0, stat_weight: float = 0.01) -> None:
        super().__init__(attn_weight, stat_weight, include_newline=True, statistics="rank")


class PaperObjective(AlignmentObjective):
    """The losses of the paper's text, which does not say whether the reference is detached."""

    def __init__(self, attn_weight: float = 1.0, stat_weight: float = 0.01) -> None:
        super().__init__(
            attn_weight, stat_weight, queries="all", response="context", detach_reference=True
        )


class RelativeObjective(AlignmentObjective):
    """Losses without a β to tune: relative L_stat, and L_attn with a floor."""

    def __init__(self, attn_weight: float = 1.0, stat_weight: float = 1.0) -> None:
        super().__init__(attn_weight, stat_weight, attn_floor=True, stat_scale="relative")
