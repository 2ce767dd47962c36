"""The alignment losses as pure functions (paper eq. 4-8; method.md section 3)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def reference_response(
    queries: Tensor,
    reference_keys: Tensor,
    reference_values: Tensor,
    visible: Tensor | None = None,
) -> Tensor:
    """Attention of a modality's queries to the video guidance (eq. 5).

    Args:
        queries: (F, h, Q, d) of F frames.
        reference_keys: (h, S, d), mean keys of plain video in this layer.
        reference_values: (h, S, d), mean values.
        visible: (Q, S) bool, the positions that each query attends to; None is all.

    Returns:
        (F, Q, h*d) attention context, before the output projection.
    """
    frames, heads, count, channels = queries.shape
    # All frames share the same keys and values, so one long row of queries avoids copies.
    row = queries.transpose(0, 1).reshape(1, heads, frames * count, channels)
    context = scaled_dot_product_attention(
        row,
        reference_keys[None].to(row.dtype),
        reference_values[None].to(row.dtype),
        None if visible is None else visible.repeat(frames, 1),
    )  # (1, h, F*Q, d)
    return context.view(heads, frames, count, channels).permute(1, 2, 0, 3).flatten(2)


def attention_response_loss(
    queries: Tensor,
    response: Tensor,
    reference_keys: Tensor,
    reference_values: Tensor,
    project: Callable[[Tensor], Tensor] | None = None,
    detach_reference: bool = False,
    visible: Tensor | None = None,
) -> Tensor:
    """Distance of a layer's attention response from its response to the guidance (eq. 4-6).

    Args:
        queries: (F, h, Q, d) queries of the compared positions.
        response: (F, Q, C) the layer's own response: its context, or with ``project`` its projected
            output.
        reference_keys: (h, S, d).
        reference_values: (h, S, d).
        project: the layer's output projection, applied to the reference response as well.
        detach_reference: stop the gradient through the reference response.
        visible: see :func:`reference_response`.

    Returns:
        Scalar float32, L1 distance as a mean over elements.
    """
    reference = reference_response(queries, reference_keys, reference_values, visible)
    if project is not None:
        reference = project(reference)
    if detach_reference:
        reference = reference.detach()
    return (response.float() - reference.float()).abs().mean()


def mean_of_all(rows: Tensor, total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Mean of rows (R, ...) over R, and over processes where ``total`` sums over them."""
    if total is None:
        return rows.mean(0)
    return total(rows.sum(0)) / total(rows.new_tensor(len(rows)))


def token_moments(
    tokens: Tensor, total: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and population variance per channel of tokens (..., D), in float32 (eq. 3 and 7).

    Args:
        tokens: of this process.
        total: sums a tensor over all processes, with its gradient; None is this process alone.

    Returns:
        Mean (D,) and variance (D,).
    """
    rows = tokens.flatten(0, -2).float()
    if total is None:
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        return mean, variance
    mean = mean_of_all(rows, total)
    return mean, mean_of_all((rows - mean).square(), total)


def token_statistics_loss(
    tokens: Tensor,
    mean: Tensor,
    variance: Tensor,
    total: Callable[[Tensor], Tensor] | None = None,
    relative: bool = False,
) -> Tensor:
    """Distance of the tokens' mean and variance from those of video tokens (eq. 8).

    Euclidean norms over channels, not squared, as released; the paper's text says squared error.

    Args:
        tokens: (..., D) tokens of one batch.
        mean: (D,) of the guidance.
        variance: (D,) of the guidance.
        total: see :func:`token_moments`.
        relative: in units of the guidance's spread, ‖σ_v‖₂ for the mean and ‖σ²_v‖₂ for the
            variance, so that a weight does not depend on the scale of a backbone's tokens.

    Returns:
        Scalar float32, ‖μ_v − μ_m‖₂ + ‖σ²_v − σ²_m‖₂.
    """
    token_mean, token_variance = token_moments(tokens, total)
    means, variances = (mean - token_mean).norm(), (variance - token_variance).norm()
    if relative:
        means, variances = means / variance.sum().sqrt(), variances / variance.norm()
    distance: Tensor = means + variances
    return distance
