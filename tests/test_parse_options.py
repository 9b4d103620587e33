"""local/parse_options.sh: options come from the header, defaults from the variables."""

import subprocess

import pytest

from tests.support import ROOT

SCRIPT = """#!/usr/bin/env bash
# Does nothing.
#
# Usage: example.sh [options]
#   --data-dir DIR     where the tables are
#   --stop-stage N     last stage
#   --dry-run BOOL     only print
#   --tag NAME         no default
{extra}
set -euo pipefail
data_dir=data
stop_stage=6
dry_run=false
tag=
secret=kept
. "{root}/local/parse_options.sh"
parse_options "$@"
printf '%s\\n' "$data_dir" "$stop_stage" "$dry_run" "$tag" "$secret" "${{#extra_args[@]}}"
((${{#extra_args[@]}} == 0)) || printf '%s\\n' "${{extra_args[@]}}"
"""


@pytest.fixture
def example(tmp_path):
    """Run the script above; returns (exit status, lines of stdout, stderr)."""

    def run(*args, extra="#   -- REST            passed on"):
        script = tmp_path / "example.sh"
        script.write_text(SCRIPT.format(root=ROOT, extra=extra))
        done = subprocess.run(["bash", script, *args], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


def test_defaults_stand_without_options(example):
    assert example() == (0, ["data", "6", "false", "", "kept", "0"], "")


@pytest.mark.parametrize(
    "args",
    [
        ["--stop-stage", "3"],
        ["--stop_stage", "3"],
        ["--stop-stage=3"],
        ["--stop_stage=3"],
        ["--stop-stage", "5", "--stop_stage=3"],
    ],
)
def test_both_spellings_and_the_equals_sign_set_the_same_variable(example, args):
    assert example(*args)[1][1] == "3"


def test_values_are_taken_literally(example, tmp_path):
    value = "a b'c\"d $(touch hacked) `touch hacked` \\ *;ü"
    assert example("--data-dir", value)[1][0] == value
    assert example(f"--data-dir={value}")[1][0] == value
    assert not (tmp_path / "hacked").exists()


def test_a_value_may_contain_an_equals_sign_or_be_empty_or_negative(example):
    assert example("--tag=a=b")[1][3] == "a=b"
    assert example("--data-dir=")[1][0] == ""
    assert example("--stop-stage", "-1")[1][1] == "-1"


def test_what_follows_two_dashes_is_kept_untouched(example):
    status, lines, _ = example("--tag", "x", "--", "--optim_conf", "lr=1 e", "")
    assert (status, lines[3], lines[5:]) == (0, "x", ["3", "--optim_conf", "lr=1 e", ""])


def test_two_dashes_are_refused_where_the_header_does_not_offer_them(example):
    status, _, err = example("--", "more", extra="#")
    assert status == 2
    assert "takes no arguments after --, but got: more" in err


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("--stopstage", "--stop-stage"),
        ("--stop", "--stop-stage"),
        ("--data_dri", "--data-dir"),
        ("--tags", "--tag"),
        ("--tga=3", "--tag"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest_one(example, wrong, nearest):
    status, _, err = example(wrong, "3")
    assert status == 2
    assert f"unknown option '{wrong.split('=')[0]}'; nearest: {nearest}\n" in err


def test_a_variable_that_the_header_does_not_list_cannot_be_set(example):
    status, _, err = example("--secret", "stolen")
    assert status == 2
    assert "unknown option '--secret'" in err


@pytest.mark.parametrize("args", [["--tag"], ["--tag", "--stop-stage", "3"]])
def test_a_missing_value_is_a_usage_error(example, args):
    status, _, err = example(*args)
    assert status == 2
    assert "--tag needs a value" in err


def test_a_switch_takes_only_true_or_false(example):
    assert example("--dry-run", "true")[1][2] == "true"
    status, _, err = example("--dry-run", "yes")
    assert status == 2
    assert "--dry-run must be true or false, not 'yes'" in err


@pytest.mark.parametrize(
    "args", [["--dry-run"], ["--tag", "x", "--dry_run"], ["--dry-run", "--tag", "x"]]
)
def test_a_switch_alone_is_true(example, args):
    status, lines, _ = example(*args)
    assert (status, lines[2]) == (0, "true")
    assert lines[3] == ("x" if "x" in args else "")


def test_a_stray_argument_is_a_usage_error(example):
    status, _, err = example("data")
    assert status == 2
    assert "unexpected argument 'data'" in err


def test_a_listed_option_without_a_default_is_reported(example):
    status, _, err = example(extra="#   --forgotten N    has no variable")
    assert status == 2
    assert "the header lists --forgotten, but $forgotten has no default" in err


def test_a_line_of_the_usage_lists_no_option(example):
    status, _, err = example("--other", "1", extra="# Or: example.sh \\\n#      --other 1")
    assert status == 2
    assert "unknown option '--other'" in err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_header_with_the_defaults(example, flag):
    status, lines, _ = example(flag)
    assert status == 0
    assert lines == [
        "Does nothing.",
        "",
        "Usage: example.sh [options]",
        "  --data-dir DIR     where the tables are [data]",
        "  --stop-stage N     last stage [6]",
        "  --dry-run BOOL     only print [false]",
        "  --tag NAME         no default",
        "  -- REST            passed on",
    ]
