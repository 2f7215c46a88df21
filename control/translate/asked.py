"""What is made for one proxy and holds for others: for all those that give the same answers.

Which they are is not declared anywhere, it is seen: what makes it looks at the proxy through :class:`Asked`, which
notes each question. Nothing else of the proxy can have had a part in it.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from pymesh.control.translate.proxy import Proxy

T = TypeVar("T")
#: A field or property of a proxy; of its labels, the name of one.
Question = tuple[str, str]


def answer(proxy: Proxy, question: Question) -> Any:
    """What a proxy says; None for a label that it does not have."""
    field, label = question
    return proxy.labels.get(label) if label else getattr(proxy, field)


class Asked:
    """A proxy that notes what it is asked; :meth:`of` makes one that goes wherever proxies go."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.questions: dict[Question, None] = {}
        self.labels = _Labels(proxy.labels, self.questions)

    @staticmethod
    def of(proxy: Proxy) -> Proxy:
        """The proxy, which notes from now on what it is asked."""
        return cast(Proxy, Asked(proxy))

    @staticmethod
    def again(proxy: Proxy) -> Proxy:
        """The same proxy, which was asked nothing so far."""
        noting = _noting(proxy)
        return Asked.of(noting._proxy if noting else proxy)

    def __getattr__(self, name: str) -> Any:
        self.questions[name, ""] = None
        return getattr(self._proxy, name)


class Alike(Generic[T]):
    """What was made, by the answers of those that it was made for. It is there for as long as one of them holds it:
    proxies come with answers that nobody can check, and what they leave behind would fill the memory.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Question, ...], WeakValueDictionary[tuple[Any, ...], T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._made.values()))

    def find(self, proxy: Proxy) -> T | None:
        """What was made for a proxy like this one. One that notes questions notes those that this depends on."""
        noting = _noting(proxy)
        silent = noting._proxy if noting else proxy
        for questions, made in self._made.items():
            found = made.get(tuple(answer(silent, one) for one in questions))
            if found is not None:
                if noting:
                    noting.questions.update(dict.fromkeys(questions))
                return found
        return None

    def add(self, proxy: Proxy, made: T) -> T:
        """Let what was made for a proxy that noted what it was asked meanwhile be found; the answer is to be held."""
        noting = _noting(proxy)
        if noting is None:
            raise TypeError("nobody knows what this proxy was asked")
        return self.put(noting._proxy, tuple(noting.questions), made)

    def put(self, proxy: Proxy, questions: tuple[Question, ...], made: T) -> T:
        """The same, for what depends on these questions."""
        answers = tuple(answer(proxy, one) for one in questions)
        known = self._made.get(questions)
        if known is None:
            known = self._made[questions] = WeakValueDictionary()
        return known.setdefault(answers, made)


def questions(proxy: Proxy) -> dict[Question, None]:
    """What was asked so far of a proxy that notes it."""
    noting = _noting(proxy)
    if noting is None:
        raise TypeError("nobody knows what this proxy was asked")
    return noting.questions


def _noting(proxy: object) -> Asked | None:
    return proxy if isinstance(proxy, Asked) else None


class _Labels(Mapping[str, str]):
    """Labels of which each one that somebody asks for is a question of its own."""

    def __init__(self, labels: Mapping[str, str], questions: dict[Question, None]) -> None:
        self._labels = labels
        self._questions = questions

    def __getitem__(self, name: str) -> str:
        self._questions["labels", name] = None
        return self._labels[name]

    def __iter__(self) -> Iterator[str]:
        raise TypeError("who looks at all labels can have nothing in common with others")

    def __len__(self) -> int:
        raise TypeError("how many labels there are is nobody's business")

    def __bool__(self) -> bool:
        raise TypeError("whether there are labels is nobody's business")

    def items(self) -> ItemsView[str, str]:
        return _Items(self)


class _Items(ItemsView[str, str]):
    """For ``selector.items() <= labels.items()``: each label of the selector is asked for."""

    def __len__(self) -> int:
        return 1 << 30
