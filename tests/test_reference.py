"""docs/reference.md: as new as the code, and complete."""

import inspect
import re
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
import yaml

from ser.config import load_config
from ser.corpora.spec import KEYS
from ser.models.heads import aux_heads
from ser.training.task import _OPTIONS, SERTask
from tests.support import ROOT, load_script

reference = load_script("local/reference.py")
COMMITTED = ROOT / "docs/reference.md"


@pytest.fixture(scope="module")
def text() -> str:
    return reference.reference()


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = heading.split(" ")[0]
    body = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", body, flags=re.MULTILINE)[0]


def keys(text: str) -> set[str]:
    """The first word of the first cell of every row."""
    return set(re.findall(r"^\| `([^` \n]+)", text, re.MULTILINE))


def test_the_committed_file_is_what_the_code_says(text):
    assert COMMITTED.read_text(encoding="utf-8") == text, "run make docs"


def test_every_option_of_run_sh_stands_in_it(text):
    done = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True, check=True)
    options = re.findall(r"^  (--[a-z][a-z-]*) ", done.stdout, re.MULTILINE)
    assert len(options) > 30
    assert keys(section(text, "## run.sh").split("###")[0]) == {*options, "--"}


@pytest.mark.parametrize("name", reference.commands())
def test_every_argument_of_a_command_stands_in_it_with_a_word_about_it(name, text):
    shown = section(text, f"### ser {name}")
    for parameter in reference.commands()[name].params:
        if parameter.name != "help" and not parameter.hidden:
            word = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
            assert f"`{word or ''}" in shown, parameter.name
            assert len(parameter.help) > 5


def test_every_option_that_the_recipe_adds_to_espnet_stands_in_it(text):
    source = (ROOT / "ser/training/trainer.py").read_text(encoding="utf-8")
    added = set(re.findall(r'"--([a-z_]+)"', source)) | _OPTIONS.keys()
    assert {"token_type", "keep_checkpoints", "lr_conf"} < added
    shown = section(text, "### The recipe's options").split("####")[0]
    assert added <= set(re.findall(r"`([a-z_]+)`", shown))


def test_every_key_of_the_systems_stands_in_it(text):
    shown = keys(section(text, "## A system's YAML"))
    for path in (ROOT / "conf").glob("*.yaml"):
        assert load_config(path).keys() <= shown, path


def test_every_option_of_a_network_or_head_stands_in_its_table_with_a_word_about_it(text):
    classes = {f"#### type: {name}": cls for name, cls in aux_heads().items()}
    for choices in SERTask.class_choices_list:
        for name, cls in choices.classes.items():
            mark = " (default)" if name == choices.default else ""
            classes[f"#### {choices.name}: {name}{mark}"] = cls
    assert len(classes) > 10
    given = {"self", "input_size", "frame_size", "pooled_size", "inventory"}
    for heading, cls in classes.items():
        shown = section(text, heading)
        options = set(inspect.signature(cls.__init__).parameters) - given - {"kwargs", "args"}
        assert options <= keys(shown), heading
        if cls.__module__.startswith("ser."):
            for option in options:
                assert re.search(rf"^\| `{option}` .*[^`|\s] \|$", shown, re.MULTILINE), option


def test_every_key_of_a_corpus_yaml_stands_in_it(text):
    shown = keys(section(text, "## corpus.yaml"))
    assert shown == set(KEYS)
    documents = [path.read_text(encoding="utf-8") for path in ROOT.glob("egs/*/corpus.yaml")]
    corpora = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
    documents += re.findall(r"```yaml\n(.*?)```", corpora, re.DOTALL)
    assert len(documents) > 6
    for document in documents:
        assert yaml.safe_load(document).keys() <= shown


def test_every_make_target_stands_in_it(text):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    shown = section(text, "## make")
    assert "docs" in targets and all(f"`make {name}`" in shown for name in targets)


def test_it_names_no_path_of_this_machine_and_no_object_in_memory(text):
    assert str(ROOT) not in text and str(Path.home()) not in text
    assert " at 0x" not in text and "<class" not in text and "<function" not in text


def test_a_link_inside_of_it_leads_somewhere(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https:"):
            assert (ROOT / "docs" / link).exists(), link


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head(text):
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block.splitlines()[0]


def test_the_width_of_the_terminal_changes_nothing(monkeypatch):
    sections = []
    for columns in ("20", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        sections.append(reference.commands_section())
    assert sections[0] == sections[1]


# --- the parts, by hand -------------------------------------------------------------------------


def test_rows_of_a_command():
    def example(
        files: Annotated[list[str], typer.Argument(metavar="FILE...", help="what to | read")],
        kind: Annotated[Literal["a", "b"], typer.Option(help="of  two\n lines")],
        rate: Annotated[float, typer.Option(help="of 100 %; <x>")] = 0.5,
        many: Annotated[int, typer.Option(show_default="all", help="how many")] = 0,
        quick: Annotated[bool, typer.Option("--quick", help="no waiting")] = False,
        secret: Annotated[str, typer.Option(hidden=True)] = "",
    ) -> None: ...

    made = typer.Typer(add_completion=False)
    made.command()(example)
    command = typer.main.get_command(made)
    assert reference.options_table(command).splitlines()[2:] == [
        "| `FILE...` |  | what to \\| read |",
        "| `--kind a\\|b`, required |  | of two lines |",
        "| `--rate N` | `0.5` | of 100 %; \\<x> |",
        "| `--many N` | `all` | how many |",
        "| `--quick` |  | no waiting |",
    ]


def test_the_arguments_of_a_docstring():
    class Example:
        """What it is.

        Args:
            one: The first: a ``mapping``
                over two lines.
            two, three: Both.

        Raises:
            UserError: never.
        """

    assert reference.arguments(Example) == {
        "one": "The first: a ``mapping`` over two lines.",
        "two": "Both.",
        "three": "Both.",
    }


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (1e-4, "0.0001"),
        ((1, "a"), "[1, a]"),
        ({"a": [None]}, "{a: [null]}"),
        (dict, "dict"),
    ],
)
def test_values_are_written_as_in_yaml(value, written):
    assert reference._value(value) == written
