"""Damages of annotation files beyond bytes: fields, numbers and paths."""

import copy
import json
import re
from typing import Final

from tests.robustness.inputs import OUTSIDE


def field_missing(random, original, others):
    """A field or an item is missing."""
    return _edited(random, original, "remove")


def field_twice(random, original, others):
    """A field or an item is repeated."""
    text = original.content.decode()
    names = list(re.finditer(r'"\w+": ', text))
    if not names or random.random() < 0.5:
        return _edited(random, original, "repeat")
    at = random.choice(names)
    return (text[: at.start()] + f"{at.group()}1, " + text[at.start() :]).encode()


def field_extra(random, original, others):
    """There is an unknown field."""
    return _edited(random, original, "add")


def wrong_type(random, original, others):
    """A value is of another type, or null."""
    junk = [None, True, -1, 0.5, [], [[]], [None], {}, {"a": 1}, [{}]]
    texts = ["", " ", "A", "\0", "\ud800", "<image>", "<a>", "[]", "__UNDISCLOSED__"]
    return _edited(random, original, "replace", junk + texts)


def absurd_number(random, original, others):
    """A number is one that no field can have."""
    numbers = [float("nan"), float("inf"), -float("inf"), 10**30, 10**400, -(2**63), 1e308, 2**64]
    if random.random() < 0.2:  # more digits than Python reads
        return re.sub(rb": -?\d+", b": " + b"9" * 5000, original.content, count=3)
    return _edited(random, original, "replace", numbers)


def nested(random, original, others):
    """Brackets are nested deeply."""
    depth = random.choice((500, 900, 5_000, 1_000_000))
    inner = random.choice(("[", '{"a":')) * depth
    if random.random() < 0.3:
        return inner.encode()
    closed = inner + "1" + "".join("]" if c == "[" else "}" for c in inner if c in "[{")
    return _edited(random, original, "replace", ["@here@"]).replace(b'"@here@"', closed.encode())


def very_long(random, original, others):
    """A text has 300 characters or more."""
    # Few of 50 MB, which take a second each.
    length = 50_000_000 if random.random() < 0.1 else random.choice((300, 5_000, 100_000))
    if original.media and random.random() < 0.5:
        return original.content.replace(random.choice(original.media).encode(), b"a" * length, 1)
    return _edited(random, original, "replace", ["x" * length])


def encoding(random, original, others):
    """The file is not UTF-8, or begins with a byte order mark."""
    text = original.content.decode()
    at = random.randrange(len(text))
    broken = text[:at].encode() + b"\xff\xfe\xe9" + text[at:].encode()
    codes = [text.encode(code) for code in ("utf-8-sig", "utf-16", "utf-32", "utf-7")]
    return random.choice([broken, *codes, b"\xef\xbb\xbf" * 2 + text.encode()])


def hostile_path(random, original, others):
    """A path leads elsewhere, or is impossible."""
    ways_out = [f"{'../' * depth}outside/secret" for depth in range(1, 6)]
    name = random.choice(
        [
            *ways_out, f"{OUTSIDE}/secret", f"{OUTSIDE}/secret.mp4", "a/../../../outside/secret",
            "linked", "bare", "link/secret", "link/../secret", "round/a", "..\\..\\outside\\secret",
            "..", ".", "./", "/", "~", "-", "'", "*", "[", "con\n", "%03d", "a\0b", "\0", "\ud800",
            "\u202e", "a" * 250, "a" * 300, "a/" * 3000, "a" * 252 + ".b",
            "file:/etc/hosts", f"concat:{OUTSIDE}/secret.mp4|", "http://127.0.0.1:9/a",
        ]
    )  # fmt: skip
    medium = random.choice(original.media)
    text = name if original.name.endswith(".txt") else json.dumps(name)[1:-1]
    return original.content.replace(medium.encode(), text.encode(errors="surrogatepass"))


ON_ANNOTATIONS: Final = {
    "field missing": field_missing,
    "field twice": field_twice,
    "field extra": field_extra,
    "wrong type": wrong_type,
    "absurd numbers": absurd_number,
    "deeply nested": nested,
    "very long": very_long,
    "encoding": encoding,
    "hostile path": hostile_path,
}
"""Name of a damage → its function."""


def _edited(random, original, action, junk=("?",)):
    content = json.loads(original.content)
    place = random.choice(list(_places(content)))
    *way, last = place
    inner = content
    for key in way:
        inner = inner[key]
    if action == "remove":
        del inner[last]
    elif action == "repeat" and isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    elif action in {"add", "repeat"} and isinstance(inner, dict):
        inner["unheard of"] = copy.deepcopy(inner[last])
    else:
        inner[last] = random.choice(junk)
    return json.dumps(content).encode()


def _places(value, found=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*found, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*found, key))
