"""shopping/webshop-v0: WebShop's text mode, in which only the purchase is scored::

    env = turnrl.make("shopping/webshop-v0", products=1000)
    text, info = env.reset(options={"task": env.tasks("test")[0]})
    text, reward, terminated, truncated, info = env.step("search[water resistant travel backpack]")

Pages, actions and reward are upstream's; `docs/environments/shopping.md` says what differs. The
products are generated unless `data` names a folder with WebShop's files: only then may results be
called WebShop's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..task import Split, Task
from ..tools import tool
from . import pages
from .plan import DISCOUNT, Plan
from .product import Product, ShoppingGoal, typed
from .reward import score
from .settings import WebShopSettings
from .shop import Shop, shop_for

_SPECIAL = frozenset({"<r>", "<a>", "<c>", "<q>"})
"""Words that upstream runs as commands: random products, or all of an attribute, a category or a
query.
"""


@dataclass(frozen=True)
class _Page:
    """The page that the customer is on."""

    kind: Literal["search", "results", "item", "sub"] = "search"
    hits: tuple[str, ...] = ()
    number: int = 1
    """Of the results page, from 1."""
    asin: str = ""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Axis -> value."""
    sub: str = ""


class WebShopEnv(TextEnv):
    """Buy what the instruction asks for.

    Raises UserError for files that are missing or malformed.
    """

    Settings = WebShopSettings
    settings: WebShopSettings
    instructions = (
        "You are shopping online. Find and buy what the instruction asks for: the right product,"
        " attributes and options, within the price.\nAnswer with one action per"
        " turn:\nsearch[keywords] - on the search page\nclick[value] - a button, a product's code"
        " or an option shown on the page\nChoose every option you need before click[buy now]: it"
        " ends the episode."
    )
    grammar = pages.GRAMMAR
    tools = [  # noqa: RUF012
        tool("search", "Search the shop; only on the search page.", keywords="what to look for"),
        tool(
            "click",
            "Click a button, a product's code or an option of the page.",
            value="what to click",
        ),
    ]

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make the catalogue and the index, if they are not there."""
        shop_for(self.settings, progress).index(progress)

    @property
    def codes(self) -> Sequence[str]:
        """List the ids of all products."""
        return tuple(shop_for(self.settings).products)

    def _tasks(self, split: Split) -> Sequence[Task]:
        return self.seeded(shop_for(self.settings).splits[split], split)

    def _begin(self, task: Task) -> Outcome:
        self._playing = self.settings.of_task(task)
        self._shop: Shop = shop_for(self._playing)
        if task.seed >= len(self._shop.goals):
            raise UserError(
                f"task '{task.id}': this shop has {len(self._shop.goals)} goals, counted from 0"
            )
        self._goal: ShoppingGoal = self._shop.goals[task.seed]
        self._plan: Plan = self._shop.plan(task.seed)
        self._page = _Page()
        return self._show()

    def _act(self, action: str) -> Outcome:
        kind, argument = pages.parse(action)
        if kind == "search" and (self._page.kind == "search" or not self._playing.strict):
            words = " ".join(word for word in argument.split(" ") if word not in _SPECIAL)
            self._page = _Page("results", self._shop.search(words))
            return self._show()
        clickable = self._clickables()
        if kind != "click" or argument not in clickable:
            return self._show(valid=False)
        if argument == pages.BUY.lower():
            return self._buy()
        self._page = self._follow(argument, clickable[argument])
        return self._show()

    def _follow(self, value: str, option: tuple[str, str] | None) -> _Page:
        """Turn to the page behind a clickable.

        A button is found before an option of the same name, as upstream does.
        """
        page = self._page
        subs = {name.lower(): name for name in pages.SUB_PAGES}
        if value == pages.BACK.lower():
            return _Page()
        if page.kind == "results" and value in (pages.NEXT.lower(), pages.PREVIOUS.lower()):
            return replace(page, number=page.number + (1 if value == pages.NEXT.lower() else -1))
        if page.kind == "results":
            return replace(
                page, kind="item", asin=next(asin for asin in page.hits if asin.lower() == value)
            )
        if value == pages.PREVIOUS.lower():
            return (
                replace(page, kind="item")
                if page.kind == "sub"
                else _Page("results", page.hits, page.number)
            )
        if value in subs:
            return replace(page, kind="sub", sub=subs[value])
        assert option is not None
        return replace(page, chosen={**page.chosen, option[0]: option[1]})

    def _clickables(self) -> dict[str, tuple[str, str] | None]:
        """List what can be clicked on this page, in lower case; options with axis and value."""
        page = self._page
        if page.kind == "search":
            return {}
        found: dict[str, tuple[str, str] | None] = {pages.BACK.lower(): None}
        if page.kind != "results" or page.number > 1:
            found[pages.PREVIOUS.lower()] = None
        if page.kind == "results":
            found[pages.NEXT.lower()] = None
            found.update((product.asin.lower(), None) for product in self._listed())
        if page.kind == "item":
            links = pages.SUB_PAGES if self._playing.attributes else pages.SUB_PAGES[:3]
            found.update((name.lower(), None) for name in (*links, pages.BUY))
            for axis, values in self._item.options.items():
                found.update((value, (axis, value)) for value in values)
        return found

    def _listed(self) -> list[Product]:
        start = (self._page.number - 1) * pages.PER_PAGE
        return [
            self._shop.products[asin] for asin in self._page.hits[start : start + pages.PER_PAGE]
        ]

    @property
    def _item(self) -> Product:
        return self._shop.products[self._page.asin]

    def _buy(self) -> Outcome:
        reward = score(self._item, self._goal, self._page.chosen).total
        return Outcome(
            pages.done_page(self._page.asin, self._page.chosen, reward),
            reward=reward,
            ended=True,
            success=reward == 1,
            score=reward,
            progress=reward,
            admissible=[],
        )

    def _show(self, valid: bool = True) -> Outcome:
        page, wish = self._page, self._goal.instruction
        if page.kind == "search":
            text = pages.search_page(wish)
        elif page.kind == "results":
            text = pages.results_page(wish, self._listed(), page.number, len(page.hits))
        elif page.kind == "item":
            text = pages.item_page(wish, self._item, self._playing.attributes)
        else:
            text = pages.sub_page(wish, self._item, page.sub)
        return Outcome(
            text, valid=valid, admissible=self._admissible, score=0.0, progress=self._progress
        )

    def _admissible(self) -> list[str]:
        if self._page.kind == "search":
            return [f"search[{self._goal.plain}]"]
        return [f"click[{value}]" for value in self._clickables() if pages.can_click(value)]

    def _progress(self) -> float:
        """Compute the value of the best purchase within reach; on the search page nothing is."""
        page = self._page
        if page.kind == "search":
            return 0.0
        products = [self._shop.products[asin] for asin in page.hits]
        away = {"results": 1, "item": 2, "sub": 3}[page.kind]
        clicks = [
            abs(place // pages.PER_PAGE + 1 - page.number) + away for place in range(len(products))
        ]
        values = [
            self._plan.opened(p).value * DISCOUNT**n for p, n in zip(products, clicks, strict=True)
        ]
        if page.kind != "results":
            here = self._plan.buy(self._item, page.chosen).value
            values.append(here * (DISCOUNT if page.kind == "sub" else 1))
        return max(values, default=0.0)

    def expert_action(self) -> str | None:
        """Choose the next step to the first hit that is worth 1: search, turn pages, choose, buy.

        None where there is no such hit.
        """
        if self.current is None or self._over:
            return None
        page = self._page
        if page.kind == "search":
            searches = [*self._goal.searches, typed(self._shop.products[self._goal.asin].title)]
            return next(
                (f"search[{words}]" for words in searches if self._good(self._shop.search(words))),
                None,
            )
        if page.kind == "item" and self._plan.pleases(self._item):
            clicks = self._plan.buy(self._item, page.chosen).clicks
            return f"click[{clicks[0] if clicks else pages.BUY.lower()}]"
        good = self._good(page.hits)
        if page.kind == "sub" or (page.kind == "item" and good):
            return f"click[{pages.PREVIOUS.lower()}]"
        if good is None:
            return f"click[{pages.BACK.lower()}]"
        wanted = page.hits.index(good) // pages.PER_PAGE + 1
        turn = pages.NEXT if wanted > page.number else pages.PREVIOUS
        return f"click[{good if wanted == page.number else turn.lower()}]"

    def _good(self, hits: Sequence[str]) -> str | None:
        return next((asin for asin in hits if self._plan.pleases(self._shop.products[asin])), None)
