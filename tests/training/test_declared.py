"""ser/training/declared.py: what a system's YAML says wrong is told without importing a network."""

import subprocess
import sys

import pytest

from ser.errors import UserError
from ser.models.heads import aux_heads
from ser.models.registry import find_classes
from ser.training.declared import _subclasses, check_system, task_parser
from ser.training.task import SERTask
from tests.support import ROOT

SYSTEMS = sorted((ROOT / "conf").glob("*.yaml"))
HEAD = "aux_conf: {{pr: {{{}}}}}"


def test_the_parsed_command_line_is_that_of_the_task():
    real = {action.dest: action for action in SERTask.get_parser()._actions}
    parsed = {action.dest: action for action in task_parser()._actions}
    assert real.keys() == parsed.keys()
    for name, action in parsed.items():
        mapping = type(real[name]).__name__ == "NestedDictAction"
        assert (type(action).__name__ == "NestedDictAction") == mapping, name
        if action.choices is not None:
            assert set(action.choices) == set(real[name].choices), name
    assert _subclasses("AuxHead", "Head").keys() == aux_heads().keys()
    for choices in SERTask.class_choices_list:
        parent, suffix = choices.base_type, choices.name.title()
        assert _subclasses(parent.__name__, suffix).keys() == find_classes(parent, suffix).keys()


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_every_system_passes(path):
    if path.stem.startswith("lora_"):
        pytest.importorskip("peft", reason="peft (requirements-apps.txt) is missing")
    check_system(path)


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        ("max_epoc: 1", [], "unknown key 'max_epoc'; did you mean max_epoch"),
        ("max_epoch: 1\nmax_epoch: 2", [], "x.yaml:3: max_epoch: given a second time"),
        ("pooling: meen", [], "pooling: found 'meen'; expected one of .*mean"),
        ("pooling_conf: {maks: x}", [], "MeanPooling has no option 'maks'; .*did you mean mask"),
        ("frontend_conf: {modle: x}", [], "no option 'modle'; .*did you mean model"),
        ("frontend_conf: {layers: all, model: /no/where}", [], "/no/where: no such folder"),
        ("batch_size: 0", [], "batch_size: found 0"),
        ("batch_size: many", [], "batch_size: found 'many'; expected a whole number"),
        ("", ["--batch_size", "0"], "batch_size: found 0"),
        ("", ["--optm_conf", "lr=1"], "--optm_conf: no such option; did you mean --optim_conf"),
        ("", ["--pooling", "meen"], "invalid choice: 'meen'"),
        ("optim: adm", [], "optim: found 'adm'; expected one of adam, .*; did you mean adam"),
        ("scheduler: warmuplrr", [], "scheduler: found 'warmuplrr'; .*did you mean warmuplr"),
        ("", ["--optim", "adm"], "--optim: invalid choice: 'adm' .*adamw"),
        ("optim_conf: {lr: fast}", [], "x.yaml: optim_conf.lr: found 'fast'; expected a number"),
        ("", ["--optim_conf", "lr=fast"], "with the options after --: optim_conf.lr: found 'fast'"),
        ("optim_conf: {weight_dekay: 1}", [], "Adam has no option .*did you mean weight_decay"),
        ("optim: sgd\noptim_conf: {momentun: 1}", [], "SGD has no option .*did you mean momentum"),
        ("max_epoch: 0", [], "max_epoch: found 0; expected a whole number, 1 or more"),
        ("max_epoch: many", [], "max_epoch: found 'many'; expected a whole number"),
        ("accum_grad: 0", [], "accum_grad: found 0; expected a whole number, 1 or more"),
        ("patience: -1", [], "patience: found -1; expected a whole number, 0 or more"),
        ("", ["--patience", "-1"], "patience: found -1"),
        ("keep_nbest_models: [3, 0]", [], r"keep_nbest_models: found \[3, 0\]; expected"),
        ("keep_nbest_models: [many]", [], r"keep_nbest_models: found \['many'\]; expected"),
        ("lr_conf: {encoders: 2.0}", [], "lr_conf.encoders: unknown; choose from heads"),
        ("model_conf: {dropuot: 0.1}", [], "model_conf: SERModel .*did you mean dropout"),
        ("model_conf: {class_counts: [1]}", [], "model_conf: SERModel has no option"),
        ("scheduler_conf: {warmup_steps: 3}", [], "scheduler_conf: there is no scheduler"),
        ("scheduler: warmuplr\nscheduler_conf: {warmup_step: 3}", [], "WarmupLR .* warmup_steps"),
        ("scheduler: steplr\nscheduler_conf: {gama: 0.3}", [], "StepLR .*did you mean gamma"),
        ("heads_first_conf: {max_epochs: 3}", [], "HeadsFirst .*did you mean max_epoch"),
        ("heads_first_conf: {lr: fast}", [], "heads_first_conf.lr: found 'fast'; .* a number"),
        ("fit: linear_svm\nfit_conf: {c: [1.0]}", [], "fit_conf: FitConf has no option 'c'"),
        ("aux_conf: [pr]", [], "aux_conf: found .*; expected a mapping"),
        (HEAD.format("type: ctc, wieght: 1"), [], "pr.wieght: .*; did you mean weight"),
        (HEAD.format("typ: ctc, weight: 1"), [], "did you mean type"),
        (HEAD.format("type: ctx, weight: 1"), [], "pr.type: 'ctx'; .*did you mean ctc"),
    ],
)
def test_what_needs_no_network_is_refused(tmp_path, text, extra, message):
    path = tmp_path / "x.yaml"
    path.write_text(f"base: {ROOT}/conf/mini_s1.yaml\n{text}\n")
    with pytest.raises(UserError, match=message):
        check_system(path, extra)


@pytest.mark.parametrize(
    ("text", "extra"),
    [
        ("optim: AdamW\noptim_conf: {lr: 1.0e-3}", ["--patience", "none", "--scheduler", "none"]),
        ("scheduler: WarmupLR\nscheduler_conf: {warmup_steps: 3}", ["--max_epoch", "2"]),
        ("patience: 0", ["--optim_conf", "lr=2e-5", "--scheduler", "StepLR"]),
    ],
)
def test_what_espnet_takes_passes(tmp_path, text, extra):
    path = tmp_path / "x.yaml"
    path.write_text(f"base: {ROOT}/conf/mini_s1.yaml\n{text}\n")
    check_system(path, extra)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        check_system(ROOT / "conf/mini_s1.yaml", ssl=str(tmp_path))


def test_a_missing_dump_and_an_unknown_fold_are_refused(tmp_path):
    with pytest.raises(UserError, match="the folds of protocol strict"):
        check_system(SYSTEMS[0], fold_dir=tmp_path / "strict")


def test_nothing_that_takes_seconds_is_imported():
    code = (
        "import sys; from pathlib import Path; from ser.training.declared import check_system; "
        f"check_system(Path({str(SYSTEMS[0])!r})); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_run_sh_says_one_sentence_before_anything_begins(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"base: {ROOT}/conf/mini_s1.yaml\npooling: meen\n")
    folders = [f"--{name}-dir={tmp_path / name}" for name in ("data", "dump", "exp")]
    done = subprocess.run(
        [ROOT / "run.sh", "--config", path, "--python", sys.executable, *folders],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and not done.stdout
    assert done.stderr.count("\n") == 1 and "pooling: found 'meen'" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]
