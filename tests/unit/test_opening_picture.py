"""The opening picture's middleware: HEAD requests for a page are answered without making it, all others pass."""

from starlette.responses import HTMLResponse
from starlette.testclient import TestClient

from playground.i18n import translate
from playground.ui.opening import FORM_STYLE, OpeningPicture, insert


def test_a_head_request_is_answered_at_once_and_a_page_gets_the_picture():
    asked = []

    async def page(scope, receive, send):
        asked.append((scope["method"], scope["path"]))
        await HTMLResponse("<html><body class='a'><p>page</p></body></html>")(scope, receive, send)

    client = TestClient(OpeningPicture(page, first="en"))
    for path in ("/", "/ja", "/ja/"):
        head = client.head(path)
        assert head.status_code == 200 and not head.content and not asked
    assert translate("ja", "opening.wait") in client.get("/ja").text
    assert client.head("/other").status_code == 200 and asked == [("GET", "/ja"), ("HEAD", "/other")]


def test_a_document_that_asks_who_opens_it_gets_no_picture():
    document = b'<html><body><script>window.gradio_config = {"auth_required":%s};</script></body></html>'
    assert insert(document % b"true", b"<p>") == (document % b"true").replace(b"<body>", b"<body>" + FORM_STYLE)
    assert b"<body><p>" in insert(document % b"false", b"<p>")
