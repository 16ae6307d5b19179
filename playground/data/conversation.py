"""Conversations: one row per answer, with the turns before it, and the turns of a prompt."""

from collections import Counter
from dataclasses import dataclass, field, replace

from playground.data.messages import Message
from playground.data.row import Row, UnusableRecord, has_visible_text

MAX_TURNS = 256  # earlier turns of a row; all of a very long conversation would need memory by their square


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation; `answer` is None in the turn to be answered."""

    instruction: str
    answer: str | None = None
    input: str = ""


@dataclass
class Converted:
    """What became of a record: rows, remarks on it (keys of the words table under `note.`), and answers left out, by
    reason (a key of the words table under `dropped.`)."""

    rows: list[Row]
    remarks: tuple[str, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class _Exchange:
    """A question, its answer, why the answer isn't trained on ("" if it is), and the system prompts so far."""

    question: str
    answer: str
    untaught: str
    systems: tuple[tuple[int, str], ...]


def turns(row: Row) -> list[Turn]:
    """The earlier turns of a row's conversation, and its question as the turn to be answered."""
    return [*(Turn(question, answer) for question, answer in row.before), Turn(row.instruction, input=row.input)]


def split_into_rows(messages: list[Message], common: Row, last_only: bool = False) -> Converted:
    """Make a row of every answer that is to be trained on, or of the last answer alone, with all earlier turns.

    common: the fields that all rows share. An answer without a question before it is left out ("greeting"); of a
    conversation without any question, the answers are texts ("answers_only"). Raises UnusableRecord: no answer at all.
    """
    if _has_empty_system(messages, common):
        common = replace(common, empty_system=True)
    if not any(message.role == "user" for message in messages):
        return _texts(messages, common)
    exchanges, remarks = _exchanges(messages, common.system)
    if not exchanges:
        raise UnusableRecord("empty")
    remarks += sorted({message.remark for message in messages if message.remark})
    remarks += ["long_conversation"] if len(exchanges) > MAX_TURNS + 1 else []
    made = Converted([], tuple(remarks))
    before = [(exchange.question, exchange.answer) for exchange in exchanges]
    for number, exchange in enumerate(exchanges):
        if last_only and number < len(exchanges) - 1:
            continue
        if exchange.untaught:
            made.dropped[exchange.untaught] += 1
        elif not has_visible_text(exchange.question) or not has_visible_text(exchange.answer):
            made.dropped["empty"] += 1
        else:
            dropped = max(0, number - MAX_TURNS)
            systems = tuple((max(0, turn - dropped), text) for turn, text in exchange.systems)
            row = replace(
                common,
                instruction=exchange.question,
                output=exchange.answer,
                system="\n\n".join(text for _, text in systems),
                system_messages=() if [turn for turn, _ in systems] == [0] else systems,
                before=tuple(before[dropped:number]),
            )
            made.rows.append(row)
    return made


def _exchanges(messages: list[Message], system_prompt: str) -> tuple[list[_Exchange], list[str]]:
    """Questions with their answers, consecutive messages of one role joined; and remarks."""
    systems: tuple[tuple[int, str], ...] = ((0, system_prompt),) if system_prompt else ()
    questions: list[str] = []
    exchanges: list[_Exchange] = []
    remarks: list[str] = []
    for message in messages:
        if message.role == "system":
            systems += () if _is_said(message.text, systems, len(exchanges)) else ((len(exchanges), message.text),)
        elif message.role == "user":
            questions.append(message.text)
        elif questions:
            exchanges.append(_Exchange("\n\n".join(questions), message.text, message.untaught, systems))
            questions = []
        elif exchanges:  # an answer in two messages; if one of them isn't to be trained on, neither is
            last = exchanges[-1]
            last.answer = f"{last.answer}\n\n{message.text}"
            last.untaught = last.untaught or message.untaught
        else:
            remarks = ["greeting"]
    return exchanges, remarks


def _is_said(text: str, systems: tuple[tuple[int, str], ...], turn: int) -> bool:
    """Whether a system message adds nothing: it is empty, repeats the prompt in force, or one before the same turn.

    Sets that have a column for the system prompt often have it in the conversation too.
    """
    said = {prompt.strip() for number, prompt in systems if number == turn} | {
        systems[-1][1].strip() if systems else ""
    }
    return not text or text.strip() in said


def _texts(messages: list[Message], common: Row) -> Converted:
    """The answers of a conversation without any question, as one text."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise UnusableRecord("empty")
    taught = [message.text for message in answers if not message.untaught]
    dropped = Counter(message.untaught for message in answers if message.untaught)
    text = "\n\n".join(taught)
    if not has_visible_text(text):
        return Converted([], (), dropped or Counter({"empty": 1}))
    return Converted([replace(common, output=text, system="", empty_system=False)], ("answers_only",), dropped)


def _has_empty_system(messages: list[Message], common: Row) -> bool:
    """Whether the conversation has a system message, but no system prompt."""
    prompts = [message.text for message in messages if message.role == "system"]
    return bool(prompts) and not any(prompts) and not common.system
