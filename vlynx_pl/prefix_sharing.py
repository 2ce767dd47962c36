"""Many questions on one video in one sequence: the video once, then one branch per question.

A branch sees the prefix and itself, and its positions continue the prefix. So loss and gradients
equal those of one sequence per question, at about 1/K of the cost for K questions. The input is the
frozen tokens of the streams; labels are made here, positions and embeddings by the backbone, the
mask in branch_attention.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Chat, Prompt, token_ids
from vlynx_pl.branch_attention import branch_mask
from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question


class Branch(NamedTuple):
    """The part of a question's conversation that follows the visual tokens."""

    name: str
    ids: list[int]
    supervised: list[bool]  # answers, with the end of turn after each


def question_branch(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, question: Question, learnt: bool
) -> Branch:
    """Tokenise a question.

    Args:
        tokenizer: the backbone's.
        chat: the backbone's.
        question: with the history of its dialogue.
        learnt: include the answer, and supervise every answer of the dialogue; otherwise stop where
            the answer begins.

    Raises:
        UserError: an answer is missing, or a text contains a token that structures the prompt.
    """
    reason = question.unfit(tokenizer.get_added_vocab(), learnt)
    if reason is not None:
        raise UserError(f"{reason}; correct the annotation, or leave the question out")
    branch = Branch(question.id, [], [])
    before = chat.asking
    for asked, said in (*question.history, (question.prompt, question.target if learnt else None)):
        pieces = [(f"{before}{asked}{chat.end}{chat.assistant}", False)]
        if said is not None:
            pieces.append((f"{chat.answer}{said.strip()}{chat.end}", True))
        # An answer is tokenised apart from its question, as it will be when it is generated.
        for text, supervised in pieces:
            ids = token_ids(tokenizer, text)
            branch.ids.extend(ids)
            branch.supervised.extend([supervised] * len(ids))
        before = chat.user
    return branch


def split_by_budget(branches: Sequence[Branch], question_budget: int) -> list[list[Branch]]:
    """Divide the questions on one clip between sequences, in order.

    Args:
        branches: the questions.
        question_budget: maximum tokens of questions and answers in a sequence. Visual tokens do not
            count: every sequence has the same ones.

    Raises:
        UserError: one question alone is longer than the budget.
    """
    groups: list[list[Branch]] = []
    used = 0
    for branch in branches:
        length = len(branch.ids)
        if length > question_budget:
            raise UserError(
                f"question {branch.name!r} has {length} tokens, more than "
                f"question_budget={question_budget}; raise question_budget to {length} or more, or "
                "leave the question out"
            )
        if not groups or used + length > question_budget:
            groups.append([])
            used = 0
        groups[-1].append(branch)
        used += length
    return groups


def question_losses(
    backbone: VideoBackbone,
    prefix: Prompt,
    branches: Sequence[Branch],
    llm_adapter: str | None = None,
) -> Tensor:
    """Compute each question's mean negative log-likelihood over its supervised tokens.

    One forward serves all questions. The mean of the losses equals that of one sequence per
    question; an episode in several sequences is weighted by questions.

    Args:
        backbone: the Video LLM.
        prefix: P tokens, from :meth:`VideoBackbone.prompt`.
        branches: K questions from :func:`question_branch`, with their answers.
        llm_adapter: name of the LLM adapter to switch on; None is the untouched base.

    Returns:
        (K,) float32.

    Raises:
        UserError: there are no questions.
    """
    if not branches:
        raise UserError("a clip without questions has nothing to learn; leave it out")
    device, start = backbone.device, len(prefix.embeddings)
    lengths = [len(branch.ids) for branch in branches]
    ids = [token for branch in branches for token in branch.ids]
    owners = [i for i, length in enumerate([start, *lengths]) for _ in range(length)]
    positions = [prefix.next + i for length in lengths for i in range(length)]
    whole = Prompt.joined([prefix, backbone.text(ids, positions)])
    hidden = backbone.read(whole, llm_adapter, branch_mask(owners, device))
    # Logits are computed only for supervised tokens; each is predicted at the token before it.
    flags = [flag for branch in branches for flag in branch.supervised]
    learnt = torch.tensor([i for i, flag in enumerate(flags) if flag], device=device)
    logits = backbone.logits(hidden[start + learnt - 1])
    targets = torch.tensor(ids, device=device)[learnt]
    losses = cross_entropy(logits, targets, reduction="none")
    parts = torch.split(losses, [sum(branch.supervised) for branch in branches])
    return torch.stack([part.mean() for part in parts])
