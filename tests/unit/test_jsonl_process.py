"""Both ends of a child process that answers requests: replies by id, cancellation, exit, senseless lines."""

import json
import queue
import sys

import pytest

from playground import process_log
from playground.jsonl_process import Connection

WAIT = 60  # seconds at most, for any message

SERVER = """
import threading
from playground.errors import problem
from playground.jsonl_server import Server

server = Server()
print("a library prints this while it is imported")

def answer(do, arguments, emit):
    if do == "fail":
        raise problem("problem.r", r=0)
    if do == "break":
        raise RuntimeError("a defect")
    if do == "die":
        import os
        os._exit(arguments["code"])
    if do == "wait":
        emit({"kind": "waiting"})
        return server.cancelled.wait(arguments["seconds"])
    print("a library prints this while it works")
    emit({"kind": "echo", **arguments})
    return arguments

server.announce_ready(answer=42)
server.serve(answer)
"""

SENSELESS = """
import json, sys
print("no JSON", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    for message in ({"id": 99, "event": {"of": "nobody"}}, {"event": {}}, [], 5, {"id": request["id"], "event": {}}):
        print(json.dumps(message), flush=True)
    print(json.dumps({"id": request["id"], "result": "sense"}), flush=True)
    print(json.dumps({"id": request["id"], "event": {"kind": "late"}}), flush=True)
"""


@pytest.fixture
def connect(tmp_path):
    """`connect(program)`: a connection to a Python program; closed in the end."""
    connections = []

    def start(program: str) -> Connection:
        connections.append(Connection((sys.executable, "-c", program), tmp_path / "process.log"))
        return connections[-1]

    yield start
    for connection in connections:
        connection.close(grace=0)


def send(connection: Connection, do: str, **arguments) -> tuple[int, queue.Queue]:
    messages: queue.Queue = queue.Queue()
    return connection.send(do, arguments, messages.put), messages


def last(messages: queue.Queue) -> dict:
    """The message that ends a request."""
    while "event" in (message := messages.get(timeout=WAIT)):
        pass
    return message


def test_a_message_that_would_fill_the_parents_memory_ends_the_child_and_its_requests(connect, monkeypatch):
    monkeypatch.setattr("playground.jsonl_process.MAX_MESSAGE", 100_000)
    endless = """
import sys
sys.stdin.readline()
while True:
    sys.stdout.write("x" * 65536)
"""
    connection = connect(endless)
    _, messages = send(connection, "talk")
    assert last(messages) == {"exit": -9} and connection.wait(WAIT) == -9


def test_request_gets_its_events_and_its_result(connect):
    connection = connect(SERVER)
    request_id, messages = send(connection, "echo", text="日本語")
    assert messages.get(timeout=WAIT) == {"id": request_id, "event": {"kind": "echo", "text": "日本語"}}
    assert messages.get(timeout=WAIT) == {"id": request_id, "result": {"text": "日本語"}}
    assert connection.ready == {"answer": 42} and connection.alive


def test_prints_of_libraries_go_to_the_log(connect, tmp_path):
    connection = connect(SERVER)
    last(send(connection, "echo")[1])
    connection.close()
    log = (tmp_path / "process.log").read_text(encoding="utf-8")
    assert "while it is imported" in log and "while it works" in log
    assert connection.last_log_line == "a library prints this while it works"


def test_exceptions_become_the_requests_error_and_the_next_one_is_answered(connect, tmp_path):
    connection = connect(SERVER)
    error = last(send(connection, "fail")[1])["error"]
    assert error == {"problems": [{"key": "problem.r", "values": {"r": 0}}]}
    assert last(send(connection, "break")[1])["error"]["problems"][0]["key"] == "error.unexpected"
    assert last(send(connection, "echo")[1])["result"] == {}
    connection.close()
    assert "RuntimeError: a defect" in (tmp_path / "process.log").read_text(encoding="utf-8")


def test_cancel_reaches_the_request_under_way_and_no_other(connect):
    connection = connect(SERVER)
    first, messages = send(connection, "wait", seconds=WAIT)
    waiting, next_messages = send(connection, "wait", seconds=0)
    assert messages.get(timeout=WAIT)["event"] == {"kind": "waiting"}
    connection.cancel(first)
    assert last(messages)["result"] is True and last(next_messages)["result"] is False
    connection.cancel(waiting)  # which has ended
    assert last(send(connection, "wait", seconds=0.2)[1])["result"] is False


def test_cancel_reaches_a_request_that_waits_for_its_turn(connect):
    connection = connect(SERVER)
    first, messages = send(connection, "wait", seconds=WAIT)
    second, second_messages = send(connection, "wait", seconds=WAIT)
    third, third_messages = send(connection, "wait", seconds=0)
    connection.cancel(second)
    connection.cancel(first)
    assert last(messages)["result"] is True and last(second_messages)["result"] is True
    assert last(third_messages)["result"] is False and third == second + 1


def test_exit_ends_every_unfinished_request(connect):
    connection = connect(SERVER)
    dying, waiting = send(connection, "die", code=3)[1], send(connection, "echo")[1]
    assert last(dying) == last(waiting) == {"exit": 3}
    assert connection.wait(WAIT) == 3 and not connection.alive
    assert last(send(connection, "echo")[1]) == {"exit": 3}  # sent to a process that has ended


def test_close_kills_a_process_that_ignores_the_wish(connect):
    connection = connect(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(60)"
    )
    _, messages = send(connection, "echo")
    connection.close(grace=0.1)
    assert last(messages)["exit"] < 0 and connection.closing and not connection.alive


def test_child_ends_with_its_parent(connect):
    connection = connect(SERVER)
    last(send(connection, "echo")[1])
    connection.close_input()
    assert connection.wait(WAIT) == 0


def test_senseless_lines_are_logged_and_the_reader_goes_on(connect, caplog):
    connection = connect(SENSELESS)
    for _ in range(2):
        request_id, messages = send(connection, "anything")
        assert messages.get(timeout=WAIT) == {"id": request_id, "event": {}}
        assert messages.get(timeout=WAIT) == {"id": request_id, "result": "sense"}
    connection.close_input()
    assert connection.wait(WAIT) == 0 and messages.empty()
    lines = [record.getMessage() for record in caplog.records if "can't be handled" in record.getMessage()]
    assert len(lines) == 1 + 2 * 5 and "no JSON" in lines[0]
    assert json.dumps({"id": 99, "event": {"of": "nobody"}}) in lines[1]


def test_a_receiver_that_raises_does_not_end_the_reader(connect, caplog):
    connection = connect(SERVER)
    connection.send("echo", {}, lambda message: 1 / 0)
    assert last(send(connection, "echo")[1])["result"] == {}
    assert "ZeroDivisionError" in caplog.text


def test_a_log_that_cannot_be_written_hinders_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    connection = Connection((sys.executable, "-c", SERVER), tmp_path / "file" / "process.log")
    assert last(send(connection, "echo")[1])["result"] == {}
    connection.close()
    assert connection.last_log_line == "a library prints this while it works"


def test_a_log_that_grows_keeps_its_end(connect, tmp_path, monkeypatch):
    monkeypatch.setattr(process_log, "MAX_BYTES", 50_000)
    monkeypatch.setattr(process_log, "KEPT_BYTES", 1_000)
    monkeypatch.setattr(process_log, "MAX_LINE", 2_000)
    program = "import sys\nfor n in range(3000): print('line', n, file=sys.stderr)\nsys.stderr.write('x' * 200_000)"
    connection = connect(program + "\nprint('the last', file=sys.stderr)")
    assert connection.wait(WAIT) == 0
    connection._logging_thread.join(WAIT)
    log = (tmp_path / "process.log").read_text()
    assert len(log) <= 60_000 and log.endswith("the last\n")
