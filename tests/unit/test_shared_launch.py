"""How the page is opened to others: a public link is never Gradio's decision, and followers leave threads to others."""

import sys
import types

import gradio.utils
import pytest

import app
from playground.ui import launch


@pytest.mark.parametrize(
    "flags,environment,share,private",
    [
        ([], {}, False, True),
        ([], {"COLAB_RELEASE_TAG": "1", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, False, True),
        (["--share"], {}, True, False),
        ([], {"GRADIO_SHARE": "True"}, True, False),
        ([], {"GRADIO_SHARE": "no"}, False, True),
        ([], {"SPACE_ID": "a/b"}, False, False),
    ],
)
def test_the_page_knows_whether_it_gets_a_public_link(monkeypatch, flags, environment, share, private):
    for name in ("GRADIO_SHARE", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gradio.utils, "colab_check", lambda: True)
    launched, built = {}, []

    class Launched(Exception):
        pass

    def start(**options):
        launched.update(options)
        raise Launched

    def build_app(root, lang, is_private, steps):
        built.append(is_private)
        return types.SimpleNamespace(shared=None, launch=start, close=lambda: None)

    monkeypatch.setattr(app, "build_app", build_app)
    monkeypatch.setattr(app, "ending_in_order", lambda app: pytest.MonkeyPatch.context())
    monkeypatch.setattr(sys, "argv", ["app.py", *flags])
    with pytest.raises(Launched):
        app.main()
    assert launched["share"] is share and built == [private]
    assert launched["max_threads"] == launch.MAX_THREADS >= 200
