"""The page's header: title, the other language, and Present, for the last row of a hall.

Its script also names the document: Gradio gives every page the first one's title, and English.
"""

from html import escape

import gradio as gr

from playground import ASSETS
from playground.ui.page import Page

TEMPLATE = """
<header class="top">
  <div><h1>{title}</h1><p>{lead}</p></div>
  <nav>
    <button type="button" class="present" aria-pressed="false" title="{present_info}">{present}</button>
    <a class="language" href="{path}" lang="{lang}" hreflang="{lang}">{link}</a>
  </nav>
</header>
"""


def build(page: Page, other_path: str) -> gr.HTML:
    """The header's component. other_path: address of the page in the other language."""
    texts = {
        "title": page.translate("app.title"),
        "lead": page.translate("app.lead" if page.private else "app.lead_shared"),
        "present": page.translate("app.present"),
        "present_info": page.translate("app.present.info"),
        "link": page.translate("app.other"),
        "path": other_path,
        "lang": "en" if page.lang == "ja" else "ja",
    }
    return gr.HTML(
        TEMPLATE.format(**{name: escape(text) for name, text in texts.items()}),
        js_on_load=(ASSETS / "header.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        title=page.translate("app.title"),
        lang=page.lang,
    )
