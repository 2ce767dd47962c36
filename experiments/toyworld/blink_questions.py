"""Questions about blinks, with answers that follow from the clip alone.

Without seeing the blinks one can only guess: one in two for kinds with two answers, one in five for
the count, one in the number of objects for the first and the last.
"""

from collections import Counter
from itertools import permutations
from typing import Final

import numpy as np

from experiments.toyworld.blinks import FPS, BlinkClip
from experiments.toyworld.questions import COUNTS, OFF_CENTRE, ToyQuestion, side_of
from experiments.toyworld.scene import COLOURS

KINDS: Final = ("blinks", "count", "first", "last", "sooner", "before", "side", "order")
_MOST_OPTIONS = 4


def blink_questions(clip: BlinkClip) -> list[ToyQuestion]:
    """Return all unambiguous questions about a clip, in a random order that is always the same."""
    random = np.random.default_rng([clip.scene.index, 2])
    asked = [*_one_object(clip, random), *_all_objects(clip), *_pairs(clip, random)]
    return [asked[i] for i in random.permutation(len(asked))]


def first_within(clip: BlinkClip, part: tuple[float, float]) -> list[ToyQuestion]:
    """Return the question what blinks first in a part of the clip, if it has an answer.

    Args:
        clip: the clip.
        part: one of :data:`~experiments.toyworld.blinks.PARTS`, in s.
    """
    start, end = (round(bound * FPS) for bound in part)
    inside = [b.thing for b in clip.blinks if start < b.start < end]
    if not inside or len(clip.scene.objects) < 2:
        return []
    return [_colour_question("first", clip, inside[0])]


def options(clip: BlinkClip, question: ToyQuestion) -> tuple[str, ...]:
    """Return up to four answers to choose from, in a random order that is always the same.

    Colours in the room are preferred to colours that are not.
    """
    random = np.random.default_rng([clip.scene.index, *question.text.encode()])
    colours = [thing.colour for thing in clip.scene.objects]
    match question.kind:
        case "blinks" | "before":
            return ("yes", "no")
        case "side":
            return ("left", "right")
        case "sooner":
            return tuple(colours[k] for k in question.objects)
        case "count":
            others = list(COUNTS)
        case "order":
            others = [", ".join(order) for order in permutations(question.answer.split(", "))]
        case _:
            others = [colour for colour in COLOURS if colour not in colours]
    others = [str(other) for other in random.permutation(others) if other != question.answer]
    if question.kind in ("first", "last"):
        others = [colour for colour in colours if colour != question.answer] + others
    shown = [question.answer, *others[: _MOST_OPTIONS - 1]]
    return tuple(shown[i] for i in random.permutation(len(shown)))


def _one_object(clip: BlinkClip, random: np.random.Generator) -> list[ToyQuestion]:
    """Ask whether an object blinks, as often of objects that do as of objects that do not."""
    blinking = {blink.thing for blink in clip.blinks}
    quiet = set(range(len(clip.scene.objects))) - blinking
    asked = []
    for things, answer in ((blinking, "yes"), (quiet, "no")):
        for k in random.permutation(sorted(things))[: min(len(blinking), len(quiet))]:
            text = f"Does the {clip.scene.objects[k].colour} object blink?"
            asked.append(ToyQuestion("blinks", text, answer, (int(k),)))
    return asked


def _all_objects(clip: BlinkClip) -> list[ToyQuestion]:
    asked = [ToyQuestion("count", "How many blinks are there?", COUNTS[len(clip.blinks)], ())]
    things = [blink.thing for blink in clip.blinks]
    if not things or len(clip.scene.objects) < 2:
        return asked
    asked += [
        _colour_question("first", clip, things[0]),
        _colour_question("last", clip, things[-1]),
    ]
    sides = [side_of(across, OFF_CENTRE) for across in clip.scene.places()[..., 0].T]
    if sides.count(0) == sides.count(1) == len(sides) / 2:
        text = "Is the object that blinks first on the left or on the right?"
        answer = "left" if sides[things[0]] == 0 else "right"
        asked.append(ToyQuestion("side", text, answer, (things[0],)))
    if 1 < len(set(things)) == len(things):
        answer = ", ".join(clip.scene.objects[k].colour for k in things)
        text = "In which order do the objects blink?"
        asked.append(ToyQuestion("order", text, answer, tuple(things)))
    return asked


def _pairs(clip: BlinkClip, random: np.random.Generator) -> list[ToyQuestion]:
    """Ask which of two objects that blink once is earlier, naming them in both orders."""
    times = Counter(blink.thing for blink in clip.blinks)
    once = [blink.thing for blink in clip.blinks if times[blink.thing] == 1]
    if len(once) < 2:
        return []
    colours = [thing.colour for thing in clip.scene.objects]
    asked = []
    for kind in ("sooner", "before"):
        earlier, later = (once[i] for i in sorted(random.choice(len(once), 2, replace=False)))
        for a, b in ((earlier, later), (later, earlier)):
            if kind == "sooner":
                text = f"Which blinks sooner, the {colours[a]} object or the {colours[b]} object?"
                answer = colours[earlier]
            else:
                text = f"Does the {colours[a]} object blink before the {colours[b]} object?"
                answer = "yes" if a == earlier else "no"
            asked.append(ToyQuestion(kind, text, answer, (a, b)))
    return asked


def _colour_question(kind: str, clip: BlinkClip, thing: int) -> ToyQuestion:
    text = f"Which object blinks {kind}?"
    return ToyQuestion(kind, text, clip.scene.objects[thing].colour, (thing,))
