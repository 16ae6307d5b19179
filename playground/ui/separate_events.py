"""An event of its own for each listener of which only the last call counts: works around a fault of Gradio (6.31).

When such a listener (`trigger_mode="always_last"`, the default for `change`) is called while it runs, Gradio remembers
it, and at its end fires its whole event again. Two of them on one event then wake each other for ever, and the page
stays busy until it is reloaded.
"""

from collections import Counter

import gradio as gr

# Every call gives another number, so that a ticket's value changes each time.
NEXT_NUMBER = "() => (globalThis.ticketNumber = (globalThis.ticketNumber ?? 0) + 1)"


def separate_events(app: gr.Blocks) -> None:
    """Put a hidden component, the ticket, between an event and each listener that shares it: ticket.change calls it.

    To be called within the page, once all its listeners exist; those of other pages that are done already stay.
    """
    waiting = [
        listener
        for listener in app.fns.values()
        if listener.trigger_mode == "always_last" and listener.fn and not listener.collects_event_data
    ]
    callers = Counter(event for listener in waiting for event in listener.targets)
    for listener in waiting:
        if any(callers[event] > 1 for event in listener.targets):
            ticket = gr.Number(visible=False)
            ticket.change(None, None, ticket, js=NEXT_NUMBER, api_visibility="private")
            takes_ticket = list(app.fns.values())[-1]
            takes_ticket.targets, listener.targets = listener.targets, [(ticket._id, "change")]
