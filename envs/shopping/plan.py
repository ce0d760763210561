"""Plan: the best purchase within reach, what it is worth from here, and the clicks to it.

A purchase is discounted by 0.97 per click that is still needed, the last one included, so the value
rises with every step towards the best one, falls on steps away from it, and is below 1 until
something worth 1 is bought::

    Plan(goal).buy(product, chosen={"size": "7"})     # Purchase(value=0.94..., clicks=("teal",))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .pages import BACK, BUY, PREVIOUS, SUB_PAGES, can_click
from .product import Product, ShoppingGoal
from .reward import Score, alike, colour, score, wanted_options

DISCOUNT = 0.97
_BUTTONS = {name.lower() for name in (BACK, BUY, PREVIOUS, *SUB_PAGES)}
"""On a product's page they hide options of the same name."""


@dataclass(frozen=True)
class Purchase:
    """The best that can be bought on a product's page."""

    value: float
    """Reward, discounted per click, buying included."""
    reward: float
    clicks: tuple[str, ...]
    """Options to click before buying."""


@dataclass(frozen=True)
class _Facts:
    """A product under the goal: its reward without options, and which wishes each option value
    meets, as bits.
    """

    bare: Score
    masks: Mapping[str, Sequence[tuple[str, int]]]


class Plan:
    """Purchases for one goal; facts about a product are worked out once."""

    def __init__(self, goal: ShoppingGoal) -> None:
        self._goal = goal
        self._wanted = wanted_options(goal)
        self._exact = set(
            goal.options.values() if isinstance(goal.options, Mapping) else goal.options
        )
        self._facts: dict[str, _Facts] = {}
        self._opened: dict[str, Purchase] = {}

    def buy(self, product: Product, chosen: Mapping[str, str]) -> Purchase:
        """Find the best purchase from a product's page on which options are chosen already.

        `chosen` maps axes to the chosen values.
        """
        facts = self._of(product)
        # Axis by axis, the fewest clicks for every set of wishes that can be met together: trying
        # all combinations of options would grow with their product.
        reached: dict[int, tuple[str, ...]] = {0: ()}
        for axis, values in facts.masks.items():
            kept = next((mask for value, mask in values if value == chosen.get(axis)), 0)
            step: dict[int, tuple[str, ...]] = {}
            for mask, clicks in reached.items():
                for value, more in [("", kept), *values]:
                    longer = (*clicks, value) if value else clicks
                    if mask | more not in step or len(longer) < len(step[mask | more]):
                        step[mask | more] = longer
            reached = step
        return max(
            (self._purchase(facts.bare, mask, clicks) for mask, clicks in reached.items()),
            key=lambda purchase: purchase.value,
        )

    def opened(self, product: Product) -> Purchase:
        """Find the best purchase from a product's page with nothing chosen yet."""
        if product.asin not in self._opened:
            self._opened[product.asin] = self.buy(product, {})
        return self._opened[product.asin]

    def pleases(self, product: Product) -> bool:
        """Tell whether a product can be bought for a reward of 1 with none but wanted options."""
        purchase = self.opened(product)
        return purchase.reward == 1 and self._exact.issuperset(purchase.clicks)

    def _purchase(self, bare: Score, mask: int, clicks: tuple[str, ...]) -> Purchase:
        reward = replace(bare, options=mask.bit_count()).total
        return Purchase(reward * DISCOUNT ** (len(clicks) + 1), reward, clicks)

    def _of(self, product: Product) -> _Facts:
        if product.asin not in self._facts:
            axis_of = {value: axis for axis, values in product.options.items() for value in values}
            masks: dict[str, list[tuple[str, int]]] = {}
            # What is exactly asked for comes first: of equally short plans the first is taken.
            for value, axis in sorted(axis_of.items(), key=lambda pair: pair[0] not in self._exact):
                if value in _BUTTONS or not can_click(value):
                    continue
                mask = sum(
                    1 << i for i, wish in enumerate(self._wanted) if alike(colour(value), wish)
                )
                if mask:
                    masks.setdefault(axis, []).append((value, mask))
            self._facts[product.asin] = _Facts(score(product, self._goal, {}), masks)
        return self._facts[product.asin]
