"""Read plain texts in which names like "Q:" or "User:" begin lines: lists of questions with answers, conversations."""

import pytest
from data_files import note_keys, pairs, read_rows

from playground.data.source import preview, save_pasted
from playground.data.turn_forms import transcript
from playground.settings import Data

PAIRS = [("営業時間は？", "9時です。"), ("休みは？", "日曜です。"), ("場所は？", "駅前です。")]
EN = [("When do you open?", "At nine, A4 paper in hand.\nA 10 minute walk."), ("Where?", "Here: in town.")]
MARKS = [
    ("Q: ", "A: "),
    ("Q：", "A："),
    ("Q:\t", "A:\t"),
    ("Ｑ：", "Ａ："),
    ("Q. ", "A. "),
    ("Q.", "A."),
    ("Q) ", "A) "),
    ("Ｑ．", "Ａ．"),
    ("Q\u3000", "A\u3000"),
    ("q: ", "a: "),
    ("Q1: ", "A1: "),
    ("Q1. ", "A1. "),
    ("Q1）", "A1）"),
    ("Q１\u3000", "A１\u3000"),
    ("Q 1: ", "A 1: "),
    ("Question: ", "Answer: "),
    ("Question 12: ", "Answer 12: "),
    ("Question #3: ", "Answer #3: "),
    ("質問：", "回答："),
    ("質問1：", "回答1："),
    ("問1. ", "答1. "),
    ("問\u3000", "答\u3000"),
    ("【質問】", "【回答】"),
    ("【質問1】", "【回答1】"),
    ("［Q］ ", "［A］ "),
    ("[Q1]: ", "[A1]: "),
    ("**Q:** ", "**A:** "),
    ("**Q1**: ", "**A1**: "),
    ("- Q: ", "- A: "),
    ("1. Q: ", "A: "),
    ("### Q: ", "A: "),
    ("## 質問1\n", "## 回答1\n"),
    ("Prompt: ", "Response: "),
]


def write(folder, text):
    (folder / "a.txt").write_text(text, encoding="utf-8")
    return read_rows(folder / "a.txt")


@pytest.mark.parametrize("asked,answered", MARKS)
@pytest.mark.parametrize("within,between", [("\n", "\n"), ("\n", "\n\n"), ("\n\n", "\n\n"), ("\n\n", "\n\n\n")])
@pytest.mark.parametrize("rows", [PAIRS, EN])
def test_each_question_of_a_list_is_a_row_wherever_its_blank_lines_are(
    tmp_path, asked, answered, within, between, rows
):
    text = between.join(f"{asked}{question}{within}{answered}{answer}" for question, answer in rows)
    read = write(tmp_path, text + "\n")
    assert pairs(read) == rows and note_keys(read)[0] == "note.questions" and not any(r.before for r in read.train)
    pasted = read_rows(save_pasted(text, tmp_path / "pasted"))
    assert pairs(pasted) == rows
    assert [(r.instruction, r.output) for r in preview(Data(source=str(tmp_path / "a.txt"))).rows] == rows


def test_an_answer_has_all_its_paragraphs_and_bold_type_around_a_question_is_no_part_of_it(tmp_path):
    read = write(tmp_path, "**Q: Is **it** open?**\n\nA: Yes.\n\nFrom nine.\n\n**Q: Why?**\nA:\n\n- so\n- **so**\n")
    assert pairs(read) == [("Is **it** open?", "Yes.\n\nFrom nine."), ("Why?", "- so\n- **so**")]


def test_what_stands_between_the_questions_is_part_of_none(tmp_path):
    text = (
        "FAQ of the shop\n2024\n\nQ: a?\nA: b\n# not a heading\n---\nQ: c?\nA: d\n\n## Delivery\n\nQ: e?\nA: f\n===\n"
    )
    read = write(tmp_path, text)
    assert pairs(read) == [("a?", "b\n# not a heading"), ("c?", "d"), ("e?", "f")]
    before = next(note for note in read.notes if note.key == "note.text_before")
    assert before.values == {"first": "FAQ of the shop 2024"} and "FAQ of the shop" in before.text("ja")


def test_questions_without_answers_are_counted_and_end_no_row(tmp_path):
    read = write(tmp_path, "A: lost\nQ: a?\nA: b\nQ: open?\nQ: c?\nA: d\nQ: e?\nA: f\n")
    assert pairs(read) == [("a?", "b"), ("c?", "d"), ("e?", "f")]
    assert read.dropped == {"unanswered": 1, "orphan": 1} and read.where == {"orphan": [1], "unanswered": [3]}


def test_choices_of_a_question_are_no_answers(tmp_path):
    quiz = "Q1. Capital of {}?\nA. Paris\nB. Rome\nC. Oslo\nAnswer: {}\n\n"
    read = write(tmp_path, quiz.format("France", "A") + quiz.format("Italy", "B"))
    choices = "A. Paris\nB. Rome\nC. Oslo"
    assert pairs(read) == [(f"Capital of France?\n{choices}", "A"), (f"Capital of Italy?\n{choices}", "B")]
    read = write(tmp_path, "Q: Which plans?\nA: Two:\nA. small\nB. large\nQ: Why?\nA: So.\n")
    assert pairs(read) == [("Which plans?", "Two:\nA. small\nB. large"), ("Why?", "So.")]


def test_names_of_speakers_within_an_answer_begin_no_other(tmp_path):
    answer = "First:\n1. Model: press\n- Agent: call\n2. A: type\nOutput: look\n[AI] waits"
    read = write(tmp_path, f"Q: When?\nAnswer: {answer}\nQ: b?\nA: c\n")
    assert pairs(read) == [("When?", answer), ("b?", "c")]
    chat = "User: when?\nAgent: now\n- Bot: bullet\n1. Doctor: number\n\nUser: b?\nAgent: c\n"
    assert pairs(write(tmp_path, chat)) == [("when?", "now\n- Bot: bullet\n1. Doctor: number"), ("b?", "c")]


CHAT = [("hi", "hello"), ("and you?", "fine")]


@pytest.mark.parametrize(
    "turn,within,between",
    [("\n", "\n", "\n\n"), ("\n", "\n", "\n\n\n"), ("\n", "\n", "\n---\n"), ("\n\n", "\n\n", "\n\n\n")],
)
def test_a_conversation_stays_whole_up_to_a_larger_gap(tmp_path, turn, within, between):
    one = within.join(f"User: {question}{turn}Assistant: {answer}" for question, answer in CHAT)
    read = write(tmp_path, between.join([one, one.replace("hi", "hey")]) + "\n")
    assert pairs(read) == [CHAT[0], CHAT[1], ("hey", "hello"), CHAT[1]] and note_keys(read)[0] == "note.transcripts"
    assert [row.before for row in read.train] == [(), (CHAT[0],), (), (("hey", "hello"),)]


def test_a_conversation_without_blank_lines_is_one_and_a_system_prompt_begins_the_next(tmp_path):
    one = "System: Be kind.\nUser: hi\nAssistant: hello\nUser: bye\nAssistant: see you\n"
    read = write(tmp_path, one + one.replace("hi", "hey"))
    assert [(row.instruction, len(row.before), row.system) for row in read.train] == [
        ("hi", 0, "Be kind."),
        ("bye", 1, "Be kind."),
        ("hey", 0, "Be kind."),
        ("bye", 1, "Be kind."),
    ]


def test_an_answer_in_several_paragraphs_ends_no_conversation(tmp_path):
    read = write(tmp_path, "User: hi\nAssistant: hello\n\nmore\n\nUser: bye\nAssistant: see you\n")
    assert pairs(read) == [("hi", "hello\n\nmore"), ("bye", "see you")]


@pytest.mark.parametrize(
    "text",
    [
        "A. Smith wrote it.\nB. Jones read it.\n",
        "Note: this\nA: is one\nQ: and only one\nof each\n",
        "Dear Q: and A:\nhow are you?\nA: b\nA: c\nA: d\nQ: e\n",
        "Question: what is prose?\n" + "It goes on and on.\n" * 3000 + "Answer: this.\nQuestion: why?\nAnswer: so.\n",
        "q\na\nq\na\n",
    ],
)
def test_prose_with_a_name_here_and_there_is_read_as_before(tmp_path, text):
    read = write(tmp_path, text)
    assert note_keys(read)[0] in ("note.lines", "note.paragraphs") and not any(row.instruction for row in read.train)


def test_marks_are_known_in_a_column_too():
    asked = [{"role": "user", "content": "x?"}, {"role": "assistant", "content": "y"}]
    for text in ("Q1. x?\nA1. y", "【質問】x?\n【回答】y", "**User**: x?\n\n**Assistant**: y", "Human: x?\nAI: y"):
        assert transcript(text) == asked, text
    for text in ("Q. x?\nA. y\nB. z", "A4 x\nQ: y", "Notes\nQ: x\nA: y", "Q: x?", "A: y"):
        assert transcript(text) is None, text
