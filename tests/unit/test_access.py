"""Inputs allowed on a public page: the catalog, hubs, uploads and pasted rows; no other path of the machine."""

import shutil
from pathlib import Path

import pytest
from pages import page_over

from playground import catalog, runs
from playground.data import uploads
from playground.data.allowed_names import forbidden_adapter, forbidden_sources
from playground.errors import PlaygroundError
from playground.settings import Settings
from playground.ui import weight_view
from playground.ui.access import forbidden_start

PROJECT = Path(__file__).resolve().parents[2]
BOTH = ["load.model", "data.source"]


def forbidden_fields(name: str) -> list[str]:
    """The fields in which `name` is forbidden, of the model and the data set."""
    return [problem.values["field"] for problem in forbidden_sources(name, name)]


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Path:
    """A working directory with a folder of uploads and a secret file outside of it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gradio").mkdir()
    (tmp_path / "secret.json").write_text('[{"instruction": "a", "output": "b"}]')
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", [*catalog.data_sets(), *catalog.models()])
def test_catalog_entries_are_allowed_even_where_a_path_has_their_name(machine, name):
    model, source = next(iter(catalog.models())), next(iter(catalog.data_sets()))
    (machine / name).mkdir(parents=True)
    if name in catalog.data_sets():
        assert forbidden_sources(model, name) == []
    if name in catalog.models():
        assert forbidden_sources(name, source) == []


def test_a_path_with_the_name_of_the_other_kind_of_entry_is_forbidden(machine):
    model, source = "smollm2-135m-instruct", "helpdesk.en"
    for name in (model, source):
        (machine / name).mkdir()
    assert [p.values["field"] for p in forbidden_sources(source, model)] == BOTH


@pytest.mark.parametrize(
    "name",
    [
        "yahma/alpaca-cleaned",
        "squad:plain_text",
        "name/set:config@split",
        "Qwen/Qwen3-0.6B",
        "someone/model/file.gguf",
        "x" * 5000,
        "a\0b",
    ],
)
def test_hub_ids_and_names_that_nothing_can_open_are_allowed(machine, name):
    assert forbidden_fields(name) == []


def test_a_visitors_own_uploads_are_allowed_under_their_opaque_names_alone(machine, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(machine / "cache"))
    file = machine / "gradio" / "mine.csv"
    file.write_text("a,b\n")
    name = uploads.keep(file, "ada")
    assert not file.exists() and uploads.path_of(name).read_text() == "a,b\n"
    assert name.startswith("upload:") and str(machine) not in name
    model = next(iter(catalog.models()))
    assert forbidden_sources(model, name, "ada") == []
    for other in (str(uploads.path_of(name)), name.replace("mine", "yours") + "/../owner"):
        assert [p.values["field"] for p in forbidden_sources(model, other, "ada")] == ["data.source"]
    assert [p.values["field"] for p in forbidden_sources(model, name, "eve")] == ["data.source"]
    [folder] = uploads.folders_of("ada")
    shutil.rmtree(folder)
    assert forbidden_sources(model, name, "ada") and not uploads.path_of(name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "{machine}/secret.json",
        "secret.json",
        "./secret.json",
        "gradio/../secret.json",
        "{machine}/gradio/../secret.json",
        "{machine}/gradio/link",
        "{machine}/gradio/mine.csv",
        "upload:{machine}/secret.json",
        "{machine}-gradio/secret.json",
        "~/.ssh/id_rsa",
        "/no/such/file",
        "{machine}",
        "folder/of-a-set:config@split",
    ],
)
def test_every_other_path_of_the_machine_is_forbidden(machine, name):
    (machine / "gradio" / "link").symlink_to(machine / "secret.json")
    (machine / "folder" / "of-a-set").mkdir(parents=True)
    assert forbidden_fields(name.format(machine=machine)) == BOTH


@pytest.mark.parametrize("name", ["README.md", "assets/data/helpdesk.en.jsonl", "tests/data"])
def test_paths_in_the_engines_working_directory_are_forbidden(machine, name):
    assert (PROJECT / name).exists() and not Path(name).exists()
    assert forbidden_fields(name) == BOTH


@pytest.mark.parametrize("private", [True, False])
def test_a_public_page_reports_forbidden_paths_with_all_other_problems(machine, private):
    page = page_over(machine, private=private)
    fields = [("load", "model"), ("load", "bits"), ("data", "source")]
    with pytest.raises(PlaygroundError) as raised:
        page.parse_fields(fields, [str(machine), 3, str(machine / "secret.json")])
    forbidden = [] if private else ["problem.not_here"] * 2
    assert [problem.key for problem in raised.value.problems] == ["problem.bits", *forbidden]
    assert private or "Anyone can open this page" in raised.value.text("en")


@pytest.mark.parametrize("field", [("load", "model"), ("data", "source")])
def test_a_public_page_refuses_a_forbidden_path_among_valid_settings(machine, field):
    path = f"  {machine / 'secret.json'} "  # settings strip spaces
    with pytest.raises(PlaygroundError) as raised:
        page_over(machine).parse_fields([field], [path])
    assert [problem.key for problem in raised.value.problems] == ["problem.not_here"]
    settings = page_over(machine, private=True).parse_fields([field], [path])
    assert getattr(getattr(settings, field[0]), field[1]) == path.strip()


def test_a_public_page_shows_no_weights_of_a_folder_of_the_machine(machine):
    for private in (True, False):
        page = page_over(machine, private=private)
        if private:
            assert weight_view.question(page, [str(machine)], None, "int4")["model"] == str(machine)
            continue
        with pytest.raises(PlaygroundError) as raised:
            weight_view.question(page, [str(machine)], None, "int4")
        assert [problem.key for problem in raised.value.problems] == ["problem.not_here"]


@pytest.mark.parametrize(
    "name", ["/etc/adapter", "../adapter", "C:\\adapter", "~/adapter", "owner/name/more", "", "owner"]
)
def test_strangers_name_no_adapter_folder(name):
    assert [p.key for p in forbidden_adapter(name)] == ["problem.adapter_not_here"]


def test_strangers_name_an_adapter_of_the_hub_unless_a_folder_here_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert forbidden_adapter("owner/name") == []
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert forbidden_adapter("owner/name")


def test_strangers_continue_only_runs_of_this_page(tmp_path):
    run = runs.create(tmp_path / "runs", "tune", Settings())
    assert forbidden_start(tmp_path / "runs", run.id) == [] == forbidden_start(tmp_path / "runs", "")
    for name in (str(run.folder), f"../runs/{run.id}", "owner/name", "nobody"):
        assert [p.key for p in forbidden_start(tmp_path / "runs", name)] == ["problem.not_here"]
