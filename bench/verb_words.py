"""Hold the words by which `planting` turns what a sentence says."""

from __future__ import annotations

import re

# Verbs that take `not` behind them; `have` does so only before a participle.
AUXILIARIES = frozenset(
    "is are was were am will would can could may might must should did does do has have had".split()
)
_PASTS = frozenset(
    "said told made took gave came went got saw found left lost won met held ran set put hit beat "
    "led fell rose grew drew threw broke spoke wrote drove began became brought bought caught "
    "taught thought fought sold sent spent built felt dealt paid laid stood sat shot struck swore "
    "wore tore bore chose froze stole woke hid rode shook flew knew blew sank sang drank swam "
    "says tells makes takes gives comes goes gets sees finds leaves loses wins meets holds runs "
    "sets puts hits beats leads falls rises wants plans hopes faces claims denies admits insists "
    "believes warns calls asks needs becomes begins plays scores".split()
)
_NO_VERBS = frozenset(
    "hundred indeed need speed seed feed breed deed weed red bed need naked sacred wicked crowded "
    "aged so-called united exceed proceed succeed king thing something anything nothing everything "
    "evening morning during building being according including following wedding meeting bring "
    "spring string ring wing sing string ceiling beijing sibling".split()
)
# Both ways, if the second word stands once only.
_OPPOSITES = """
won lost, wins loses, win lose, winning losing, winner loser, rose fell, rises falls, rise fall,
rising falling, increased decreased, increase decrease, increasing decreasing, higher lower,
highest lowest, more fewer, before after, first last, best worst, oldest youngest, older younger,
largest smallest, bigger smaller, biggest tiniest, accepted rejected, accepts rejects,
accept reject, approved vetoed, arrested freed, accused cleared, convicted acquitted,
guilty innocent, killed rescued, died survived, dies survives, dead alive, opened closed,
opens closes, joined quit, joins quits, bought sold, buys sells, buy sell, began ended,
begins ends, begin end, started stopped, starts stops, start stop, confirmed denied,
confirms denies, confirm deny, supported opposed, supports opposes, support oppose,
praised criticised, praises criticises, praise criticise, allowed banned, allows bans, allow ban,
legal illegal, likely unlikely, able unable, successful unsuccessful, hired sacked,
agreed refused, agrees refuses, agree refuse, loved hated, loves hates, love hate, passed failed,
passes fails, pass fail, success failure, safe dangerous, rich poor, early late, earlier later,
north south, northern southern, east west, eastern western, husband wife, father mother,
son daughter, brother sister, man woman, men women, boy girl, male female, above below,
inside outside, with without, for against, over under, public private, same different,
strong weak, stronger weaker, possible impossible, improved worsened, better worse,
remembered forgot, attacked defended, attack defend, victory defeat, victories defeats,
appeared disappeared, arrived left, arrives leaves, returned departed, top bottom, pay receive,
paid received, gave took, gives takes, ahead behind, near far, many few, always never,
often rarely, expected unexpected, known unknown, fit injured, victim attacker, teacher pupil,
doctor patient, buyer seller, employer employee, parents children, hot cold, light heavy,
married divorced, caught escaped, recovered deteriorated, promised threatened, welcomed condemned
"""
OPPOSITES: dict[str, str] = {}
for _pair in _OPPOSITES.split(","):
    _one, _other = _pair.split()
    OPPOSITES.setdefault(_one, _other)
    OPPOSITES.setdefault(_other, _one)

_FORM = re.compile(r"[a-z]{2,}(ed|ing)")


def verb_form(word: str) -> str:
    """Return how a lower-case word looks as a verb: `ed`, `ing`, `irregular`, or ''."""
    if word in _NO_VERBS:
        return ""
    if word in _PASTS:
        return "third" if word.endswith("s") else "irregular"
    match = _FORM.fullmatch(word)
    return match[1] if match and len(word) > 4 else ""
