"""run.sh and its launchers, with a stub in place of Python: order, options, logs, failures."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from ser.cli.recipe import app as recipe_app
from tests.support import ROOT
from tests.support.stub_recipe import STUB, Recipe

STAGES = ["data", "lang", "dump", "train", "score", "report"]


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


# --- order -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The recipe after a run of all stages, and the run."""
    recipe = Recipe(tmp_path_factory.mktemp("whole"))
    return recipe, recipe.run(f"--corpus-dir={recipe.dir}")


def test_all_stages_run_in_order(whole):
    recipe, done = whole
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in recipe.calls] == STAGES
    ends = re.findall(r"stage (\d) \(\w+\): done in \d+:\d\d", done.stdout)
    assert ends == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("spelling", ["--stop-stage", "--stop_stage"])
def test_stage_and_stop_stage_select_stages(recipe, spelling):
    assert recipe.run("--stage", "2", spelling, "3").returncode == 0
    assert [name for name, _ in recipe.calls] == STAGES[1:3]


@pytest.mark.parametrize("options", [("--stage=7",), ("--stage=7", "--stop-stage=7")])
def test_stage_7_packs_the_experiment_of_every_seed_when_it_is_asked_for(recipe, options):
    tags = [f"mini_s1_strict_seed{seed}" for seed in (1, 2)]
    recipe.trained(*tags)
    done = recipe.run(*options, "--seed", "1 2", "--folds", "Ses01F,Ses02M")
    assert done.returncode == 0, done.stderr
    folds = ["--folds", "Ses01F Ses02M"]
    assert recipe.calls == [("pack", [f"{recipe.exp}/mini/{tag}", *folds]) for tag in tags]
    assert done.stdout.count("stage 7 (pack): done") == 2


@pytest.mark.parametrize("stage", [5, 6, 7])
def test_a_tag_without_an_experiment_is_a_usage_error_and_leaves_nothing(recipe, stage):
    recipe.trained("mine")
    status, _, said = recipe.settle(f"--stage={stage}", "--tag=mien")
    assert status == 2
    assert f"--stage {stage}: there is no experiment {recipe.exp}/mini/mien; train" in said
    assert os.listdir(recipe.exp / "mini") == ["mine"]


@pytest.mark.parametrize("stage", [1, 2, 3, 4, 5, 6])
def test_a_failing_stage_stops_the_run_with_its_status_and_names_its_log(recipe, stage):
    if stage > 4:
        recipe.trained("mini_s1_strict_seed1")
    done = recipe.run(f"--stage={stage}", STUB_FAIL=STAGES[stage - 1])
    assert done.returncode == 7
    assert [name for name, _ in recipe.calls] == [STAGES[stage - 1]]
    assert f"stage {stage} (" in done.stderr
    assert "FAILED" in done.stderr
    assert f"{recipe.exp}/mini/mini_s1_strict_seed1/log/stage{stage}.log" in done.stderr
    assert "error: some/file:3: found this; expected that" in done.stderr
    assert f"stage {stage} ({STAGES[stage - 1]}): done" not in done.stdout
    assert "# exit status: 7\n" in recipe.log(stage)


def fail_to_score(recipe):
    recipe.trained("mini_s1_strict_seed1")
    return recipe.run("--stage=5", STUB_FAIL="score")


def test_an_error_above_a_long_tail_is_still_shown_with_all_of_its_lines(recipe):
    noisy = STUB.replace(
        "  exit 7", "  printf '  a part\\n  the cure\\n' >&2\n  seq 40 >&2\n  exit 7"
    )
    recipe.python.write_text(noisy)
    done = fail_to_score(recipe)
    assert "error: some/file:3: found this; expected that\n  a part\n  the cure\n" in done.stderr
    assert "\n40\n" in done.stderr
    assert "\n5\n" not in done.stderr


def test_an_error_of_many_lines_is_shown_whole_and_once(recipe):
    error = "printf '%s\\n' 'error: not the whole corpus' '  no file '{1..30} >&2"
    recipe.python.write_text(STUB.replace("  exit 7", f"  {error}\n  exit 7"))
    done = fail_to_score(recipe)
    lines = ["error: not the whole corpus", *(f"  no file {i}" for i in range(1, 31))]
    assert "\n".join(lines) in done.stderr
    assert done.stderr.count("no file 30\n") == 1


def test_what_was_shown_of_folds_is_not_repeated_when_a_stage_fails(recipe):
    done = recipe.run("--stage=4", STUB_FAIL="train")
    assert (done.stdout + done.stderr).count("[fold] Ses01F: UA 50.0") == 1


def test_an_experiment_directory_that_cannot_be_written_is_named(recipe):
    (recipe.dir / "exp dir").write_text("a file")
    done = recipe.run()
    assert done.returncode == 1
    assert re.search(r"error: .*/exp dir/.*stage1.log: cannot be written; choose", done.stderr)
    assert recipe.calls == []


# --- what reaches the Python programs ----------------------------------------------------------


def test_directories_with_blanks_reach_every_stage_whole(whole):
    recipe, _ = whole
    data, dump = f"{recipe.dir}/data dir", f"{recipe.dir}/dump dir"
    exp = f"{recipe.exp}/mini/mini_s1_strict_seed1"
    assert recipe.arguments("data")["--corpus-dir"] == str(recipe.dir)
    assert recipe.arguments("data")["--data-dir"] == data
    assert recipe.arguments("lang")["--data-dir"] == f"{data}/mini"
    for name in ("dump", "train", "score"):
        assert recipe.arguments(name)["--data-dir"] == f"{data}/mini"
        assert recipe.arguments(name)["--dump-dir"] == f"{dump}/mini"
    for name in ("train", "score", "report"):
        assert recipe.arguments(name)["--exp-dir"] == exp
    assert recipe.arguments("report")["--exp-root"] == str(recipe.exp)
    assert recipe.arguments("report")["--results"] == f"{recipe.exp}/RESULTS.md"


def test_relative_directories_are_those_of_the_caller(recipe):
    (recipe.dir / "mine").mkdir()
    options = ["--corpus-dir", "mine", "--data-dir", "d", "--stop-stage", "1"]
    done = recipe.run(*options, script="egs/mini/run.sh")
    assert done.returncode == 0, done.stderr
    assert recipe.arguments("data")["--corpus-dir"] == f"{recipe.dir}/mine"
    assert recipe.arguments("data")["--data-dir"] == f"{recipe.dir}/d"


def test_directories_inside_the_recipe_are_written_short(recipe):
    assert (
        recipe.run("--stage", "2", "--stop-stage", "2", f"--data-dir={ROOT}/data").returncode == 0
    )
    assert recipe.arguments("lang")["--data-dir"] == "data/mini"


@pytest.mark.parametrize("corpus", sorted(p.parent.name for p in ROOT.glob("egs/*/run.sh")))
def test_each_corpus_has_a_script_of_its_own(recipe, corpus):
    config = f"--config={ROOT}/conf/train_s1_mtl_phoneme.yaml"
    recipe.python.write_text('#!/bin/bash\necho Usage:\nprintf "%s\\n" "$@" >"$STUB_DIR/given"\n')
    done = recipe.run("--stop-stage", "1", config, script=f"egs/{corpus}/run.sh")
    assert done.returncode == 0, done.stderr
    module, *given = (recipe.dir / "given").read_text().splitlines()[1:]
    assert module == "ser.cli.recipe"
    status, settings, said = recipe.settle(*given)
    assert status == 0, said
    assert f"data_options=(--corpus={corpus} " in settings


def test_the_tag_is_made_from_config_protocol_and_seed(recipe):
    config = ROOT / "conf/train_s2_single_task.yaml"
    recipe.run("--stage=4", "--stop-stage=4", f"--config={config}", "--protocol=paper", "--seed=07")
    args = recipe.arguments("train")
    assert args["--exp-dir"].endswith("/mini/s2_single_task_paper_seed7")
    assert (args["--protocol"], args["--seed"]) == ("paper", "7")
    assert args["--config"] == "conf/train_s2_single_task.yaml"


@pytest.mark.parametrize(
    "options", [["--protocol", "kfold", "--k", "05"], ["--protocol=kfold5"]], ids=["two", "one"]
)
def test_every_stage_knows_kfold_by_its_number_of_parts(recipe, options):
    done = recipe.run("--stage=3", "--stop-stage=4", "--nj=1", *options)
    assert done.returncode == 0, done.stderr
    assert recipe.arguments("dump")["--protocol"] == "kfold5"
    assert recipe.arguments("train")["--protocol"] == "kfold5"
    assert recipe.arguments("train")["--exp-dir"].endswith("/mini/mini_s1_kfold5_seed1")


def test_training_options_reach_the_trainer(recipe):
    extra = ["--optim_conf", "lr=1.0e-4", "--wandb_project", "a b"]
    options = ["--max-epoch=3", "--ssl=owner/model", "--overwrite=true", "--folds", "Ses01F Ses02M"]
    done = recipe.run("--stage=4", "--stop-stage=4", "--nj=1", *options, "--", *extra)
    assert done.returncode == 0, done.stderr
    ((_, args),) = recipe.calls
    assert args[-5:] == ["--", *extra]
    assert "--max-epoch=3" in args
    assert "--ssl=owner/model" in args
    assert "--overwrite" in args
    assert "--folds=Ses01F Ses02M" in args


def test_folds_may_be_separated_by_commas_in_every_stage(recipe):
    done = recipe.run("--stage=4", "--stop-stage=5", "--nj=1", "--folds=Ses01F,Ses02M")
    assert done.returncode == 0, done.stderr
    assert recipe.arguments("train")["--folds"] == "Ses01F Ses02M"
    assert recipe.arguments("score")["--folds"] == "Ses01F Ses02M"


@pytest.fixture
def prepared(recipe):
    """The recipe after stage 1 with classes of its own and other transcripts."""
    text = recipe.dir / "my text.txt"
    text.write_text("u1 words\n")
    marker = recipe.dir / "data dir/mini/all/.done"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"emotions": ["angry", "sad"], "text_digest": "another"}))
    recipe.dump("strict")
    return recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--emotions=4"], "--emotions 4: "),
        (["--text", "my text.txt"], "was made with other transcripts"),
    ],
)
def test_options_of_stage_1_are_compared_with_it_by_a_run_that_leaves_it_out(
    prepared, options, message
):
    status, _, said = prepared.settle("--stage=4", *options)
    assert status == 2
    assert message in said


def test_transcripts_reach_stage_1(prepared):
    prepared.run("--stop-stage=1", "--text", "my text.txt")
    assert prepared.arguments("data")["--text"] == f"{prepared.dir}/my text.txt"


def test_casia_is_trained_on_without_transcripts_by_default(recipe):
    done = recipe.run("--corpus=casia", "--stage=3", "--stop-stage=4")
    assert done.returncode == 0, done.stderr
    assert recipe.arguments("train")["--config"] == "conf/train_s4_cgru_attention.yaml"


def test_the_training_seed_does_not_change_the_corpus(recipe):
    recipe.run("--stop-stage=1", "--seed=5")
    assert "--seed" not in recipe.arguments("data")


# --- folds in parallel -------------------------------------------------------------------------


def write_folds(recipe, *names):
    recipe.dump("strict", names)


def shares(recipe):
    """What each training process was told to train."""
    found = [arg for name, args in recipe.calls if name == "train" for arg in args]
    return sorted(arg.removeprefix("--share=") for arg in found if arg.startswith("--share="))


def test_folds_are_shared_out_among_nj_workers_with_the_cores(recipe):
    write_folds(recipe, "A", "B", "C", "D", "E")
    # nproc honours OMP_NUM_THREADS: 6 cores for 2 workers
    recipe.run("--stage=4", "--stop-stage=4", "--nj=2", OMP_NUM_THREADS="6")
    assert shares(recipe) == ["1/2", "2/2"]
    threads = [line.split()[1] for line in (recipe.dir / "environment").read_text().splitlines()]
    cores = int(
        subprocess.run(
            ["nproc"], capture_output=True, env={"OMP_NUM_THREADS": "6", "PATH": os.environ["PATH"]}
        ).stdout
    )
    assert threads == [str(max(1, cores // 2))] * 2


def test_there_are_no_more_workers_than_folds(recipe):
    write_folds(recipe, "A", "B", "C")
    recipe.run("--stage=4", "--stop-stage=4", "--nj=8", "--folds=B")
    assert shares(recipe) == ["1/1"]
    assert recipe.arguments("train")["--folds"] == "B"


def test_each_gpu_trains_folds_of_its_own(recipe):
    write_folds(recipe, "A", "B", "C")
    done = recipe.run("--stage=4", "--stop-stage=4", "--ngpu=2", CUDA_VISIBLE_DEVICES="3,5")
    assert done.returncode == 0, done.stderr
    assert shares(recipe) == ["1/2", "2/2"]
    lines = (recipe.dir / "environment").read_text().splitlines()
    assert sorted(line.split()[-1] for line in lines) == ["3", "5"]
    assert all("--ngpu=1" in args for _, args in recipe.calls)


def test_several_folds_share_the_gpus_that_were_asked_for_and_no_others(recipe):
    write_folds(recipe, "A", "B", "C", "D", "E")
    options = ["--stage=4", "--stop-stage=4", "--ngpu=2", "--folds-per-gpu=2"]
    done = recipe.run(*options, CUDA_VISIBLE_DEVICES="3,5,7")
    assert done.returncode == 0, done.stderr
    assert shares(recipe) == ["1/4", "2/4", "3/4", "4/4"]
    lines = (recipe.dir / "environment").read_text().splitlines()
    assert sorted(line.split()[-1] for line in lines) == ["3", "3", "5", "5"]


def test_a_failing_worker_fails_the_stage_after_the_others_have_ended(recipe):
    write_folds(recipe, "A", "B")
    recipe.python.write_text(
        STUB.replace('== "$STUB_FAIL" ]]', '== train && "$*" == *"share=1/2"* ]]')
    )
    done = recipe.run("--stage=4", "--nj=2")
    assert done.returncode == 7
    assert len(recipe.calls) == 2
    assert "stage4.worker.1.log" in done.stderr
    assert "error: some/file:3" in done.stderr
    tag = recipe.exp / "mini/mini_s1_strict_seed1/log"
    assert "# exit status: 0\n" in (tag / "stage4.worker.2.log").read_text()


# --- logs and the terminal ---------------------------------------------------------------------


def test_a_log_says_what_ran_where_when_and_how_it_ended(whole):
    recipe, _ = whole
    time_stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}"
    for stage, name in enumerate(STAGES, start=1):
        log = recipe.log(stage)
        header = rf"# command: .* -m ser {name} .*\n# host: \S+\n# start: {time_stamp}\n"
        assert re.match(header, log)
        assert re.search(rf"# end: {time_stamp}\n# exit status: 0\n\Z", log)
        if stage != 4:
            assert f"table of {STAGES[stage - 1]}\n" in log
            assert f"chatter of {STAGES[stage - 1]}\n" in log
            assert f"[progress] {STAGES[stage - 1]} half way\n" in log


def test_without_a_terminal_tables_are_shown_and_progress_is_not(whole):
    _, done = whole
    for name in ("data", "lang", "dump", "score", "report"):
        assert f"table of {name}\n" in done.stdout
    assert "[fold] Ses01F: UA 50.0\n" in done.stdout
    assert "table of train" not in done.stdout
    assert "progress" not in done.stdout + done.stderr
    assert "chatter" not in done.stdout + done.stderr


def test_warnings_are_shown_when_the_stage_has_ended(recipe):
    recipe.python.write_text(
        STUB.replace('echo "chatter', 'echo "warning: 3 files short" >&2\necho "chatter')
    )
    done = recipe.run("--stop-stage=1")
    assert done.stdout.count("warning: 3 files short\n") == 1


def on_terminal(recipe, *args, until=None):
    """(exit status, all that appeared) of run.sh on a terminal; calls until(text so far)."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [ROOT / "run.sh", *recipe.options, *args], stdout=theirs, stderr=theirs, env=recipe.env
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # how the end of a terminal shows on Linux
                break
            if until:
                until(shown.decode())
    os.close(ours)
    return process.returncode, shown.decode()


def test_on_a_terminal_the_progress_line_is_rewritten_in_place(recipe):
    status, shown = on_terminal(recipe, "--stop-stage=1")
    assert status == 0
    assert "\r\033[K  data half way\r\033[Ktable of data\r\n" in shown


def test_a_long_progress_line_is_cut_to_the_width_of_the_terminal(recipe):
    recipe.python.write_text(STUB.replace("half way", "x" * 500))
    _, shown = on_terminal(recipe, "--stop-stage=1")
    (line,) = set(re.findall(r"\r\033\[K(  data x+)", shown))  # drawn again on a busy machine
    assert len(line) < 500


def test_on_a_terminal_progress_is_also_read_from_the_logs_of_the_folds(recipe):
    # The trainer writes to its fold's log alone, until the line has been seen.
    log = recipe.exp / "mini/mini_s1_strict_seed1/log/stage4.Ses01F.log"
    recipe.python.write_text(
        STUB.replace(
            'echo "table',
            "if [[ $name == train ]]; then\n"
            "  for i in {1..400}; do\n"
            "    [[ ! -e $STUB_DIR/seen ]] || break\n"
            f"    echo '[progress] Ses01F epoch 2/8' >>\"{log}\"\n"
            "    sleep 0.05\n"
            "  done\n"
            "fi\n"
            'echo "table',
        )
    )

    def go_on(shown):
        if "\r\033[K  Ses01F epoch 2/8" in shown:
            (recipe.dir / "seen").touch()

    recipe.dump("strict")
    status, shown = on_terminal(recipe, "--stage=4", "--stop-stage=4", until=go_on)
    assert status == 0, shown
    assert (recipe.dir / "seen").exists()


def begin_with(recipe, stage):
    """The options of a run that begins with ``stage``."""
    recipe.dump("strict")
    return [*recipe.options, f"--stage={STAGES.index(stage) + 1}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", ["dump", "train"])
def test_a_signal_ends_the_children_and_no_success_is_claimed(recipe, stage, number):
    process = subprocess.Popen(
        [ROOT / "run.sh", *begin_with(recipe, stage)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=recipe.env | {"STUB_HANG": stage},
        # whoever runs the tests in the background has them ignore SIGINT, and bash cannot undo that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid_file = recipe.dir / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"({stage}): stopped by SIGTERM after " in stderr
    assert recipe.calls[-1][0] == stage
    assert f"({stage}): done" not in stdout
    wait_until(lambda: not is_running(int(pid_file.read_text())))
    assert "# exit status: 143\n" in recipe.log(STAGES.index(stage) + 1)


@pytest.mark.parametrize("stage", ["dump", "train"])
@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["run.sh alone", "with its group"])
def test_kill_9_leaves_nothing_running_that_would_lock_the_next_run_out(recipe, stage, kill):
    process = subprocess.Popen(
        [ROOT / "run.sh", *begin_with(recipe, stage)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=recipe.env | {"STUB_HANG": stage},
        start_new_session=True,
    )
    pid_file = recipe.dir / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_running(int(pid_file.read_text())))
    done = recipe.run(*begin_with(recipe, stage), f"--stop-stage={STAGES.index(stage) + 1}")
    assert done.returncode == 0, done.stderr


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:  # it may end at any moment: between opening and reading, too
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- several seeds ------------------------------------------------------------------------------


def test_several_seeds_are_trained_and_scored_together(recipe):
    write_folds(recipe, "A", "B")
    done = recipe.run("--stage=4", "--seed", "1, 02", "--nj=8")
    assert done.returncode == 0, done.stderr
    exps = [f"{recipe.exp}/mini/mini_s1_strict_seed{seed}" for seed in (1, 2)]
    trainers = [args for name, args in recipe.calls if name == "train"]
    assert shares(recipe) == ["1/4", "2/4", "3/4", "4/4"]
    directories = [f"--exp-dir={exp}" for exp in exps]
    for args in trainers:
        start = args.index(directories[0])
        assert args[start : start + 3] == [*directories, "--seed=1 2"]
    rest = [(name, [a for a in args if "--exp-dir" in a]) for name, args in recipe.calls[4:]]
    assert rest == [(name, directories) for name in ("score", "report")]


def test_a_tag_gets_the_seed_only_where_there_are_several(recipe):
    recipe.trained("mine", "mine_seed7", "mine_seed8")
    recipe.run("--stage=5", "--stop-stage=5", "--tag=mine", "--seed=7")
    recipe.run("--stage=5", "--stop-stage=5", "--tag=mine", "--seed=7 8")
    exps = [arg for _, args in recipe.calls for arg in args if "--exp-dir" in arg]
    assert [exp.rpartition("/")[2] for exp in exps] == ["mine", "mine_seed7", "mine_seed8"]


# --- on Slurm: what sbatch is given; tests/cluster/test_slurm.py runs it for real

# Takes every job, numbers from 101 on, but those that are to be refused.
SBATCH = """#!/usr/bin/env bash
printf -v call '%s\\037' "$@"
printf '%s\\n' "$call" >>"$STUB_DIR/jobs"
[[ -z $STUB_FAIL || "$*" != *"--job-name=$STUB_FAIL "* ]] || { echo no such thing >&2; exit 1; }
echo $((100 + $(wc -l <"$STUB_DIR/jobs")))
"""


def jobs(recipe):
    """(options of sbatch, the job's script) of every job."""
    path = recipe.dir / "jobs"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    calls = [line.split("\037")[:-1] for line in lines]
    return [(options, Path(script).read_text()) for *options, script in calls]


def option(arguments, name):
    """The value of ``name``; None without it."""
    found = [a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")]
    return found[0] if found else None


@pytest.fixture
def slurm(recipe):
    """The recipe with programs of Slurm's names, by which every job has ended well at once."""
    programs = recipe.dir / "bin"
    programs.mkdir()
    texts = {
        "sbatch": SBATCH,
        "squeue": "#!/bin/sh\n",
        "scancel": '#!/bin/sh\necho "scancel $*" >>"$STUB_DIR/slurm_calls"\n',
        "scontrol": "#!/bin/sh\necho 'JobState=COMPLETED ExitCode=0:0'\n",
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    conf = recipe.dir / "slurm.conf"
    conf.write_text("")
    recipe.options += ["--backend=slurm", f"--slurm-conf={conf}"]
    recipe.env |= {"PATH": f"{programs}:{recipe.env['PATH']}", "SER_SLURM_POLL": "0.01"}
    return recipe


def test_on_slurm_every_stage_is_a_job_and_stage_4_an_array_over_folds(slurm):
    write_folds(slurm, "A", "B", "C")
    done = slurm.run("--nj=2")
    assert done.returncode == 0, done.stderr
    log_dir = slurm.exp / "mini/mini_s1_strict_seed1/log"
    found = jobs(slurm)
    assert [option(options, "--job-name") for options, _ in found] == [
        f"stage{number}" for number in range(1, 7)
    ]
    for number, (options, script) in enumerate(found, start=1):
        if number != 4:
            assert option(options, "--output") == f"{log_dir}/stage{number}.log"
            assert re.search(rf" -m ser {STAGES[number - 1]} ", script)
    options, script = found[3]
    assert option(options, "--array") == "1-3%2"
    assert option(options, "--output") == f"{log_dir}/stage4.worker.%a.log"
    assert '--share="$JOB"/3' in script


def test_settings_are_checked_here_before_the_array_is_submitted(slurm):
    slurm.run("--stage=4", "--stop-stage=4", "--", "--optim_conf", "lr=1")
    ((check, args),) = slurm.calls
    assert check == "train"
    assert "--check-only" in args
    assert args[-3:] == ["--", "--optim_conf", "lr=1"]
    assert len(jobs(slurm)) == 1
    done = slurm.run("--stage=4", STUB_FAIL="train")
    assert done.returncode == 7
    assert "error: some/file:3" in done.stderr
    assert len(jobs(slurm)) == 1


def test_without_nj_the_array_has_no_throttle(slurm):
    slurm.run("--stage=4", "--stop-stage=4")
    assert option(jobs(slurm)[0][0], "--array") == "1-1"


def test_gpus_and_nodes_are_those_of_one_fold(slurm):
    done = slurm.run("--stage=4", "--stop-stage=5", "--ngpu=2", "--num-nodes=3")
    assert done.returncode == 0, done.stderr
    (train, script), (score, _) = jobs(slurm)
    assert (option(train, "--gres"), option(train, "--nodes")) == ("gpu:2", "3")
    assert "--ngpu=2 --num-nodes=3" in script
    assert option(score, "--gres") == "gpu:1"


def test_processes_of_stages_1_and_3_get_a_cpu_each(slurm):
    slurm.run("--stop-stage=3", "--nj=5")
    assert [option(options, "--cpus-per-task") for options, _ in jobs(slurm)] == ["5", None, "5"]


@pytest.mark.parametrize(
    ("protocol", "folds", "last"), [("strict", 10, 6), ("session", 5, 4), ("kfold7", 7, 4)]
)
def test_a_detached_run_submits_a_chain_and_says_how_to_follow_it(slurm, protocol, folds, last):
    done = slurm.run("--detach", "--protocol", protocol, f"--stop-stage={last}")
    assert done.returncode == 0, done.stderr
    found = [options for options, _ in jobs(slurm)]
    assert slurm.calls == []
    afters = [option(options, "--dependency") for options in found]
    numbers = range(101, 101 + last)
    assert afters == [None, *(f"afterok:{number}" for number in numbers[:-1])]
    assert option(found[3], "--array") == f"1-{folds}"  # by corpus.yaml: stage 3 has not run
    assert f"scancel {' '.join(map(str, numbers))}\n" in done.stdout
    assert "./run.sh --status" in done.stdout


def test_a_chain_that_begins_with_training_has_its_settings_checked_first(slurm):
    slurm.run("--stage=4", "--detach=true", "--", "--optim_conf", "lr=1")
    assert [name for name, _ in slurm.calls] == ["train"]
    assert "--check-only" in slurm.calls[0][1]
    found = jobs(slurm)
    assert len(found) == 3
    assert " -- --optim_conf lr=1\n" in found[0][1]


def test_what_was_submitted_is_withdrawn_when_a_later_stage_is_refused(slurm):
    done = slurm.run("--detach=true", STUB_FAIL="stage4")
    assert done.returncode == 1
    assert "stage 4 (train): not submitted" in done.stderr
    assert (slurm.dir / "slurm_calls").read_text() == "scancel 101 102 103\n"
    assert len((slurm.dir / "jobs").read_text().splitlines()) == 4


def test_slurm_without_sbatch_is_a_usage_error_that_says_where_to_go(recipe):
    path = recipe.dir / "few programs"
    path.mkdir()
    for program in ("bash", "dirname"):
        (path / program).symlink_to(shutil.which(program))
    done = recipe.run("--backend=slurm", PATH=str(path))
    assert done.returncode == 2
    assert "--backend slurm: found no program sbatch; run this where jobs are submitted" in (
        done.stderr
    )


def test_the_backend_of_cmd_sh_counts_where_the_option_is_not_given(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "local", copy / "local")
    shutil.copytree(ROOT / "egs/mini", copy / "egs/mini")
    for name in ("conf", "ser"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("run.sh", "path.sh"):
        shutil.copy(ROOT / name, copy)
    text = (ROOT / "cmd.sh").read_text()
    (copy / "cmd.sh").write_text(text.replace("BACKEND:-local", "BACKEND:-moon"))
    options = [f"--python={sys.executable}"]
    done = subprocess.run([copy / "run.sh", *options], capture_output=True, text=True)
    assert "--backend moon: expected local or slurm" in done.stderr
    done = subprocess.run(
        [copy / "run.sh", *options, "--backend=sge"], capture_output=True, text=True
    )
    assert "--backend sge: expected" in done.stderr


# --- warned of the end ---------------------------------------------------------------------------


def warn(recipe, **env):
    """run.sh, sent USR1 while its stage hangs: (exit status, stdout)."""
    process = subprocess.Popen(
        [ROOT / "run.sh", *begin_with(recipe, env["STUB_HANG"])],
        stdout=subprocess.PIPE,
        text=True,
        env=recipe.env | env,
    )
    pid_file = recipe.dir / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    process.send_signal(signal.SIGUSR1)
    stdout, _ = process.communicate(timeout=120)
    return process.returncode, stdout


# A training that writes a checkpoint when it is warned.
CHECKPOINTING = STUB.replace("  echo $$ >", "  trap 'kill $!; exit 75' USR1\n  echo $$ >")


def test_a_warned_training_ends_the_run_with_its_status_and_how_to_go_on(recipe):
    recipe.python.write_text(CHECKPOINTING)
    status, stdout = warn(recipe, STUB_HANG="train")
    assert status == 75
    assert re.search(r"stage 4 \(train\): stopped after 0:\d\d by a signal; run the same", stdout)
    assert recipe.calls[-1][0] == "train"


def test_a_warned_stage_without_checkpoints_ends_the_run_in_the_same_way(recipe):
    status, stdout = warn(recipe, STUB_HANG="lang")
    assert status == 75
    assert "stage 2 (lang): stopped" in stdout
    assert recipe.calls[-1][0] == "lang"


def test_a_stage_that_ends_in_spite_of_the_warning_is_the_last(recipe):
    recipe.python.write_text(CHECKPOINTING.replace("exit 75", "exit 0"))
    status, stdout = warn(recipe, STUB_HANG="train")
    assert status == 75
    assert "stage 4 (train): done" in stdout
    assert recipe.calls[-1][0] == "train"


@pytest.mark.parametrize(("job", "requeued"), [("12", True), ("13", False)])
def test_a_warned_run_requeues_its_job_only_if_it_is_the_batch_script(slurm, job, requeued):
    slurm.python.write_text(CHECKPOINTING)
    note = '#!/bin/sh\necho "scontrol $*" >>"$STUB_DIR/slurm_calls"\n'
    (slurm.dir / "bin/scontrol").write_text(note)
    slurm.options.remove("--backend=slurm")
    status, stdout = warn(slurm, STUB_HANG="train", SLURM_JOB_ID="12", SER_BATCH_JOB=job)
    assert status == 75
    calls = slurm.dir / "slurm_calls"
    assert (calls.exists() and calls.read_text() == "scontrol requeue 12\n") == requeued
    assert ("job 12 is requeued and goes on by itself" in stdout) == requeued


def test_the_copy_that_sbatch_makes_of_run_sh_runs_the_original(slurm):
    copy = slurm.dir / "spool/job00012/slurm_script"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "run.sh", copy)
    shown = f"JobId=12\n   Command={ROOT}/run.sh --stage 5\n   WorkDir=/"
    (slurm.dir / "bin/scontrol").write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n")
    slurm.options.remove("--backend=slurm")
    slurm.trained("mini_s1_strict_seed1")
    done = slurm.run("--stage=5", "--stop-stage=5", script=copy, SLURM_JOB_ID="12")
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in slurm.calls] == ["score"]


# --- status --------------------------------------------------------------------------------------


def test_status_runs_no_stage_and_looks_at_the_experiments_of_all_seeds(recipe):
    done = recipe.run("--status", "--seed=1 2", "--protocol=paper", "--ngpu=4")
    assert done.returncode == 0, done.stderr
    ((name, args),) = recipe.calls
    assert name == "status"
    exps = [f"{recipe.exp}/mini/mini_s1_paper_seed{seed}" for seed in (1, 2)]
    assert args[-2:] == [f"--exp-dir={exp}" for exp in exps]
    assert args[:4] == ["--dump-dir", f"{recipe.dir}/dump dir/mini", "--protocol", "paper"]
    assert not recipe.exp.exists()


# --- wrong options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--corpus", "imeocap"], "--corpus 'imeocap' is unknown; egs/ has: "),
        (["--corpus", "../egs/mini"], "is unknown; egs/ has: "),
        (["--config", "conf/none.yaml"], "there are: conf/"),
        (["--corpus-dir", "/no/such"], "--corpus-dir /no/such: no such directory"),
        (["--text", "/no/such.txt"], "--text /no/such.txt: no such file"),
        (["--stage", "0"], "Input should be greater than or equal to 1"),
        (["--stage", "two"], "Input should be a valid integer"),
        (["--stop_stage", "8"], "Input should be less than or equal to 7"),
        (["--stage", "5", "--stop-stage", "4"], "--stage 5 comes after --stop-stage 4"),
        (["--stage", "7", "--stop-stage", "6"], "--stage 7 comes after --stop-stage 6"),
        (["--protocol", "loso"], "expected strict, paper, session, official, crossed or kfold"),
        (["--protocol", "kfold"], "--protocol kfold needs a number of folds or groups, e.g. --k 5"),
        (["--protocol", "kfold", "--k", "1"], "--k 1: expected a whole number from 2 on"),
        (["--protocol", "kfold", "--k", "five"], "--k five: expected a whole number"),
        (["--protocol", "kfold1"], "--k 1: expected a whole number from 2 on"),
        (["--protocol", "kfoldx"], "--protocol kfoldx: expected strict, paper"),
        (["--protocol", "kfold5", "--k", "4"], "--protocol kfold5: expected strict, paper"),
        (["--k", "5"], "--k 5 is for --protocol kfold and crossed; leave it out with strict"),
        (["--nj=-1"], "Input should be greater than or equal to 0"),
        (["--seed=-1"], "--seed -1: expected a whole number from 0 to 4294967295"),
        (
            ["--seed", "4294967296"],
            "--seed 4294967296: expected a whole number from 0 to 4294967295",
        ),
        (["--seed", "99999999999999999999"], "expected a whole number from 0 to 4294967295"),
        (["--seed", "1 2 x"], "--seed x: expected a whole number"),
        (["--seed", "1 2 01"], "--seed 1 is given twice"),
        (["--seed="], "--seed is empty; give a number, or several"),
        (["--max-epoch", "1.5"], "Input should be a valid integer"),
        (["--ngpu", "1"], "--ngpu 1: this machine shows 0 GPUs"),
        (["--tag", "a/b"], "a tag is a name without blanks, not a path"),
        (["--tag", ".."], "a tag is a name without blanks, not a path"),
        (["--tag", " "], "a tag is a name without blanks, not a path"),
        (["--allow-partial=yes"], "--allow-partial=yes: expected true or false"),
        (["--backend", "sge"], "--backend sge: expected local or slurm"),
        (["--backend=local", "--detach"], "--detach: needs --backend slurm"),
        (["--backend=local", "--num-nodes=2"], "--num-nodes 2: needs --backend slurm"),
        (["--num-nodes=0"], "Input should be greater than or equal to 1"),
        (["--backend=slurm", "--slurm-conf=/none"], "--slurm-conf /none: no such file"),
        (["--stopstage", "3"], "No such option: --stopstage"),
    ],
)
def test_a_wrong_option_is_a_usage_error(recipe, args, message):
    status, _, said = recipe.settle(*args)
    assert status == 2
    assert message in said
    assert not recipe.exp.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--protocol", "loso"], "expected strict, paper, session, official, crossed or kfold"),
        (["--stopstage", "3"], "No such option: --stopstage"),
        (["--python", "/no/python"], "make install"),
    ],
)
def test_a_usage_error_ends_run_sh_before_anything_runs(recipe, args, message):
    done = recipe.run(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert recipe.calls == []
    assert not recipe.exp.exists()


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true"])
def test_a_program_that_is_no_python_is_named(recipe, program):
    done = recipe.run("--python", program)
    assert done.returncode in (1, 2) and not done.stdout
    assert done.stderr.startswith(f"error: --python {program}: no Python; to install")
    assert done.stderr.count("\n") == 1


def test_a_device_of_minus_one_is_no_gpu(recipe):
    status, _, said = recipe.settle("--ngpu", "1", CUDA_VISIBLE_DEVICES="-1")
    assert status == 2
    assert "--ngpu 1: this machine shows 0 GPUs" in said


def test_the_unknown_corpus_error_lists_every_corpus(recipe):
    listed = recipe.settle("--corpus=x")[2].split("egs/ has:")[1].split()
    assert listed == sorted(path.parent.name for path in ROOT.glob("egs/*/corpus.yaml"))


def test_a_stage_with_a_bad_config_stops_the_run_before_stage_1(recipe):
    recipe.python.write_text('#!/bin/bash\necho "error: conf: unknown key" >&2\nexit 1\n')
    done = recipe.run()
    assert done.returncode == 1
    assert "error: conf: unknown key" in done.stderr
    assert not recipe.exp.exists()


# --- help --------------------------------------------------------------------------------------


def test_help_lists_every_option_and_every_stage():
    shown = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True).stdout
    listed = re.findall(r"^  (?:-h, )?--([a-z-]+)", shown.split("\nOptions:")[1], re.M)
    names = [p for p in typer.main.get_command(recipe_app).params if p.name != "help"]
    assert listed == [
        *(p.opts[0][2:] for p in names if p.opts[0].startswith("--")),
        "help",
    ]
    for stage, name in enumerate([*STAGES, "pack"], start=1):
        assert f"\n    {stage}  {name} " in shown


def test_an_exported_cdpath_changes_nothing():
    # through it, cd prints where it goes
    done = subprocess.run(
        [f"{ROOT.name}/run.sh", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        env=os.environ | {"CDPATH": "."},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_order_stays_readable():
    assert len((ROOT / "run.sh").read_text().splitlines()) <= 60


def test_the_shell_needs_no_more_than_bash_4_2():
    # ${x@Q} (4.4), local -n and declare -n (4.3), wait -n (4.3)
    newer = re.compile(r"\$\{\w+@|(local|declare) -n|wait -n|mapfile -d|readarray -d")
    for path in [ROOT / "run.sh", ROOT / "cmd.sh", *ROOT.glob("local/*.sh")]:
        assert not newer.search(path.read_text()), path
