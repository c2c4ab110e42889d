"""What a ticket opens, and for how long."""

import pytest

from agentscope_supervisor.web.access.tickets import TICKET_LASTS, Tickets

RUN, OTHER = "a" * 32, "b" * 32
NOW = 1000.5


def test_a_ticket_opens_its_run_until_it_expires() -> None:
    tickets = Tickets(b"key")
    ticket = tickets.issue(RUN, NOW)
    assert tickets.is_valid(ticket, RUN, NOW)
    assert tickets.is_valid(ticket, RUN, NOW + TICKET_LASTS)
    assert not tickets.is_valid(ticket, RUN, NOW + TICKET_LASTS + 1)
    assert not tickets.is_valid(ticket, OTHER, NOW)
    assert not Tickets(b"another key").is_valid(ticket, RUN, NOW)


@pytest.mark.parametrize("change", ["", "x", "1-", "-", "{0}x", "1{0}", "{0}\n", "٣-{1}", "9999999999-{1}"])
def test_a_changed_ticket_opens_nothing(change: str) -> None:
    tickets = Tickets(b"key")
    ticket = tickets.issue(RUN, NOW)
    assert not tickets.is_valid(change.format(ticket, ticket.partition("-")[2]), RUN, NOW)
