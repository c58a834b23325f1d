"""Keep obscene words out of names that are put together from pieces."""

from __future__ import annotations

import re

# English profanity, sexual words, slurs and insults, each as the letters that mark it. A name that
# holds one anywhere, also across the joint of its pieces, is never drawn. Harmless names go with
# them (`Cassel`), which is no loss: there are thousands.
STEMS = tuple(
    # profanity and what it sounds like
    "arse ass bastard bitch bollo bugger bum butt cack crap cunt damn fack fart feck fick fuck fuk "
    "fux hell kunt piss poo prick puss shit slag slut sod suck turd twat wank wee whor hore "
    # sexual words
    "anal anus boner bonk boob clit cock cooch cuck cum cunn dick dildo dong fondl gangb horny "
    "hump jiz knob kock kum lust minge muff nipp nude orgas peck pedo paedo penis perv phall pimp "
    "porn pube rape rapi rump scrot semen sex shag skank sperm spunk stripp teste testic tit vagin "
    "vulva "
    # slurs
    "abo chink coon crip dago dyke fag gimp gook gyp homo jap kaff kike kraut lesb lez mong nazi "
    "negro nig paki pikey poof queer raghead sambo spast spaz spic tard trann wetback wog wop yid "
    # insults
    "cretin dumb git hitler idiot jerk moron nob prat scum tart terd tosser tramp twit".split()
)
_STEM = re.compile("|".join(STEMS), re.IGNORECASE)


def decent(name: str) -> bool:
    """Return whether a name holds none of `STEMS`, in any case and also across its spaces."""
    return not _STEM.search(name.replace(" ", ""))
