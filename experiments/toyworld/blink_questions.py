"""Questions about blinks, with answers that follow from the clip alone.

Who sees the room but not the blinks is at chance: one in two for the kinds with two answers, one in
five for the count, one in as many as there are objects for the first and the last.
"""

from collections import Counter
from itertools import permutations
from typing import Final

import numpy as np

from experiments.toyworld.blinks import FPS, BlinkClip
from experiments.toyworld.questions import ToyQuestion
from experiments.toyworld.scene import COLOURS

KINDS: Final = ("blinks", "count", "first", "last", "sooner", "before", "side", "order")
COUNTS: Final = ("no", "one", "two", "three", "four")
_OFF_CENTRE = 0.06  # in units of the focal length, as in questions about rooms
_MOST_OPTIONS = 4


def blink_questions(clip: BlinkClip) -> list[ToyQuestion]:
    """All questions about a clip without ambiguity, in random order but always the same."""
    random = np.random.default_rng([clip.scene.index, 2])
    asked = [*_one_object(clip, random), *_all_objects(clip), *_pairs(clip, random)]
    return [asked[i] for i in random.permutation(len(asked))]


def first_within(clip: BlinkClip, part: tuple[float, float]) -> list[ToyQuestion]:
    """What blinks first in a part of the clip, as a question or none.

    Args:
        clip: the clip.
        part: one of :data:`~experiments.toyworld.blinks.PARTS`, in s.
    """
    start, end = (round(moment * FPS) for moment in part)
    inside = [b.thing for b in clip.blinks if start < b.start < end]
    if not inside or len(clip.scene.objects) < 2:
        return []
    return [_colour_question("first", "Which object blinks first?", clip, inside[0])]


def options(clip: BlinkClip, question: ToyQuestion) -> tuple[str, ...]:
    """Up to four texts to choose from, the answer among them, in an order that depends on nothing
    but the clip and the question.

    Colours of the room come before colours that are not there.
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
    """Whether it blinks, of as many objects that do as of those that don't."""
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
    asked.append(_colour_question("first", "Which object blinks first?", clip, things[0]))
    asked.append(_colour_question("last", "Which object blinks last?", clip, things[-1]))
    sides = _sides(clip)
    if sides.count("left") == sides.count("right") == len(sides) / 2:
        text = "Is the object that blinks first on the left or on the right?"
        asked.append(ToyQuestion("side", text, sides[things[0]], (things[0],)))
    if 1 < len(set(things)) == len(things):
        answer = ", ".join(clip.scene.objects[k].colour for k in things)
        text = "In which order do the objects blink?"
        asked.append(ToyQuestion("order", text, answer, tuple(things)))
    return asked


def _pairs(clip: BlinkClip, random: np.random.Generator) -> list[ToyQuestion]:
    """Who is first of two, both ways round; of objects that blink once."""
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


def _colour_question(kind: str, text: str, clip: BlinkClip, thing: int) -> ToyQuestion:
    return ToyQuestion(kind, text, clip.scene.objects[thing].colour, (thing,))


def _sides(clip: BlinkClip) -> list[str]:
    """Where each object is as long as the clip lasts: left, right, or between."""
    across = clip.scene.places()[..., 0]  # (T, K)
    furthest_left, furthest_right = across.min(0), across.max(0)  # (K,)
    sides = np.where(furthest_right < -_OFF_CENTRE, "left", "between")
    return [str(side) for side in np.where(furthest_left > _OFF_CENTRE, "right", sides)]
