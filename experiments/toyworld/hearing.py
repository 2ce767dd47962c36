"""Questions about a sounding room that require hearing, with answers that follow from the facts.

A question is asked only where what is visible allows several answers. It is a template in the style
of MUSIC-AVQA, with ``<…>`` to be filled in.
"""

import re
from collections import Counter
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np

from experiments.toyworld.questions import COUNTS, OFF_CENTRE, side_of
from experiments.toyworld.scene import COLOURS, SHAPES
from experiments.toyworld.sound import SoundingRoom, Voice

TEMPLATES: Final = {
    "which": "Which <Object> sounds <FL>?",
    "silent": "Which <Object> does not sound?",
    "sounds": "Does the <Object> sound?",
    "before": "Does the <Object> start before the <Object>?",
    "louder": "Is the <Object> louder than the <Object>?",
    "notes": "How many sounds are there?",
    "times": "How many times does the <Object> sound?",
    "shapes": "How many shapes sound?",
    "colour": "What colour is the <Object> that sounds <FL>?",
    "where": "Is the <Object> that sounds <FL> on the left or on the right?",
}
"""Kind → wording. All require hearing; the last two require sight as well."""

CHOICES: Final = {
    **dict.fromkeys(("which", "silent"), SHAPES),
    **dict.fromkeys(("notes", "times", "shapes"), COUNTS[1:]),
    "colour": tuple(COLOURS),
}
"""Kind → its possible answers, for kinds with four or more."""


class HeardQuestion(NamedTuple):
    """A question and its answer."""

    kind: str
    values: tuple[str, ...]  # of the template
    answer: str

    @property
    def text(self) -> str:
        """Return the template, filled in."""
        values = iter(self.values)
        return re.sub("<[^>]+>", lambda _: next(values), TEMPLATES[self.kind])


def heard_questions(room: SoundingRoom) -> list[HeardQuestion]:
    """Return all questions whose answer requires hearing."""
    asked = _counts(room)
    if len(room.shapes) == 1:
        return asked  # the only shape must be what sounds
    asked += [*_which_sound(room), *_pairs(room)]
    unique = _unique(room)
    for which, voice in _prominent(room):
        asked.append(HeardQuestion("which", ("shape", which), voice.shape))
        if voice.shape not in unique:
            continue
        values = ("object", which)
        colour, at = unique[voice.shape]
        if len(unique) > 1:
            asked.append(HeardQuestion("colour", values, colour))
        if at is not None and len({place for _, place in unique.values()} - {None}) > 1:
            asked.append(HeardQuestion("where", values, ("left", "right")[at]))
    return asked


def _counts(room: SoundingRoom) -> list[HeardQuestion]:
    notes = sum(len(voice.slots) for voice in room.voices)
    asked = []
    if notes < len(COUNTS):
        asked.append(HeardQuestion("notes", (), COUNTS[notes]))
    if len(room.shapes) > 1:
        asked.append(HeardQuestion("shapes", (), COUNTS[len(room.voices)]))
    for voice in room.voices:
        asked.append(HeardQuestion("times", (voice.shape,), COUNTS[len(voice.slots)]))
    return asked


def _which_sound(room: SoundingRoom) -> list[HeardQuestion]:
    """Ask for as many silent shapes as sounding ones, so for none if all shapes sound."""
    sounding = [voice.shape for voice in room.voices]
    silent = [shape for shape in room.shapes if shape not in sounding]
    asked = []
    for yes, no in zip(sounding, silent, strict=False):
        asked += [HeardQuestion("sounds", (yes,), "yes"), HeardQuestion("sounds", (no,), "no")]
    if len(silent) == 1:
        asked.append(HeardQuestion("silent", ("shape",), silent[0]))
    return asked


def _pairs(room: SoundingRoom) -> list[HeardQuestion]:
    """Compare one pair of voices in both orders; all pairs would outnumber other questions."""
    random = np.random.default_rng(room.scene.index)
    pair = random.permutation(len(room.voices))[:2]
    asked = []
    for one, other in permutations(sorted(pair), 2):
        first, second = room.voices[one], room.voices[other]
        values = (first.shape, second.shape)
        for kind, yes in (("before", one < other), ("louder", first.level > second.level)):
            asked.append(HeardQuestion(kind, values, "yes" if yes else "no"))
    return asked


def _prominent(room: SoundingRoom) -> list[tuple[str, Voice]]:
    """Return the first, last and loudest voice; for a single voice, these are one question."""
    first = ("first", room.voices[0])
    if len(room.voices) == 1:
        return [first]
    last = max(room.voices, key=lambda voice: voice.slots[-1])
    loudest = max(room.voices, key=lambda voice: voice.level)
    return [first, ("last", last), ("loudest", loudest)]


def _unique(room: SoundingRoom) -> dict[str, tuple[str, int | None]]:
    """Return shape → (colour, side) of objects that are the only one of their shape."""
    things = room.scene.objects
    many = Counter(thing.shape for thing in things)
    across = room.scene.places()[..., 0]  # (T, K)
    return {
        thing.shape: (thing.colour, side_of(across[:, k], OFF_CENTRE))
        for k, thing in enumerate(things)
        if many[thing.shape] == 1
    }
