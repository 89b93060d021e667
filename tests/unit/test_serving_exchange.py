"""What the model says to Triton about one request; the Triton of the test notices calls that are too late."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cascade_models.serving.exchange import RequestExchange
from support.waiting import PATIENCE_S


class Account:
    """Everything that was asked and told, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.gone = False

    def exchange(self) -> RequestExchange:
        return RequestExchange(self.ask, self.tell, lambda: self.said.append("settled"))

    def ask(self) -> bool:
        self.said.append("asked")
        return self.gone

    def tell(self, response: Any, last: bool) -> None:
        self.said.append((response, last))


def test_triton_is_asked_while_the_batch_is_made_and_not_again_once_it_has_said_yes() -> None:
    account = Account()
    exchange = account.exchange()
    assert not exchange.cancelled()
    account.gone = True
    assert exchange.cancelled()
    assert exchange.cancelled()
    assert account.said == ["settled", "asked"] * 2


@pytest.mark.parametrize("gone", [False, True])
def test_once_answered_what_was_known_last_stands_and_triton_is_not_asked(gone: bool) -> None:
    account = Account()
    exchange = account.exchange()
    account.gone = gone
    exchange.cancelled()
    exchange.answer("image")
    account.gone = not gone
    account.said.clear()
    assert exchange.cancelled() is gone
    assert account.said == []


def test_the_answer_ends_the_asking_and_is_the_only_one() -> None:
    account = Account()
    exchange = account.exchange()
    exchange.answer("image")
    assert not exchange.cancelled()
    with pytest.raises(RuntimeError, match="answered once"):
        exchange.answer("image")
    assert account.said == ["settled", ("image", True)]


def test_previews_come_in_order_before_the_answer_or_not_at_all() -> None:
    account = Account()
    exchange = account.exchange()
    first, second, third = (exchange.number() for _ in range(3))
    exchange.show(second, "half")
    exchange.show(first, "quarter")
    exchange.answer("whole")
    exchange.show(third, "three quarters")
    assert [entry for entry in account.said if entry != "settled"] == [("half", False), ("whole", True)]


def test_who_asks_while_the_answer_is_being_sent_waits_and_asks_nothing() -> None:
    sending, free = threading.Event(), threading.Event()
    account = Account()

    def send(response: Any, last: bool) -> None:
        sending.set()
        assert free.wait(PATIENCE_S)

    exchange = RequestExchange(account.ask, send, lambda: None)
    answering = threading.Thread(target=exchange.answer, args=("image",))
    asking = threading.Thread(target=exchange.cancelled)
    answering.start()
    assert sending.wait(PATIENCE_S)
    asking.start()
    asking.join(0.05)
    assert asking.is_alive()
    free.set()
    asking.join(PATIENCE_S)
    answering.join(PATIENCE_S)
    assert account.said == []
