"""Hold the words by which `facts` reads the names of a text."""

from __future__ import annotations

TITLES = set(
    "mr mrs ms miss mister pm mp cllr sir dame lord lady dr prof professor rev st sgt capt lt col "
    "gen maj cpl pc det insp supt hon sen rep gov president prime minister chancellor king queen "
    "prince princess duke duchess pope captain general colonel judge justice senator governor "
    "secretary mayor chief saint".split()
)
# Capitals of grammar, not of a name.
FUNCTION_WORDS = set(
    "a an the this that these those i i'm i've i'd i'll he she it we you they his her its our your "
    "their my me him us them who whom whose which what when where why how if then but and or nor "
    "so yet as at by for from in into of off on onto out over to up upon with within without under "
    "until unless since while although though because before after about above across against "
    "along among around behind below between beyond during except inside like near per through "
    "throughout toward towards than there here no not yes all any both each every few many more "
    "most much none other others several some such same another is are was were be been being am "
    "do does did done has have had can could may might must shall should will would let now also "
    "just only even still too very never ever however meanwhile".split()
)
# Countries and what is of them; of others the two differ by an ending.
_NAMES = (
    "britain british england english scotland scottish ireland irish france french spain spanish "
    "germany german italy italian greece greek turkey turkish sweden swedish denmark danish "
    "norway norwegian finland finnish poland polish netherlands dutch holland dutch belgium "
    "belgian switzerland swiss portugal portuguese hungary hungarian ukraine ukrainian china "
    "chinese japan japanese vietnam vietnamese lebanon lebanese malta maltese mexico mexican "
    "canada canadian argentina argentine peru peruvian brazil brazilian egypt egyptian europe "
    "european philippines filipino thailand thai afghanistan afghan wales welsh"
).split()
NATIONS = list(zip(_NAMES[::2], _NAMES[1::2], strict=True))
# What may open a sentence before a name and is no part of it: `Former Wales captain`.
OPENERS = set(
    "former ex late veteran fellow senior acting outgoing incumbent current leading prominent "
    "young local despite unlike following besides whether neither today yesterday later recently "
    "sometimes perhaps maybe obviously instead manager journalist prosecutor photographer "
    "councillor actor actress author director chairman singer striker defender midfielder "
    "goalkeeper winger captain coach boss rapper producer referee lawyer barrister pastor artist "
    "musician comedian broadcaster presenter driver spokesman spokeswoman coroner compatriot "
    "substitute debutant owner founder editor detective officer police anti pro".split()
)
