"""scores.json read with suspicion, records of them, and RESULTS.md made of records."""

import json
import re

import pytest

from ser.errors import UserError
from ser.reporting.results import build_results, make_report
from ser.scoring.records import keep_records, read_all_records, read_all_scores, read_scores
from ser.scoring.scores import Scores
from tests.support import ROOT
from tests.support.fake_scores import make_scores


def put(root, scores):
    directory = root / "exp" / scores["corpus"] / scores["tag"]
    directory.mkdir(parents=True)
    (directory / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return directory


def spoil(tmp_path, change):
    """The path of a scores.json after ``change``."""
    scores = json.loads(json.dumps(make_scores()))
    change(scores)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores))
    return path


def test_what_stage_5_writes_can_be_read(tmp_path):
    path = spoil(tmp_path, lambda scores: None)
    assert read_scores(path)["summary"]["wa"] == 0.875


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(seed="1"), 'seed: expected a whole number, found "1"'),
        (lambda s: s.update(seed=True), "seed: expected a whole number, found true"),
        (lambda s: s["summary"].update(wa="87.5"), "summary.wa: expected a number from 0 to 1, fo"),
        (lambda s: s["summary"].update(wa=87.5), "summary.wa: expected a number from 0 to 1, fou"),
        (lambda s: s["summary"].update(ua=float("nan")), r"not JSON \(NaN is not a number\)"),
        (lambda s: s["summary"].update(wa_ci=0.5), "summary.wa_ci: expected a list, found 0.5"),
        (lambda s: s.update(labels="angry"), 'labels: expected a list, found "angry"'),
        (lambda s: s.update(folds=["Ses01F"]), "folds: expected names with values, found"),
        (lambda s: s["summary"].pop("ua"), "summary.ua not found in it"),
        (lambda s: s["per_fold"]["Ses01M"].update(n="4"), "per_fold.Ses01M.n: expected a whole"),
        (lambda s: s["speakers"][0].update(hyp="0129"), r"speakers\[0\] .* '9' is none of the 4"),
        (lambda s: s["speakers"][0].update(hyp="01"), r"Ses01F\): 4 references, 2 decisions"),
        (lambda s: s["speakers"].pop(), r"speakers: folds \['Ses01F'\], but scored are"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_place(tmp_path, change, message):
    path = spoil(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path))
    assert "--stage 5" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["summary"].update(wa=0.9), "summary.wa is 0.9, the decisions give 0.875"),
        (lambda s: s["summary"].update(n=7), "summary.n is 7, the decisions give 8"),
        (lambda s: s["per_fold"]["Ses01F"].update(ua=1.0), "per_fold.Ses01F.ua is 1.0, the dec"),
        (lambda s: s["per_class"]["sad"].update(recall=0.5), "per_class.sad.recall is 0.5"),
        (lambda s: s["per_class"]["sad"].update(precision=0.5), "per_class.sad.precision is 0.5"),
        (lambda s: s["macro"].update(f1=0.5), "macro.f1 is 0.5, the decisions give 0.86"),
        (lambda s: s["confusion"]["counts"][0].__setitem__(0, 1), r"confusion.counts\[0\]\[0\] is"),
        (lambda s: s["speakers"][0].update(hyp="0123"), "summary.wa is 0.875, the decisions give"),
    ],
)
def test_a_number_that_the_decisions_do_not_give_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_scores(spoil(tmp_path, change))


def test_what_earlier_versions_did_not_write_is_computed_or_not_known(tmp_path):
    def age(scores):
        for key in ("macro", "parameters", "auxiliary"):
            del scores[key]
        for of in scores["per_class"].values():
            del of["precision"], of["f1"]

    scores = read_scores(spoil(tmp_path, age))
    # Two of each emotion; one of the neutral ones was taken for angry.
    assert scores["per_class"]["angry"]["precision"] == pytest.approx(2 / 3)
    assert scores["per_class"]["neutral"]["f1"] == pytest.approx(2 / 3)
    assert scores["macro"]["precision"] == pytest.approx((2 / 3 + 3) / 4)
    assert (scores["parameters"], scores["auxiliary"]) == (None, {})


# Records


def test_scores_are_kept_byte_for_byte_and_others_stay(tmp_path):
    first, second = put(tmp_path, make_scores(seed=1)), put(tmp_path, make_scores(seed=2))
    runs = read_all_scores(tmp_path / "exp")
    records = tmp_path / "results"
    changed = keep_records(runs, records)
    assert [path.name for path in changed] == ["s1_strict_seed1.json", "s1_strict_seed2.json"]
    for directory, path in zip((first, second), changed, strict=True):
        assert path.read_bytes() == (directory / "scores.json").read_bytes()
    assert keep_records(runs, records) == []
    assert keep_records(runs[:1], records) == []
    assert len(read_all_records(records)) == 2


def test_the_results_of_records_are_the_same_after_the_experiments_are_gone(tmp_path):
    for seed in (1, 2):
        put(tmp_path, make_scores(correct=seed, seed=seed))
    options = {"conf_dir": tmp_path / "conf", "records": tmp_path / "results"}
    first = make_report(tmp_path / "exp", tmp_path / "RESULTS.md", **options)
    again = make_report(tmp_path / "nothing", tmp_path / "again.md", **options)
    assert first == again
    assert "`make results` from the files in [results](results)" in first
    assert "figures" not in first  # they lie in exp/, which is not kept


def test_without_records_and_experiments_the_error_names_both(tmp_path):
    expected = r"results: no <corpus>/<tag>.json in it, and .*exp has no .*--stage 5"
    with pytest.raises(UserError, match=expected):
        make_report(tmp_path / "exp", tmp_path / "R.md", records=tmp_path / "results")


def test_a_damaged_record_is_found_before_anything_is_written(tmp_path):
    put(tmp_path, make_scores())
    (tmp_path / "results/toy").mkdir(parents=True)
    (tmp_path / "results/toy/old.json").write_text("{")
    with pytest.raises(UserError, match=r"results/toy/old.json: not JSON"):
        make_report(tmp_path / "exp", tmp_path / "R.md", records=tmp_path / "results")
    assert [p.name for p in (tmp_path / "results/toy").iterdir()] == ["old.json"]
    assert not (tmp_path / "R.md").exists()


# The repository's own


@pytest.mark.parametrize("corpus", sorted(p.name for p in (ROOT / "results").iterdir()))
def test_a_record_that_is_read_and_written_keeps_its_bytes(corpus, tmp_path):
    for path in (ROOT / "results" / corpus).glob("*.json"):
        Scores.read(path).write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes(), path


def test_the_repositorys_results_are_made_from_its_records_byte_for_byte():
    runs = read_all_records(ROOT / "results")
    assert runs, "results/ holds no records"
    text = build_results(runs, ROOT / "conf", ROOT, ROOT / "results")[1]
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == text, "run: make results"


def test_no_path_of_a_machine_stands_in_the_repositorys_results():
    for path in [ROOT / "RESULTS.md", *sorted((ROOT / "results").glob("*/*.json"))]:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"[\s\"'`=](?:/|~)[a-z]+/\S*", text) == [], path
