"""Endpoints for programs: plan, tune, compare and follow runs, as the page does.

For `gradio_client`, for HTTP and, on a private page, for MCP clients. The limits are the page's: on a Space and with
`--share` no path of this machine is read. Docstrings of the methods and their types are what clients see; Gradio (6.31)
reads one line an argument.
"""

import asyncio
import functools
import importlib.util
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast, get_args

import gradio as gr
from anyio import to_thread

from playground import runs
from playground.errors import PlaygroundError, Problem, problem
from playground.runs import Run
from playground.settings import Settings, raise_all
from playground.ui.api_input import (
    PlanQuestion,
    RunsQuestion,
    all_problems,
    check_prompt,
    merged_settings,
    parse_answers,
    readable_errors,
    text_value,
)
from playground.ui.api_types import (
    Answers,
    GenerationValues,
    Language,
    Plan,
    RunRow,
    RunState,
    SettingsValues,
    Stopped,
)
from playground.ui.compare_answers import Request, answer
from playground.ui.comparison import Turn
from playground.ui.page import Page, wait_until_opened
from playground.ui.run_progress import RunProgress, run_row

POLL_SECONDS = 0.3  # between two looks at a run that is followed


def mount(page: Page) -> None:
    """Add the endpoints to the page that is being built. They are for all languages, so one page has them."""
    endpoints = Endpoints(page)
    for name in ("plan", "tune", "compare", "runs", "run", "follow", "stop"):
        gr.api(_described(getattr(endpoints, name)), api_name=name)


def has_mcp() -> bool:
    """Whether the package that Gradio's MCP server needs is installed."""
    return importlib.util.find_spec("mcp") is not None


class Endpoints:
    """The endpoints over one page's engine, planner and runs. Each raises gr.Error with all problems of a call."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def plan(
        self,
        model: str = "smollm2-135m-instruct",
        bits: int | None = None,
        r: int | None = None,
        batch_size: int | None = None,
        max_seq_length: int | None = None,
        gpu_gib: float = 0.0,
        context: int = 1024,
        settings: SettingsValues | None = None,
        lang: Language = "en",
        gpus: int | None = None,
    ) -> Plan:
        """Predict the memory of loading a model, chatting with it and fine-tuning it, before anything is loaded.

        Args:
            model: A catalog id, a Hub id or, on a private page, a folder.
            bits: Bits per weight: 32, 16, 8 or 4; 0 for the default.
            r: Rank of the LoRA adapter.
            batch_size: Rows per optimizer step.
            max_seq_length: Tokens per row.
            gpu_gib: Memory in GiB of the GPU that automatic choices are made for; 0 for no limit.
            context: Tokens of a chat.
            settings: Any other setting, as {group: {field: value}} with the groups load, data, lora and train.
            lang: Language of errors.
            gpus: GPUs that fine-tune together; settings["train"]["parallel"] says how: "ddp" or "fsdp2".
        Returns:
            Bytes of one GPU by phase (load, chat, tune) and, by GPU size, whether the phase fits, is tight, or not:
            with the automatic choices made for that size.
        """
        with readable_errors(lang):
            named: dict[str, dict[str, Any]] = {
                "load": {"model": model, "bits": bits},
                "lora": {"r": r},
                "train": {"batch_size": batch_size, "max_seq_length": max_seq_length},
            }
            question, problems = PlanQuestion.parse(context, gpu_gib, 1 if gpus is None else gpus)
            chosen = self._settings(merged_settings(settings, named), problems)
            if gpus is not None:
                chosen = chosen.with_values({"train": {"num_processes": question.gpus}})
            return self._plan(chosen, question)

    def tune(self, settings: SettingsValues | None = None, lang: Language = "en") -> RunState:
        """Start a fine-tune and return its run as soon as it is open; `run` and `follow` say how far it is.

        Args:
            settings: As {group: {field: value}}; the groups are load, data, lora and train, the rest is the demo's.
            lang: Language of errors.
        Returns:
            The run, with the id that the other endpoints take.
        """
        with readable_errors(lang):
            chosen = self._settings(merged_settings(settings, {}), [], self._page.start)
            self._page.raise_if_too_much_work(chosen)
            job = self._page.engine.tune(chosen)
            wait_until_opened(job)
            return self._progress(job.run or "", lang).state()

    def compare(
        self, run_id: str, prompt: str, generation: GenerationValues | None = None, lang: Language = "en"
    ) -> Iterator[Answers]:
        """Answer a prompt with a run's base model and with its fine-tuned model, in one batch.

        Args:
            run_id: Id of a fine-tune that has an adapter.
            prompt: The question.
            generation: How answers are generated, as {field: value}, for example {"max_new_tokens": 64}.
            lang: Language of errors.
        Returns:
            Both answers, as they grow.
        """
        with readable_errors(lang):
            request = self._request(run_id, prompt, generation)
            for _ in answer(self._page, request, []):
                yield _answers(request)

    def runs(self, filter: str = "", limit: int = 50, lang: Language = "en") -> list[RunRow]:
        """List the runs, newest first.

        Args:
            filter: Text that the id, the job, the state, the model or the dataset contains; all runs without it.
            limit: The most runs in the reply.
            lang: Language of errors.
        Returns:
            The runs that match.
        """
        with readable_errors(lang):
            question = RunsQuestion.parse(filter, limit)
            rows: list[RunRow] = []
            for summary in runs.history(self._page.root):
                row = run_row(self._page, summary)
                if question.matches((row["id"], row["job"], row["state"], row["model"], row["data"])):
                    rows.append(row)
                if len(rows) == question.limit:
                    break
            return rows

    def run(self, run_id: str, lang: Language = "en") -> RunState:
        """How far a run is: its state, its last step and, once it has ended, its result or its error.

        Args:
            run_id: Id of the run.
            lang: Language of errors.
        Returns:
            The run; its state is running, done, stopped, failed or, where its program ended, open.
        """
        with readable_errors(lang):
            return self._progress(run_id, lang).state()

    async def follow(self, run_id: str, lang: Language = "en") -> AsyncIterator[RunState]:
        """Follow a run until it ends: its state whenever it has changed.

        Args:
            run_id: Id of the run.
            lang: Language of errors.
        Returns:
            The run, as `run` returns it; the last one is final.
        """
        with readable_errors(lang):
            progress, last, live = self._progress(run_id, lang), None, True
            while live:  # who follows for hours takes no thread but while the run is looked at
                live, state = await to_thread.run_sync(progress.look)
                if state != last:
                    yield state
                last = state
                await asyncio.sleep(POLL_SECONDS if live else 0)

    def stop(self, run_id: str = "", lang: Language = "en") -> Stopped:
        """Stop the job under way. It keeps what it has: a stopped fine-tune has an adapter and can be resumed.

        Args:
            run_id: Stop only if the job works on this run; without it, whatever job is under way.
            lang: Language of errors.
        Returns:
            Whether a job was stopped, and its run.
        """
        with readable_errors(lang):
            job = self._page.engine.job
            if run_id:
                runs.find(self._page.root, text_value("run_id", run_id))
            if job is None or (run_id and job.run != run_id):
                return {"stopped": False, "run": ""}
            return {"stopped": self._page.engine.stop_job(job), "run": job.run or ""}

    def _settings(self, groups: dict[str, Any], problems: list[Problem], base: Settings | None = None) -> Settings:
        """Validated settings. Raises PlaygroundError with what is wrong with them and with `problems`."""
        try:
            chosen = self._page.parse_groups(groups, base)
        except PlaygroundError as error:
            raise PlaygroundError(*problems, *error.problems) from error
        raise_all(problems)
        return chosen

    def _plan(self, chosen: Settings, question: PlanQuestion) -> Plan:
        device = "cpu" if chosen.load.device == "cpu" else "cuda"
        capacity = round(question.gpu_gib * 2**30)
        arguments: dict[str, Any] = {"context": question.context, "capacity": capacity, "device": device}
        forecast = self._page.planner.ask("forecast", settings=chosen.to_dict(), **arguments)
        of_phases = {
            phase: {name: predicted[name] for name in ("need", "allocated", "parts")}
            for phase, predicted in forecast["phases"].items()
        }
        of_cards = self._page.planner.ask(
            "card_verdicts", settings=chosen.to_dict(), context=question.context, device=device
        )
        facts = ("model", "bits", "method", "parameters", "trainable", "context")
        further = {name: forecast[name] for name in ("several", "streamed") if name in forecast}
        plan = {**{name: forecast[name] for name in facts}, "phases": of_phases, "cards": of_cards, **further}
        return cast(Plan, plan)

    def _request(self, run_id: str, prompt: str, generation: GenerationValues | None) -> Request:
        """A validated question to a run's models. Raises PlaygroundError with all problems."""
        raise_all(
            all_problems(
                lambda: check_prompt(prompt), lambda: parse_answers(generation), lambda: self._tuned_run(run_id)
            )
        )
        run = self._tuned_run(run_id)
        turn = Turn(prompt.strip(), {}, adapter=run.id)
        return Request(turn, self._page.run_settings(run.id), parse_answers(generation), None)

    def _tuned_run(self, run_id: str) -> Run:
        """A run with an adapter, or with a model that was fine-tuned in full. Raises PlaygroundError."""
        run = runs.find(self._page.root, text_value("run_id", run_id))
        if not run.adapter.is_dir() and not run.model.is_dir():
            raise problem("error.no_adapter", run=run.id)
        return run

    def _progress(self, run_id: str, lang: str) -> RunProgress:
        return RunProgress(self._page, runs.find(self._page.root, text_value("run_id", run_id)), lang)


def _described(endpoint: Callable) -> Callable:
    """The endpoint; one that yields as if it returned what it yields, since Gradio has no schema for an iterator."""
    if not (inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint)):
        return endpoint

    @functools.wraps(endpoint)
    def each(*values: Any) -> Iterator:
        yield from endpoint(*values)

    @functools.wraps(endpoint)
    async def each_awaited(*values: Any) -> AsyncIterator:
        async for value in endpoint(*values):
            yield value

    described: Any = each_awaited if inspect.isasyncgenfunction(endpoint) else each
    signature = inspect.signature(endpoint)
    described.__signature__ = signature.replace(return_annotation=get_args(signature.return_annotation)[0])
    return described


def _answers(request: Request) -> Answers:
    turn, sides = request.turn, {}
    for side, reply in turn.answers.items():
        if reply.finish:
            sides[side] = {"finish": reply.finish, "tokens": reply.tokens, "tokens_per_s": reply.tokens_per_s}
    texts = {side: turn.answers[side].text for side in ("base", "tuned")}
    return {
        "run": turn.adapter,
        "prompt": turn.question,
        "base": texts["base"],
        "tuned": texts["tuned"],
        "sides": sides,
    }
