"""Question answering with a search engine, over a generated encyclopedia or a corpus of your own::

    env = turnrl.make("search/qa-v0")
    text, info = env.reset(options={"task": env.tasks("test")[0]})  # Question: In which ...
    text, *_ = env.step("search[Drackford]")
    text, *_ = env.step("read[Drackford]")
    text, reward, terminated, truncated, info = env.step("answer[1871]")

The grammar is in `actions`, scoring in `score`, what may be searched in `library` and `retrieve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..sanitise import Grammar, clean
from ..task import SPLITS, Split, Task, seeds_of
from .actions import ARGUMENTS, HELP, LONGEST, TOOLS, SearchAction, canonical, parse
from .library import Library, open_library
from .retrieve import open_retriever
from .retriever import Retriever
from .score import exact_match, f1
from .settings import SearchSettings
from .store import Passage, Question

NUMBERS_PER_SPLIT = 10_000_000
"""The seed of a task is the number of its question, plus this for valid, plus twice this for test.
"""
_READING = """Answer the question. You can search for pages and read them before you answer.
search[words] lists the pages that fit best, read[title] shows one page, answer[text] is your \
final answer, once.
The answer is a name, a year or a few words, written as on the pages: answer[1871]."""


class SearchEnv(TextEnv):
    """A question; search, read, answer. The answer ends the episode; it is right if it matches
    exactly.

    Raises:
        UserError: for files that are missing or malformed, and questions without passages.
        RetrieverError: from `step`, if the retriever fails.
    """

    Settings = SearchSettings
    settings: SearchSettings
    instructions = _READING
    tools = TOOLS
    # Names and titles hold dots, and every word may be searched for.
    grammar = Grammar(chaining=True, deny=frozenset(), max_chars=LONGEST)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.settings.retriever.name == "bm25":
            _import_engine()
        self._playing = self.settings
        """What the task that is played says."""
        self._library: Library | None = None
        self._retriever: Retriever | None = None
        self._question = Question("", ())
        self._seen: list[int] = []
        """Supports that came up, in the order in which they did."""
        self._whole: set[int] = set()
        """Those of which nothing was left out."""
        self._listed: dict[Passage, None] = {}
        """Passages that were shown, in their order."""
        self._recent: list[str] = []
        """Titles that the last search or reading showed."""
        self._tried: set[str] = set()

    def prepare(
        self, tasks: Sequence[Task], *, workers: int | None = None, progress: bool = True
    ) -> None:
        """Make or read the questions, and build the index.

        Takes one process, whatever `workers` says.
        """
        from ...foundation.terminal import Terminal

        console = Terminal(stderr=True)
        with (
            console.status("preparing search/qa")
            if progress and console.is_terminal
            else nullcontext()
        ):
            self._open()
            self._index()

    def expert_action(self) -> str | None:
        """Choose the next action of an expert that knows the chain of pages.

        It searches for the next page, reads it if some of it was left out, and answers when all
        were seen. Where no chain is known the question itself is searched for. None if no gold
        answer can be said in an action.
        """
        plan = [] if self._over else self._sayable(self._plan())
        return next((action for action in plan if action not in self._tried), None)

    def _plan(self) -> list[SearchAction]:
        question, plan = self._question, list[SearchAction]()
        for index, support in enumerate(question.supports):
            if index not in self._whole:
                plan.append(SearchAction("search", support.title))
                plan += [SearchAction("read", support.title)] if self._find(support.title) else []
        if not question.supports:
            plan.append(SearchAction("search", question.text))
        return plan + [SearchAction("answer", answer) for answer in question.answers]

    def _sayable(self, actions: Sequence[SearchAction]) -> list[str]:
        """Choose the actions that arrive as actions when said, in the words that arrive."""
        said = [clean(str(action), self.grammar)[0] or "" for action in actions]
        return [str(action) for action in map(parse, said) if action is not None]

    # -- the three methods -------------------------------------------------------------------------

    def _tasks(self, split: Split) -> Sequence[Task]:
        numbers = open_library(self.settings).numbers(split, self.settings.hops)
        if not numbers:
            raise UserError(
                f"search/qa: the split '{split}' has no question with hops={self.settings.hops}"
            )
        first = seeds_of(split, 0, NUMBERS_PER_SPLIT).start
        return self.seeded([first + number for number in numbers], split)

    def _begin(self, task: Task) -> Outcome:
        settings = self.settings.of_task(task)
        if settings != self._playing:
            self._playing, self._retriever = settings, None
        place, number = divmod(task.seed, NUMBERS_PER_SPLIT)
        found = self._open().question(SPLITS[place], number) if place < len(SPLITS) else None
        if found is None:
            raise UserError(
                f"search/qa: there is no question for the seed {task.seed}: take tasks from"
                " env.tasks(split)"
            )
        self._question, self._seen, self._whole = found, [], set()
        self._listed, self._recent, self._tried = {}, [], set()
        return self._outcome(f"Question: {found.text}")

    def step(self, action: str) -> tuple[str, float, bool, bool, Any]:
        """Take a step as `TextEnv.step` does, for any of the three forms of an action."""
        return super().step(canonical(action))

    def _act(self, action: str) -> Outcome:
        wanted = parse(action)
        if wanted is None:
            return self._outcome(f"Invalid action: {HELP}.", valid=False)
        self._tried.add(str(wanted))
        if wanted.verb == "answer":
            return self._answer(wanted.text)
        return self._search(wanted.text) if wanted.verb == "search" else self._read(wanted.text)

    # -- search, read, answer ----------------------------------------------------------------------

    def _open(self) -> Library:
        """Return the library as it is now: a file may have changed since the last episode."""
        library = open_library(self._playing)
        if library is not self._library:
            self._library, self._retriever = library, None
        return library

    def _index(self) -> Retriever:
        """Open the retriever at the first search: who only answers needs none."""
        assert self._library is not None
        self._retriever = self._retriever or open_retriever(self._playing, self._library.corpus)
        return self._retriever

    def _search(self, query: str) -> Outcome:
        passages = self._index().search(query, self._playing.topk)
        self._recent = []
        room = self._playing.observation_chars // self._playing.topk
        lines = [
            f"Doc {n}(Title: {p.title}) {self._show(p, room)}" for n, p in enumerate(passages, 1)
        ]
        return self._outcome("\n".join(lines) or "Nothing was found.")

    def _read(self, title: str) -> Outcome:
        passages = self._find(title)
        if not passages:
            return self._outcome(f"Invalid action: there is no page '{title}'.", valid=False)
        self._recent = []
        room = self._playing.observation_chars // len(passages)
        return self._outcome(
            "\n".join([passages[0].title, *(self._show(p, room, read=True) for p in passages)])
        )

    def _answer(self, said: str) -> Outcome:
        right, share = exact_match(said, self._question.answers), f1(said, self._question.answers)
        reward = share if self._playing.reward == "f1" else float(right)
        text = "Your answer is right." if right else "Your answer is wrong."
        return self._outcome(text, reward=reward, ended=True, success=right, score=share)

    def _find(self, title: str) -> list[Passage]:
        """Find passages by title or id; of a corpus elsewhere, those that were listed before."""
        corpus = self._library.corpus if self._library is not None else None
        if corpus is not None:
            return [corpus[row] for row in corpus.find(title)[: self._playing.topk]]
        key = title.casefold()
        return [
            p
            for p in self._listed
            if key in (" ".join(p.title.split()).casefold(), p.id.casefold())
        ]

    def _show(self, passage: Passage, room: int, *, read: bool = False) -> str:
        """Show as much of a passage as there is room for, and note it as seen."""
        cut = len(passage.text) > room
        for index, support in enumerate(self._question.supports):
            if support.is_(passage):
                self._seen += [index] if index not in self._seen else []
                self._whole |= {index} if read or not cut else set()
        self._listed[passage] = None
        self._recent.append(passage.title)
        return passage.text[: room - 4].rstrip() + " ..." if cut else passage.text

    def _outcome(
        self,
        text: str,
        *,
        success: bool = False,
        ended: bool = False,
        score: float = 0.0,
        **more: Any,
    ) -> Outcome:
        """Describe the state: milestones say which support came up, not what it is called."""
        share = len(self._seen) / (len(self._question.supports) + 1)
        return Outcome(
            text,
            success=success,
            ended=ended,
            score=score,
            progress=1.0 if success else share,
            admissible=[] if ended else self._possible,
            answer=list(self._question.answers),
            milestones=[f"support {index + 1}" for index in self._seen] + ["answer"] * success,
            **more,
        )

    def _possible(self) -> list[str]:
        """List what a player without words of its own may do.

        It may search for the question and for titles, read them and answer them.
        """
        titles = dict.fromkeys(self._recent)
        options = [SearchAction("search", self._question.text)]
        options += [SearchAction(verb, title) for title in titles for verb in ARGUMENTS]
        return list(dict.fromkeys(self._sayable(options)))


def _import_engine() -> None:
    """Raise ImportError, which names the extra, before anything is made."""
    import bm25s  # noqa: F401
    import Stemmer  # noqa: F401
