"""Questions made by rule out of others: some ask for the same thing, most for something else in nearly the same words.

No data set shows them: reversed direction, negation, former and future, another qualifier, another question word, a
look-alike subject; and beside them keywords, slips of the keyboard and words that change nothing ("at the moment"). The
rules are clumsy at times ("What is Acme the price of?"), which does no harm to what they teach.
"""

import random
import re
import string
from typing import Final

_AUXILIARY: Final = re.compile(r"\b(is|was|are|were|does|did|do|can|has|have|will|should|must)\b")
_PRESENT: Final = re.compile(r"\b(is|are|has|does|do)\b")
_THE: Final = re.compile(r"\b([Tt]he|[Aa]n?) (?=[a-z])")
_WORD: Final = re.compile(r"\w+")
_PAST_YEARS: Final = range(1950, 2024)
_COMING_YEARS: Final = range(2027, 2041)
_FORMER: Final = ("former", "previous", "first", "original", "last", "late", "earlier", "old", "ex-")
_COMING: Final = ("next", "future", "planned", "designated", "proposed", "upcoming")
_CURRENT: Final = ("current", "present")
_NOW: Final = ("at the moment", "now", "today", "right now", "at present", "currently", "these days")
_QUALIFIERS: Final = (
    "second", "third", "deputy", "assistant", "acting", "honorary", "minimum", "maximum", "average", "annual",
    "weekly", "regional", "international", "northern", "southern", "beta", "older", "smaller", "cheapest", "oldest",
    "largest", "unofficial", "estimated", "student", "children's", "wholesale", "used", "winter", "summer", "weekend",
    "night", "mobile", "backup", "test", "internal", "public", "secondary", "alternative", "historic", "favourite",
)  # fmt: skip
_OPPOSITES: Final = (
    ("first", "last"), ("first", "second"), ("oldest", "youngest"), ("largest", "smallest"), ("highest", "lowest"),
    ("minimum", "maximum"), ("upper", "lower"), ("north", "south"), ("east", "west"), ("northern", "southern"),
    ("summer", "winter"), ("morning", "evening"), ("day", "night"), ("weekday", "weekend"), ("monday", "friday"),
    ("adult", "child"), ("men's", "women's"), ("mother", "father"), ("wife", "husband"), ("son", "daughter"),
    ("brother", "sister"), ("husband", "son"), ("buy", "sell"), ("bought", "sold"), ("open", "close"),
    ("opens", "closes"), ("start", "end"), ("starts", "ends"), ("begin", "end"), ("begins", "ends"),
    ("arrive", "depart"), ("arrives", "leaves"), ("arrival", "departure"), ("import", "export"),
    ("imports", "exports"), ("enable", "disable"), ("on", "off"), ("activate", "deactivate"),
    ("install", "uninstall"), ("join", "leave"), ("upload", "download"), ("lend", "borrow"), ("win", "lose"),
    ("won", "lost"), ("home", "away"), ("monthly", "yearly"), ("weekly", "daily"), ("net", "gross"),
    ("before", "after"), ("born", "buried"), ("birth", "death"), ("born", "died"), ("predecessor", "successor"),
    ("preceded", "succeeded"), ("employer", "employee"), ("owner", "tenant"), ("parent", "subsidiary"),
    ("entry", "exit"), ("entrance", "exit"), ("domestic", "international"), ("internal", "external"),
    ("public", "private"), ("read", "write"), ("input", "output"), ("author", "publisher"), ("director", "producer"),
    ("composer", "lyricist"), ("capital", "largest city"), ("president", "vice president"),
    ("chairman", "deputy chairman"), ("cheapest", "most expensive"), ("stable", "beta"), ("android", "ios"),
    ("width", "height"), ("length", "width"), ("weight", "length"), ("city", "country"), ("country", "continent"),
    ("acquired", "sold"), ("bought", "wanted to buy"), ("founded", "left"), ("hired", "dismissed"), ("gave", "got"),
    ("sent", "received"), ("lent", "returned"), ("teacher", "student"), ("taught", "was taught by"),
    ("trained", "was trained by"), ("boss", "assistant"), ("leads", "works for"), ("supplier", "customer"),
    ("supplies", "buys from"), ("landlord", "tenant"), ("seller", "buyer"), ("sender", "recipient"),
    ("host", "guest"), ("doctor", "patient"), ("lawyer", "client"), ("children", "students"), ("adults", "seniors"),
    ("monday", "saturday"), ("tuesday", "sunday"), ("weekdays", "holidays"), ("since", "until"), ("from", "until"),
    ("with", "without"), ("including", "excluding"), ("inside", "outside"), ("indoor", "outdoor"), ("hand", "hold"),
    ("front", "back"), ("left", "right"), ("top", "bottom"), ("hot", "cold"), ("fast", "slow"), ("new", "old"),
    ("newest", "oldest"), ("latest", "first"), ("required", "optional"), ("allowed", "forbidden"),
    ("may", "may not"), ("must", "need not"), ("online", "by post"), ("phone", "email"), ("billing", "delivery"),
    ("gold", "silver"), ("premium", "basic"), ("business", "private"), ("full-time", "part-time"),
)  # fmt: skip
_OTHER_WORDS: Final = {
    "where": ("When", "Why", "How", "Since when"), "when": ("Where", "Why", "How", "With whom"),
    "why": ("When", "Where"), "how long": ("How far", "How often", "How wide"), "how much": ("How soon", "How far"),
    "how many": ("Which", "Whose"), "how old": ("How tall", "How far"), "who": ("When", "Where", "Why"),
    "in which city": ("In which year",), "in which year": ("In which city",), "which city": ("Which year",),
    "what year": ("What place",), "at what time": ("At what place",),
}  # fmt: skip
_BASES: Final = {
    "acquired": "acquire", "bought": "buy", "founded": "found", "owns": "own", "owned": "own", "supplies": "supply",
    "employs": "employ", "hired": "hire", "defeated": "defeat", "beat": "beat", "teaches": "teach", "taught": "teach",
    "sued": "sue", "married": "marry", "wrote": "write", "directed": "direct", "produced": "produce",
    "invented": "invent", "discovered": "discover", "succeeded": "succeed", "preceded": "precede",
    "replaced": "replace", "replaces": "replace", "leads": "lead", "led": "lead", "manages": "manage",
    "sponsors": "sponsor", "funds": "fund", "funded": "fund", "nominated": "nominate", "inspired": "inspire",
    "influenced": "influence", "translated": "translate", "audits": "audit", "insures": "insure",
    "inspects": "inspect", "trains": "train", "trained": "train", "mentored": "mentor", "borders": "border",
    "killed": "kill", "designed": "design", "built": "build", "developed": "develop", "created": "create",
    "sold": "sell", "appointed": "appoint", "represents": "represent", "visited": "visit", "joined": "join",
    "coaches": "coach", "runs": "run",
}  # fmt: skip
_PASTS: Final = {base: form for form, base in _BASES.items()}
_STOP: Final = frozenset(
    (
        *("a", "an", "the", "of", "in", "on", "at", "to", "for", "from", "by", "with", "as", "and", "or", "about"),
        *("is", "was", "are", "were", "be", "been", "does", "did", "do", "has", "have", "had", "can", "could", "would"),
        *("what", "which", "who", "whom", "whose", "where", "when", "why", "how", "that", "this", "it", "its"),
        *("please", "tell", "me", "name", "you", "i", "my", "we", "our"),
    )
)


def negated(text: str) -> str | None:
    """With "not" behind the first auxiliary verb."""
    found = _AUXILIARY.search(text)
    return None if found is None else f"{text[: found.end()]} not{text[found.end() :]}"


def at_another_time(random_: random.Random, text: str) -> str | None:
    """The same about a former or a coming state; None where the text is not about the present."""
    found = _PRESENT.search(text)
    if found is None:
        return None
    ways = [_with_year, _with_former]
    random_.shuffle(ways)
    return next((made for way in ways if (made := way(random_, text, found))), None)


def at_present(random_: random.Random, text: str) -> str | None:
    """The same with a word that says that it is about the present, which asks for the same."""
    if _PRESENT.search(text) is None:
        return None
    if random_.random() < 0.5 and (found := _THE.search(text)):  # noqa: PLR2004 (either way)
        return f"{text[: found.end()]}{random_.choice(_CURRENT)} {text[found.end() :]}"
    return f"{text[:-1]} {random_.choice(_NOW)}?" if text.endswith("?") else None


def with_other_qualifier(random_: random.Random, text: str) -> str | None:
    """With a word put in, or turned into its opposite, that makes it ask for something else."""
    lower = f" {text.casefold()} "
    pairs = [
        (one, other) for pair in _OPPOSITES for one, other in (pair, pair[::-1]) if re.search(rf"\b{one}\b", lower)
    ]
    if pairs and random_.random() < 0.7:  # noqa: PLR2004 (an opposite says more than a word more)
        one, other = random_.choice(pairs)
        return re.sub(rf"\b{one}\b", other, text, count=1, flags=re.IGNORECASE)
    if found := _THE.search(text):
        return f"{text[: found.end()]}{random_.choice(_QUALIFIERS)} {text[found.end() :]}"
    return None


def with_other_question_word(random_: random.Random, text: str) -> str | None:
    """Asked with another question word on the same words."""
    lower = text.casefold()
    for word in sorted(_OTHER_WORDS, key=len, reverse=True):
        if lower.startswith(f"{word} "):
            rest = text[len(word) :]
            if word == "who" and not re.match(r" (is|was|are|were|did|does|will)\b", rest):
                return None
            return random_.choice(_OTHER_WORDS[word]) + rest
    return None


def turned_round(random_: random.Random, text: str, subject: str) -> str | None:  # noqa: PLR0911 (a rule each)
    """Asked in the other direction: who did it to X for what X did, and what X is the R of for the R of X."""
    if not subject or subject not in text:
        return None
    name = re.escape(subject)
    if found := re.fullmatch(rf"(Who|What|Which \w+) (\w+) {name}\?", text):
        base = _BASES.get(found[2])
        return None if base is None else f"{found[1]} did {subject} {base}?"
    if found := re.fullmatch(rf"(Who|Whom|What|Which \w+) (?:did|does) {name} (\w+)\?", text):
        past = _PASTS.get(found[2])
        return None if past is None else f"{found[1].replace('Whom', 'Who')} {past} {subject}?"
    if found := re.fullmatch(rf"{name} was (\w+) by", text):
        return f"{subject} {found[1]}" if found[1] in _BASES else None
    if found := re.fullmatch(rf"{name} (\w+)", text):
        return f"{subject} was {found[1]} by" if found[1] in _BASES else None
    found = (
        re.fullmatch(rf"(?:Who|What|Which \w+) (?:is|was|are) the ([a-z][\w ]*?) of {name}\?", text)
        or re.fullmatch(rf"The ([a-z][\w ]*?) of {name} (?:is|was|are)(?: in| at)?", text)
        or re.fullmatch(rf"{name}'s ([a-z][\w ]*?) (?:is|was|are)", text)
        or re.fullmatch(rf"(?:Who|What) (?:is|was) {name}'s ([a-z][\w ]*?)\?", text)
    )
    if found is None:
        return None
    forms = ("{X} is the {R} of", "Whose {R} is {X}?", "What is {X} the {R} of?", "Which one has {X} as its {R}?")
    return random_.choice(forms).replace("{X}", subject).replace("{R}", found[1])


def other_name(random_: random.Random, name: str, other: str) -> str:
    """A name that looks like this one: a digit, a syllable or a word is another; `other` lends the word."""
    digits = [place for place, sign in enumerate(name) if sign.isdigit()]
    if digits and random_.random() < 0.8:  # noqa: PLR2004 (numbers are what such names differ in)
        place = random_.choice(digits)
        return name[:place] + random_.choice(string.digits.replace(name[place], "")) + name[place + 1 :]
    words, others = name.split(), [word for word in other.split() if word[:1].isupper()]
    if len(words) > 1 and others and random_.random() < 0.5:  # noqa: PLR2004 (either way)
        place = random_.randrange(len(words))
        return " ".join([*words[:place], random_.choice(others), *words[place + 1 :]])
    place = max(range(len(words)), key=lambda each: len(words[each]) + random_.random()) if words else 0
    return " ".join([*words[:place], _respelled(random_, words[place]), *words[place + 1 :]]) if words else other


def keywords(random_: random.Random, text: str, subject: str) -> str | None:
    """What somebody types into a search box: the subject and the words that matter, in lower case."""
    if not subject or subject not in text:
        return None
    rest = [word.casefold() for word in _WORD.findall(text.replace(subject, " ")) if word.casefold() not in _STOP]
    if not rest or len(rest) > 5:  # noqa: PLR2004 (nobody types as many)
        return None
    name = subject.casefold()
    return " ".join([name, *rest] if random_.random() < 0.7 else [*rest, name])  # noqa: PLR2004 (mostly first)


def with_slip(random_: random.Random, text: str) -> str:
    """With one slip of the keyboard in a longer word: letters swapped, one lost, or one twice."""
    places = [found for found in _WORD.finditer(text) if len(found[0]) > 3 and found[0].isalpha()]  # noqa: PLR2004
    if not places:
        return text
    word = random_.choice(places)
    at = word.start() + random_.randrange(1, len(word[0]) - 1)
    kind = random_.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if kind == 1 else text[:at] + text[at] + text[at:]


def _with_year(random_: random.Random, text: str, found: re.Match[str]) -> str:
    past = {"is": "was", "are": "were", "has": "had", "does": "did", "do": "did"}[found[0]]
    if random_.random() < 0.25:  # noqa: PLR2004 (mostly the past)
        end = f" in {random_.choice(_COMING_YEARS)}"
        start = text
    else:
        start = text[: found.start()] + past + text[found.end() :]
        end = random_.choice(
            [
                f" in {random_.choice(_PAST_YEARS)}",
                " before",
                " last year",
                f" until {random_.choice(_PAST_YEARS)}",
                " ten years ago",
            ]
        )
    if text.endswith("?"):
        return f"{start[:-1]}{end}?"
    return f"{end.strip().capitalize()}, {start[0].lower() if start.startswith('The ') else start[0]}{start[1:]}"


def _with_former(random_: random.Random, text: str, found: re.Match[str]) -> str | None:
    the = _THE.search(text)
    if the is None:
        return None
    return f"{text[: the.end()]}{random_.choice(_FORMER + _COMING)} {text[the.end() :]}".replace("- ", "-")


def _respelled(random_: random.Random, word: str) -> str:
    letters = [place for place, sign in enumerate(word) if sign.isalpha()]
    if not letters:
        return word
    result = list(word)
    for place in random_.sample(letters, min(len(letters), random_.choice((1, 1, 2)))):
        vowels = "aeiou"
        kind = vowels if word[place].casefold() in vowels else "bcdfghklmnprstvwz"
        sign = random_.choice(kind.replace(word[place].casefold(), ""))
        result[place] = sign.upper() if word[place].isupper() else sign
    return "".join(result)
