"""README's table and figure, and the systems by year."""

import json

import pytest

from ser.reporting.overview import (
    DECADE,
    END,
    OVERVIEW,
    START,
    dated_rows,
    decade_table,
    draw_decade,
    forest_chart,
    overview_table,
)
from ser.reporting.results import make_report
from ser.reporting.rows import group_seeds
from tests.support.fake_scores import make_scores

README = f"# Recipe\n\n{START}\nan older table\n{END}\n\nThe end.\n"
CONF = """\
paper: {year: 2021, by: Cai et al., note: "stated with folds by dialog: LEAKY"}
stated: {corpus: iemocap, protocol: prefix, wa: 78.15, ua: , source: Cai}
"""
COMMAND = "./run.sh --corpus emodb --config conf/train_s3_char.yaml --max-epoch 5"


def scores(corpus, system, tag="", **changes):
    found = make_scores(corpus=corpus, system=system, tag=tag or f"{system}_strict_seed1")
    found["config"] = {"path": f"conf/train_{system}.yaml", "sha256": "c"}
    return found | changes


@pytest.fixture
def checkout(tmp_path):
    """Records of two corpora, configurations, and a README with the marks."""
    sweep = {"name": "phoneme_head", "about": "", "number": 1, "points": 3, "stated": None}
    for found in (
        scores("nemo", "s0"),
        scores("nemo", "s1", tag="a", sweep=sweep | {"point": "none"}),
        scores("nemo", "s1", tag="b", sweep=sweep | {"point": "tagged_class"}),
        scores("nemo", "s1_leaky", leaky=["folds by dialog"]),
        scores("emodb", "whisper_s0"),
        scores("emodb", "s3_char", max_epoch=5, command=COMMAND),
        scores("emodb", "emodb_s1_plus"),
        scores("emodb", "emodb_s2_plus"),
        scores("mini", "s3_char"),
    ):
        path = tmp_path / "results" / found["corpus"] / f"{found['tag']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train_s3_char.yaml").write_text(CONF)
    (tmp_path / "conf/train_base.yaml").write_text("paper: {year: 2024, by: Li et al.}\n")
    for system in ("emodb_s1_plus", "emodb_s2_plus"):
        (tmp_path / f"conf/train_{system}.yaml").write_text("base: train_base.yaml\n")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "docs").mkdir()
    return tmp_path


def make_results(root):
    return make_report(
        root / "exp", root / "RESULTS.md", conf_dir=root / "conf", records=root / "results"
    )


def test_make_results_puts_six_rows_at_most_between_the_marks_of_readme(checkout):
    make_results(checkout)
    text = (checkout / "README.md").read_text()
    before, _, rest = text.partition(START)
    table, _, after = rest.partition(END)
    assert (before, after) == ("# Recipe\n\n", "\n\nThe end.\n")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.split("\n") if line][2:]
    assert [row[:2] for row in rows] == [
        ["nEMO", "S0, the floor"],
        ["nEMO", "S2+, frozen encoder"],
        ["nEMO", "S1+, frozen encoder"],
        ["EmoDB", "S0, the floor"],
        ["EmoDB", "S2+"],
        ["EmoDB", "S1+"],
    ]
    assert rows[0][2:] == ["87.5 [0.0 to 100.0]"] * 2  # two speakers: any other may be anything


def test_the_figures_are_equal_files_for_equal_records(checkout):
    make_results(checkout)
    first = {name: (checkout / name).read_bytes() for name in (OVERVIEW, DECADE)}
    make_results(checkout)
    assert {name: (checkout / name).read_bytes() for name in first} == first
    assert all(b"<svg" in content for content in first.values())


@pytest.mark.parametrize("readme", [None, "# Mine\n", README.replace(END, "")])
def test_a_readme_without_the_marks_is_left_alone(checkout, readme):
    path = checkout / "README.md"
    path.write_text(readme) if readme is not None else path.unlink()
    make_results(checkout)
    assert (path.read_text() if path.exists() else None) == readme


def test_without_a_folder_for_them_no_figures_are_drawn(checkout):
    (checkout / "docs").rmdir()
    assert DECADE not in make_results(checkout)
    assert not (checkout / "docs").exists()


def rows_of(root):
    paths = sorted((root / "results").glob("*/*.json"))
    return group_seeds([(path, json.loads(path.read_text())) for path in paths])


def test_systems_stand_by_the_year_of_their_paper_with_what_is_not_comparable(checkout):
    dated = dated_rows(rows_of(checkout), checkout / "conf")
    assert list(dated) == ["emodb"]  # mini is synthetic; no system of nemo has a paper
    table = decade_table(dated)
    assert [row[:3] for row in table] == [
        ["2021", "Cai et al.", "s3_char `--max-epoch 5`"],
        ["2024", "Li et al.", "emodb_s1_plus"],
        ["2024", "Li et al.", "emodb_s2_plus"],
    ]
    assert table[0][4:] == [
        "87.5 [0.0 to 100.0]",
        "87.5 [0.0 to 100.0]",
        "1,234,567",
        "0:00:20",
        "stated with folds by dialog: LEAKY",
    ]
    text = make_results(checkout)
    section = text.split("## A decade of speech emotion recognition on one protocol")[1]
    start = "| 2021 | Cai et al. | s3_char `--max-epoch 5` | emodb | 87.5 [0.0 to 100.0] |"
    assert start in section
    assert f"![WA of the systems by year]({DECADE})" in section

    noted = [text.get_text() for text in draw_decade(dated).axes[0].texts]
    assert noted[:2] == ["1.2 M, 0:00:20, 5 epochs", "1.2 M, 0:00:20"]


def test_leaky_rows_are_in_neither(checkout):
    text = overview_table(rows_of(checkout))
    assert "s1_leaky" not in text and text.count("nEMO") == 3


def test_a_row_is_drawn_at_its_wa_with_its_interval(checkout):
    row = next(r for r in rows_of(checkout) if r.first["system"] == "s3_char")
    chart = forest_chart({"EmoDB": {"S3": (row, "1 M")}}, "title", "size")
    (ax,) = chart.axes
    assert list(ax.lines[0].get_xdata()) == [87.5]
    (low, high) = ax.collections[0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((0, 100))
    assert [text.get_text() for text in ax.texts] == ["1 M", "size"]
    assert ax.get_title(loc="left") == "EmoDB, 2 unseen speakers"
