"""What a listener refuses reaches whoever asked as a sentence, also where the listener has no message box for it.

Gradio (6.31) tells a browser or a program the text of its own `gr.Error` alone; of other exceptions it says "Error".
"""

from typing import Any

import gradio as gr

from playground.errors import PlaygroundError, problem
from playground.i18n import translate
from playground.ui.bounds import refuse_in_words


def answer_in_sentences(app: gr.Blocks, lang: str) -> None:
    """Turn a listener's PlaygroundError into a `gr.Error` in the language of its page. lang: of the first page.

    So too what a component says of a value that no browser sends.
    """
    refuse_in_words(app)
    call, prepare = app.call_function, app.preprocess_data

    async def call_function(block_fn: Any, *args: Any, **named: Any) -> Any:
        try:
            return await call(block_fn, *args, **named)
        except PlaygroundError as error:
            page = getattr(app.fns[block_fn] if isinstance(block_fn, int) else block_fn, "page", "")
            raise _shown(error, page or lang) from None

    async def preprocess_data(block_fn: Any, inputs: list, *args: Any, **named: Any) -> Any:
        try:
            return await prepare(block_fn, inputs, *args, **named)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            refused = error.__cause__  # what the component itself said
            detail = problem("request.value", field="data", value=str(error)[:100])
            if isinstance(refused, PlaygroundError):
                detail = refused
            raise _shown(detail, block_fn.page or lang) from None

    app.preprocess_data = preprocess_data  # type: ignore[method-assign]
    app.call_function = call_function  # type: ignore[method-assign]


def _shown(error: PlaygroundError, lang: str) -> gr.Error:
    """The error as the page shows it in a corner."""
    return gr.Error(error.text(lang), title=translate(lang, "app.error"), print_exception=False)
