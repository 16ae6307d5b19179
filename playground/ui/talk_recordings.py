"""The figures of talk steps on what was measured: recorded runs beside their predictions, and PEFT's memory table."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from playground import catalog
from playground.i18n import format_bytes, format_duration
from playground.runs.recordings import read_recording
from playground.talk.steps import Step
from playground.ui.talk_bars import Bar, badge, bars

GIB = 2**30
CARD_GIB = 24


def measured_peaks(step: Step, word: Callable) -> str:
    """Peak memory of recorded runs as bars, each with its prediction; those that ran out of memory are hatched."""
    card = step.options.get("card", CARD_GIB)
    listed = [read_recording(name) for name in step.options["recordings"]]
    figure = bars([_bar(events, word) for events in listed], card * GIB, word("talk.card", gib=card))
    sources = "".join(badge(text) for text in dict.fromkeys(_source(events[0], word) for events in listed))
    random = f"<p>{escape(word('talk.random'))}</p>" if any(events[0].get("shape") for events in listed) else ""
    return f"{figure}<p>{escape(word('talk.mark'))}</p>{random}{sources}"


def _source(first: Mapping[str, Any], word: Callable) -> str:
    """When and on what a recording was made, from its first event."""
    hardware = first["hardware"]
    if hardware["device"] == "cuda":
        return word("talk.recorded_gpu", date=first["recorded"], hardware=hardware["name"])
    return word("talk.recorded", date=first["recorded"], hardware=f"{hardware['name']}, {hardware['cores']}")


def _bar(events: list[dict], word: Callable) -> Bar:
    first, last = events[0], events[-1]
    job, load = first["job"], first["settings"]["load"]
    what = first["settings"]["train"]["method"] if job == "tune" else "load"
    name = word(f"talk.job.{what}", bits=load["bits"])
    predicted = [event for event in events if event["kind"] == "memory_predicted"]
    if last["kind"] == "error":
        asked = next((p["values"]["asked_bytes"] for p in last["problems"] if "asked_bytes" in p["values"]), 0)
        used = last["peak"].get("device_used", last["peak"]["rss"])
        return Bar(name, used + asked, word("talk.ran_out"), failed=True)
    peak = last["result"]["peak"]
    mark = predicted[-1].get("device_used", predicted[-1].get("rss", 0)) if predicted else 0
    return Bar(name, peak.get("device_used", peak["rss"]), format_bytes(peak.get("device_used", peak["rss"])), mark)


def cost_table(step: Step, word: Callable) -> str:
    """What recorded runs took: memory and time, and on what, as a table."""
    head = "".join(f'<th scope="col">{escape(word(f"talk.{name}"))}</th>' for name in ("peak", "time", "on"))
    rows = ""
    for name in step.options["recordings"]:
        first, *_, last = read_recording(name)
        load, hardware = first["settings"]["load"], first["hardware"]
        job, model = word(f"chart.job.{first['job']}"), catalog.display_name(load["model"])
        what = word("chart.title", job=job, model=model, bits=load["bits"])
        on = hardware["name"] if hardware["device"] == "cuda" else word("talk.cores", **hardware)
        bytes_by_kind = last["peak"] if last["kind"] == "error" else last["result"]["peak"]
        peak = format_bytes(bytes_by_kind.get("device_used", bytes_by_kind["rss"]))
        took = word("talk.ran_out") if last["kind"] == "error" else format_duration(last["t"])
        cells = "".join(f"<td>{escape(text)}</td>" for text in (peak, took))
        cells += f'<td>{escape(on)}, <span class="whole">{escape(first["recorded"])}</span></td>'
        rows += f'<tr><th scope="row">{escape(what)}</th>{cells}</tr>'
    return (
        f'<table class="peft"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"{badge(word('talk.measured'))}"
    )


def peft_table(word: Callable, entries: Sequence[Mapping[str, Any]]) -> str:
    """PEFT's own table of what fine-tunes take, measured by its authors, beside this program's prediction."""
    head = "".join(f'<th scope="col">{escape(word(f"talk.peft.{name}"))}</th>' for name in ("full", "lora"))
    rows = ""
    for entry in entries:
        cells = "".join(
            f"<td><b>{_gb(entry['predicted'][method])}</b> <small>{escape(_measured(entry, method, word))}</small></td>"
            for method in ("full", "lora")
        )
        rows += f'<tr><th scope="row">{escape(catalog.display_name(entry["model"]))}</th>{cells}</tr>'
    about = f"<p>{escape(word('talk.peft.how'))}</p>"
    return (
        f'<table class="peft"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>{about}'
        f"{badge(word('talk.predicted'))}"
    )


def _measured(entry: Mapping[str, Any], method: str, word: Callable) -> str:
    size = entry["measured"][method]
    if size is None:
        return word("talk.peft.not_measured")
    return word("talk.peft.measured", size=_gb(size)) if size else word("talk.peft.none")


def _gb(size: float) -> str:
    return f"{size / 10**9:.1f} GB"
