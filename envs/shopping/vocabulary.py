"""The vocabulary of the generated catalogue: products, attributes, options, specifications.

Values of one axis, attributes of one aisle and values of one aspect are unlike each other under the
reward's similarity (a test holds it), except that 'large' is contained in 'x-large', as in the real
data. Option values avoid ``[ ] ; , = |``, which the grammars of actions use.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


@dataclass(frozen=True)
class Aisle:
    """Products beside each other share attributes and aspects."""

    department: str
    name: str
    attributes: tuple[str, ...]
    aspects: tuple[str, ...]
    """Beside those of `COMMON_ASPECTS`."""


@dataclass(frozen=True)
class Kind:
    """One kind of product."""

    name: str
    nouns: tuple[str, ...]
    aisle: Aisle
    low: float
    high: float
    """Dollars."""
    axes: tuple[str, ...]
    """Keys of `AXES`."""


AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "colour": (
        "color",
        _words(
            "black, white, navy blue, dark green, burgundy, heather grey, light pink, mustard,"
            " teal, ivory, coral, lavender, chocolate brown, silver, turquoise, orange, charcoal,"
            " sand, red, bright yellow, olive, mauve"
        ),
    ),
    "clothes": ("size", _words("x-small, small, medium, large, x-large, xx-large")),
    "shoes": ("size", _words("5, 6, 7, 8, 9, 10, 11, 12")),
    "bed": ("size", _words("twin, full, queen, king")),
    "rug": ("size", _words("2 by 3, 4 by 6, 5 by 8, 9 by 12")),
    "bottle": ("size", _words("travel size, half gallon, 8 ounce, value bundle")),
    "pack": ("number of items", _words("single, pair, box of six, family case")),
    "scent": (
        "scent",
        _words(
            "unscented, fresh lavender, citrus burst, sandalwood, vanilla bean, eucalyptus, rose"
            " water, coconut milk"
        ),
    ),
    "flavour": (
        "flavor name",
        _words(
            "original, honey almond, sea salt caramel, peanut butter, blueberry, cinnamon apple,"
            " coconut, spicy mango"
        ),
    ),
    "pattern": (
        "pattern name",
        _words("solid, striped, floral, plaid, geometric, polka dots, animal print"),
    ),
    "length": ("length", _words("3 feet, half a meter, ten yards, extra long")),
    "model": (
        "compatible model",
        _words("galaxy s21, pixel 6, iphone 13 pro, moto edge, nokia x20"),
    ),
    "finish": (
        "finish",
        _words("matte, brushed nickel, glossy, antique brass, raw oak, walnut stain"),
    ),
    "style": ("style", _words("classic, slim, oversized, cropped, relaxed")),
}

COMMON_ASPECTS = ("delivery", "origin", "return period")
ASPECTS: dict[str, tuple[str, ...]] = {
    "delivery": _words("same day, next day, within three days, within a week, within a month"),
    "origin": _words(
        "made in Portugal, made in Vietnam, made in Mexico, made in Turkey, made in Canada"
    ),
    "return period": _words("14 days, 30 days, 60 days, 90 days, one year"),
    "material": _words(
        "cotton blend, merino wool, recycled polyester, full grain leather, bamboo viscose"
    ),
    "care": _words("hand wash only, cold cycle, wipe with a damp cloth, dry clean"),
    "battery life": _words("8 hours, 12 hours, 20 hours, 36 hours, 50 hours"),
    "warranty": _words("six months, 12 months, two years, five years, lifetime cover"),
    "skin type": _words("for oily skin, for dry skin, for sensitive skin, for combination skin"),
    "shelf life": _words("9 weeks, 6 months, 18 months, 2 years"),
    "assembly time": _words("no assembly, 15 minutes, half an hour, about two hours"),
    "season": _words("three season use, winter use, summer use, all year use"),
}


def _aisle(path: str, attributes: str, aspects: str) -> Aisle:
    department, name = path.split("/")
    return Aisle(department, name, _words(attributes), _words(aspects))


_SHOES = _aisle(
    "Clothing/Shoes",
    """breathable mesh, arch support, non slip, memory foam, slip resistant outsole, wide fit, quick
    drying, vegan leather, shock absorbing, ankle padding, reflective trim, steel toe""",
    "material, care",
)
_TOPS = _aisle(
    "Clothing/Tops",
    """machine washable, long sleeve, moisture wicking, tagless collar, stretchy fabric,
    wrinkle free, tailored, kangaroo pocket, button closure, fade proof, fleece lined, crew neck""",
    "material, care",
)
_BOTTOMS = _aisle(
    "Clothing/Bottoms",
    """high waist, drawstring closure, tummy control, zippered pockets, four way stretch, straight
    leg, elastic waistband, squat proof, distressed look, ankle length, wide hem, butt lifting""",
    "material, care",
)
_BAGS = _aisle(
    "Clothing/Bags",
    """water resistant, laptop compartment, padded straps, anti theft, hidden pocket, rfid blocking,
    lightweight frame, trolley sleeve, usb port, expandable, adjustable buckle, hand stitched""",
    "material, warranty",
)
_HAIR = _aisle(
    "Beauty/Hair Care",
    """sulfate free, color safe, anti dandruff, deep conditioning, heat protectant, cruelty free,
    keratin infused, for curly hair, scalp soothing, tea tree oil, volumizing, paraben free""",
    "shelf life",
)
_SKIN = _aisle(
    "Beauty/Skin Care",
    """fragrance free, hyaluronic acid, fast absorbing, dermatologist tested, oil free,
    anti aging, broad spectrum, shea butter, non greasy, vitamin c, plant based, reef safe""",
    "skin type, shelf life",
)
_AUDIO = _aisle(
    "Electronics/Audio",
    """noise cancelling, bluetooth 5.0, wireless charging, water proof, built in microphone,
    foldable design, deep bass, touch control, low latency, stereo sound, hands free, carrying
    case""",
    "battery life, warranty",
)
_PHONE = _aisle(
    "Electronics/Phone Accessories",
    """fast charging, tempered glass, drop protection, braided nylon, magnetic, overcharge safe,
    ultra thin, kickstand, screen friendly, pass through, heavy duty, led display""",
    "warranty",
)
_SMART = _aisle(
    "Electronics/Smart Home",
    """night vision, motion detection, two way audio, dimmable, voice control, energy efficient,
    plug and play, easy install, weatherproof, app controlled, auto shut off, memory function""",
    "warranty",
)
_BEDDING = _aisle(
    "Home/Bedding",
    """hypoallergenic, cooling, wrinkle resistant, deep pocket, super soft, egyptian
    cotton, reversible, pilling free, oeko tex certified, weighted, quilted, pet friendly""",
    "material, care",
)
_KITCHEN = _aisle(
    "Home/Kitchen",
    """dishwasher safe, bpa free, stainless steel, oven safe, leak proof, double wall insulated, non
    stick, induction ready, ergonomic handle, rust proof, easy clean, space saving""",
    "warranty, care",
)
_FURNITURE = _aisle(
    "Home/Furniture",
    """easy assembly, solid wood, lumbar support, height adjustable, metal frame, anti tip, storage
    drawer, eco friendly, scratch resistant, faux leather, mid century, swivel base""",
    "assembly time, warranty",
)
_DECOR = _aisle(
    "Home/Decor",
    """blackout, fade resistant, hand woven, thermal insulated, rod pocket, stain resistant,
    low pile, washable, rubber backing, noise reducing, boho, kid safe""",
    "material, care",
)
_CAMP = _aisle(
    "Outdoor/Camping",
    """waterproof, easy setup, uv protection, compact, tear resistant, rechargeable,
    mosquito net, insulated, wind resistant, machine wash safe, glow in the dark, carry bag""",
    "season, warranty",
)
_GARDEN = _aisle(
    "Outdoor/Garden",
    """kink free, drainage holes, frost resistant, self watering, brass fittings,
    drought proof, lightweight, hand painted, uv stable, no leak, retractable, child safe""",
    "material",
)
_SNACKS = _aisle(
    "Grocery/Snacks",
    """gluten free, non gmo, high protein, low sugar, dairy free, keto, individually
    wrapped, kosher, nut free, whole grain, artificial color free, resealable""",
    "shelf life",
)
_DRINKS = _aisle(
    "Grocery/Drinks",
    """caffeine free, usda organic, fair trade, single origin, sugar free, loose leaf,
    dark roast, cold brew, antioxidant rich, low acid, shade grown, compostable pods""",
    "shelf life",
)


def _kind(name: str, nouns: str, aisle: Aisle, low: float, high: float, axes: str) -> Kind:
    return Kind(name, tuple(nouns.split()), aisle, low, high, tuple(axes.split()))


KINDS: tuple[Kind, ...] = (
    _kind("running shoes", "shoes", _SHOES, 35, 140, "colour shoes"),
    _kind("hiking boots", "boots", _SHOES, 50, 190, "colour shoes"),
    _kind("slip on sandals", "sandals", _SHOES, 15, 70, "colour shoes"),
    _kind("t-shirt", "shirt", _TOPS, 10, 40, "colour clothes style"),
    _kind("pullover hoodie", "pullover hoodie", _TOPS, 22, 80, "colour clothes"),
    _kind("knit sweater", "sweater", _TOPS, 25, 95, "colour clothes pattern"),
    _kind("denim jeans", "denim jeans", _BOTTOMS, 25, 110, "clothes style"),
    _kind("yoga leggings", "yoga leggings", _BOTTOMS, 14, 65, "colour clothes"),
    _kind("cargo shorts", "cargo shorts", _BOTTOMS, 16, 60, "colour clothes"),
    _kind("travel backpack", "travel backpack", _BAGS, 28, 130, "colour"),
    _kind("crossbody purse", "purse", _BAGS, 18, 90, "colour pattern"),
    _kind("daily shampoo", "shampoo", _HAIR, 7, 35, "scent bottle"),
    _kind("hair mask", "hair mask", _HAIR, 9, 45, "scent pack"),
    _kind("face cream", "face cream", _SKIN, 10, 70, "scent bottle"),
    _kind("body lotion", "body lotion", _SKIN, 7, 38, "scent bottle"),
    _kind("mineral sunscreen", "sunscreen", _SKIN, 9, 42, "bottle pack"),
    _kind("over ear headphones", "ear headphones", _AUDIO, 30, 260, "colour"),
    _kind("portable speaker", "speaker", _AUDIO, 22, 180, "colour style"),
    _kind("wireless earbuds", "earbuds", _AUDIO, 18, 150, "colour"),
    _kind("phone case", "phone case", _PHONE, 8, 45, "colour model"),
    _kind("charging cable", "cable", _PHONE, 6, 30, "colour length"),
    _kind("power bank", "power bank", _PHONE, 16, 85, "colour"),
    _kind("security camera", "security camera", _SMART, 25, 190, "colour pack"),
    _kind("desk lamp", "desk lamp", _SMART, 18, 95, "colour finish"),
    _kind("bed sheet set", "bed sheet set", _BEDDING, 22, 130, "colour bed"),
    _kind("throw blanket", "blanket", _BEDDING, 15, 80, "colour pattern"),
    _kind("memory pillow", "memory pillow", _BEDDING, 18, 75, "bed pack"),
    _kind("frying pan", "pan", _KITCHEN, 16, 95, "colour finish"),
    _kind("coffee maker", "coffee maker", _KITCHEN, 28, 230, "colour style"),
    _kind("water bottle", "water bottle", _KITCHEN, 10, 48, "colour bottle"),
    _kind("office chair", "office chair", _FURNITURE, 70, 420, "colour style"),
    _kind("narrow bookshelf", "bookshelf", _FURNITURE, 45, 260, "finish style"),
    _kind("bedside nightstand", "bedside nightstand", _FURNITURE, 38, 220, "finish colour"),
    _kind("area rug", "area rug", _DECOR, 24, 310, "pattern rug"),
    _kind("window curtains", "window curtains", _DECOR, 16, 85, "colour pattern"),
    _kind("camping tent", "tent", _CAMP, 45, 340, "colour style"),
    _kind("sleeping bag", "bag", _CAMP, 24, 180, "colour length"),
    _kind("camping lantern", "lantern", _CAMP, 12, 60, "colour pack"),
    _kind("garden hose", "garden hose", _GARDEN, 18, 90, "colour length"),
    _kind("flower planter", "flower planter", _GARDEN, 12, 85, "colour finish"),
    _kind("granola bars", "granola bars", _SNACKS, 5, 32, "flavour pack"),
    _kind("trail mix", "trail mix", _SNACKS, 6, 36, "flavour pack"),
    _kind("green tea", "tea", _DRINKS, 5, 34, "flavour pack"),
    _kind("ground coffee", "ground coffee", _DRINKS, 8, 42, "flavour pack"),
)

SYLLABLES = (
    "Vel Nor Ka Tru Mor Zen Al Bri Cor Del Fen Gal Hel Ivo Jun Lum Mar Nim Ost Pel Quo Ril Sol"
    " Tam Ul".split(),
    "da vi no ra lo mi sta ven tri ka so ne".split(),
    "ro vo ra lix nia tek mor wen ly qua".split(),
)
"""Brands are made of one of each: 3,000 invented names."""
