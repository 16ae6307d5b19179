"""A private page answers only under its own names, and to no other web site."""

import httpx
import pytest
from run_async import run_async
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.ui.host_check import HostCheck, host_name, own_names
from playground.ui.request_headers import Refused
from playground.ui.visitor_files import VisitorFiles

PAGE = Starlette(routes=[Route("/", lambda request: PlainTextResponse("page"), methods=["GET", "POST"])])


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(HostCheck(PAGE, ["proxy.example"]))


def answer(client: TestClient, host: str, method: str = "GET", **headers: str) -> httpx.Response:
    return client.request(method, "/", headers={"host": host, **headers})


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.1.5", "LOCALHOST.", "proxy.example",
     "x.localhost", *sorted(own_names())],
)  # fmt: skip
def test_the_machines_own_names_and_addresses_are_answered(client, host):
    assert answer(client, host).text == "page"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "", "0x7f000001",
     "evil.example#localhost", "[evil.example]"],
)  # fmt: skip
def test_a_site_whose_name_leads_here_is_refused_with_what_to_do(client, host):
    refused = answer(client, host)
    assert refused.status_code == 403 and "--allow-host" in refused.text and host_name(host) in refused.text


@pytest.mark.parametrize("names", [["proxy.example"], None])
def test_another_sites_script_sends_nothing(names):
    page = TestClient(HostCheck(PAGE, names))
    for site in ("cross-site", "same-site"):  # the latter from another port of this machine too
        refused = answer(page, "localhost:7860", "POST", **{"sec-fetch-site": site, "origin": "http://evil.example"})
        assert refused.status_code == 403 and "http://evil.example" in refused.text
    assert answer(page, "localhost", "GET", **{"sec-fetch-site": "cross-site"}).status_code == 200  # a link to it
    assert answer(page, "localhost", "POST", **{"sec-fetch-site": "same-origin"}).status_code == 200
    assert answer(page, "localhost", "POST").status_code == 200  # a program


@pytest.mark.parametrize(
    "host,origin,status",
    [
        ("192.168.1.5:7860", "http://192.168.1.5:7860", 200),
        ("localhost:7860", "http://LOCALHOST:7860", 200),
        ("192.168.1.5:7860", "http://192.168.1.5:8888", 403),  # where the browser says nothing else
        ("localhost:7860", "null", 403),
        ("localhost:7860", "http://evil.example", 403),
        ("localhost:7860", "https://proxy.example", 200),  # a proxy's name, which was given
    ],
)
def test_a_call_comes_from_the_page_that_it_is_for(client, host, origin, status):
    assert answer(client, host, "POST", origin=origin).status_code == status
    assert answer(client, host, "GET", origin=origin).status_code == 200


def test_whoever_has_logged_in_is_known_by_that_name_and_not_by_the_cookie():
    from types import SimpleNamespace

    from gradio.routes import App

    from playground.ui.visitors import logged_in_as, visitor_id

    app = App()
    assert isinstance(app.tokens, dict) and isinstance(app.cookie_id, str), "Gradio keeps logins elsewhere now"
    known = SimpleNamespace(tokens={"t1": "ada"}, cookie_id="x")
    for name in ("access-token-x", "access-token-unsecure-x"):
        assert logged_in_as({"app": known}, {name: "t1"}) == "auth:ada"
    assert logged_in_as({"app": known}, {"access-token-x": "t2"}) == "" == logged_in_as({}, {})
    session = {"oauth_info": {"userinfo": {"sub": "123", "preferred_username": "ada"}}}
    assert logged_in_as({"app": known, "session": session}, {"access-token-x": "t1"}) == "oauth:123"
    assert len({visitor_id("user", "oauth:ada"), visitor_id("user", "auth:ada"), visitor_id("cookie", "ada")}) == 3


def test_visitors_upload_no_more_than_the_limit_and_all_together_ten_times_that():
    files = VisitorFiles([], 100)
    assert upload(files, "ada", 30, 30) == 60
    assert not files.has_room("ada", "41") and files.has_room("ada", "40") and upload(files, "ada", 30, 10, 10) == 40
    for wrong in ("", "-1", "many", "9" * 5000):
        assert not files.has_room("bob", wrong)
    assert all(upload(files, f"visitor {number}", 100) for number in range(9))
    assert not files.has_room("one more", "1") and upload(files, "one more", 1) == 0


def test_an_upload_that_never_comes_takes_nobodys_room():
    files = VisitorFiles([], 100)
    for number in range(30):
        assert files.has_room(f"visitor {number}", "100")  # claimed in a header, and then nothing
        assert upload(files, f"visitor {number}", b"") == 0
    assert upload(files, "ada", 100) == 100


def upload(files: VisitorFiles, visitor: str, *parts: int | bytes) -> int:
    """Bytes of an upload's parts that were taken before it was refused."""
    messages = iter([{"type": "http.request", "body": bytes(part), "more_body": True} for part in parts])

    async def receive():
        return next(messages)

    async def read() -> int:
        taken, counting = 0, files.counting(visitor, receive)
        try:
            for _ in parts:
                taken += len((await counting())["body"])
        except Refused as refused:
            assert refused.status == 413
        return taken

    return run_async(read())
