"""Stage 4 for real: ESPnet's trainer on a few tones with a tiny encoder."""

import fcntl
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from espnet2.tasks import abs_task
from espnet2.train.reporter import SubReporter

from ser.errors import UserError
from ser.provenance import run_command
from ser.stage import file_digest, read_marker
from ser.training import folds as train_module
from ser.training.checkpoint import read_checkpoint, save
from ser.training.devices import lacks_bfloat16
from ser.training.passes import Statistics, Training, _update
from ser.training.trainer import wa_ua
from tests.support import ROOT
from tests.support.training import interrupted_at, read_json, same, train, weights, write_system


def test_a_finished_fold_says_which_model_to_infer_with(trained):
    fold = trained / "Ses01F"
    record = read_json(fold / "run.json")
    assert record["epochs"] == 3
    assert (fold / record["inference_model"]).exists()
    assert record["model_sha256"] == file_digest(fold / record["inference_model"])
    assert same(weights(fold, record["inference_model"]), weights(fold, "valid.UA.best.pth"))
    best = max(read_json(fold / "history.json"), key=lambda entry: entry["valid"]["UA"])
    assert record["best_epoch"] == best["epoch"]
    assert read_marker(fold)["max_epoch"] == 3


def test_the_history_holds_epoch_wide_scores_and_fusion_weights(trained):
    history = read_json(trained / "Ses01F/history.json")
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    for entry in history:
        for phase in ("train", "valid"):
            stats = entry[phase]
            assert {"loss", "loss_er", "loss_pr", "WA", "UA", "layer_weight_0"} <= stats.keys()
            assert stats["layer_weight_0"] + stats["layer_weight_1"] == pytest.approx(1, abs=1e-5)
            assert stats["loss"] == pytest.approx(
                stats["loss_er"] + 0.1 * stats["loss_pr"], rel=1e-3
            )
        # 8 validation utterances, 2 of each class: every recall is a multiple of 1/2
        assert (entry["valid"]["UA"] * 8) == pytest.approx(round(entry["valid"]["UA"] * 8))
        assert entry["valid"]["WA"] == pytest.approx(entry["valid"]["UA"])


def test_the_log_of_a_fold_has_command_host_start_end_and_status(trained):
    log = (trained / "log/stage4.Ses01F.log").read_text().splitlines()
    assert [line.split(":")[0] for line in log[:3]] == ["# command", "# host", "# start"]
    assert log[-2].startswith("# end: ")
    assert log[-1] == "# exit status: 0"
    assert any(line.startswith("[progress] Ses01F epoch 3/3 valid") for line in log)


def test_weights_and_biases_gets_every_epoch_under_the_name_of_the_fold(
    corpus, trained, tmp_path, monkeypatch
):
    wandb, names, logged = types.ModuleType("wandb"), [], []
    wandb.login = wandb.finish = lambda: None
    wandb.run = object()
    wandb.init = lambda **options: names.append(options["name"])
    wandb.config = types.SimpleNamespace(update=lambda args: None)
    wandb.log = logged.append
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(abs_task, "wandb", wandb)
    shutil.copytree(trained, tmp_path / "s1", symlinks=True)
    train(corpus, tmp_path / "s1", extra_args=["--use_wandb", "true"])  # no other settings
    assert names == []
    train(corpus, tmp_path / "s2", extra_args=["--use_wandb", "true"])
    assert names == ["s2/Ses01F"]
    per_epoch = [values for values in logged if "epoch" in values]
    assert [values["epoch"] for values in per_epoch] == [1, 2, 3]
    assert all({"train/train_loss_epoch", "valid/valid_UA_epoch"} <= v.keys() for v in per_epoch)


def test_a_finished_fold_is_not_trained_again(corpus, trained, capfd):
    before = (trained / "Ses01F/3epoch.pth").stat().st_mtime_ns
    train(corpus, trained)
    assert (trained / "Ses01F/3epoch.pth").stat().st_mtime_ns == before
    assert "Ses01F: already trained" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("nbest", ["1", "3"])
def test_a_finished_fold_keeps_the_model_that_is_tested_and_nothing_else(corpus, tmp_path, nbest):
    options = {"extra_args": ["--keep_nbest_models", nbest]}
    train(corpus, tmp_path, **options)
    fold = tmp_path / "Ses01F"
    kept = weights(fold, "valid.UA.ave.pth")
    options["extra_args"] += ["--keep_checkpoints", "false"]
    train(corpus, tmp_path, **options)  # also of one that finished before
    files = [path for path in fold.glob("*.pth") if not path.is_symlink()]
    assert files == [(fold / "valid.UA.ave.pth").resolve()]
    assert all(path.exists() for path in fold.glob("*.pth"))  # no link leads nowhere
    assert same(weights(fold, "valid.UA.ave.pth"), kept)
    fresh = tmp_path / "fresh"
    train(corpus, fresh, **options)
    assert {p.name for p in fresh.glob("Ses01F/*.pth")} == {p.name for p in fold.glob("*.pth")}
    assert same(weights(fresh / "Ses01F", "valid.UA.ave.pth"), kept)
    (fold / "run.json").unlink()
    train(corpus, tmp_path, **options)  # without checkpoints it could only train anew
    assert (fold / "run.json").exists()
    assert len(list(fold.glob("*.pth"))) == len(list(fresh.glob("Ses01F/*.pth")))


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", None), ("run.json", "garbage"), ("run.json", "[]"), ("config.yaml", None)],
)
def test_a_lost_record_is_made_again_without_training(corpus, trained, tmp_path, name, content):
    shutil.copytree(trained, tmp_path / "exp", symlinks=True)
    path = tmp_path / "exp/Ses01F" / name
    record = path.read_text().replace(str(trained), str(tmp_path / "exp"))
    path.unlink() if content is None else path.write_text(content)
    train(corpus, tmp_path / "exp")
    assert path.read_text() == record


def test_other_settings_under_the_same_tag_are_refused_with_what_changed(corpus, trained):
    with pytest.raises(UserError, match=r"max_epoch: 3 -> 4\n(.|\n)*--overwrite true"):
        train(corpus, trained, max_epoch=4)
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        train(corpus, trained, seed=2)


def test_where_a_training_comes_from_is_noted_and_what_began_it_stays(corpus, trained, tmp_path):
    exp_dir = tmp_path / "copy"
    shutil.copytree(trained, exp_dir, symlinks=True)
    path = exp_dir / "run.yaml"
    path.write_text(path.read_text().replace("commit: ", "commit: first-"))
    origin = {"name": "lambda", "file": "conf/sweeps/lambda.yaml", "config": "base.yaml"}
    train(corpus, exp_dir, config=write_system(tmp_path / "point.yaml", sweep=origin))
    run = yaml.safe_load(path.read_text())
    assert run["commit"].startswith("first-")
    assert run["sweep"] == origin
    assert "--sweep conf/sweeps/lambda.yaml --config base.yaml" in run_command(run)


def test_an_attempt_that_trained_nothing_does_not_occupy_its_tag(corpus, tmp_path):
    broken = tmp_path / "broken"  # an encoder whose weights are missing: found in the fold
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(UserError, match="1 of 1 folds failed"):
        train(corpus, tmp_path, max_epoch=1, ssl=str(broken))
    train(corpus, tmp_path, max_epoch=1)
    assert read_marker(tmp_path / "Ses01F") is not None


def test_damaged_files_are_named_with_what_to_do(corpus, trained, tmp_path):
    for name, content in {"run.yaml": b"\xff", "Ses01F/settings.json": b"{"}.items():
        exp_dir = tmp_path / Path(name).name
        shutil.copytree(trained, exp_dir, symlinks=True)
        (exp_dir / name).write_bytes(content)
        (exp_dir / "Ses01F/.done").unlink()
        with pytest.raises(UserError, match=rf"{name}: damaged .*--overwrite true"):
            train(corpus, exp_dir)


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(b"PK\3\4 garbage")
    with pytest.raises(UserError, match=r"checkpoint.pth: cannot be read .*remove .* stage 4 ag"):
        read_checkpoint(tmp_path / "checkpoint.pth")


def test_a_fold_that_another_run_is_at_work_on_stops_the_second(corpus, tmp_path):
    theirs = os.open(tmp_path / ".Ses01F.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(theirs, fcntl.LOCK_EX)
    os.write(theirs, b'{"host": "n1", "pid": 7, "since": "2025-01-31T12:00:00", "job": "12_3"}')
    with pytest.raises(UserError, match="Ses01F: another run .* host n1, pid 7, job 12_3, since 2"):
        train(corpus, tmp_path)
    assert not (tmp_path / "Ses01F").exists()
    os.close(theirs)


def test_units_that_were_not_dumped_are_asked_for(corpus, tmp_path):
    config = write_system(tmp_path / "system.yaml", token_type="phone")
    with pytest.raises(UserError, match=r"text_phone: no such file.*--stage 2 --stop-stage 3"):
        train(corpus, tmp_path, config=config)


def test_overwrite_trains_anew_instead_of_going_on(corpus, tmp_path):
    train(corpus, tmp_path, max_epoch=1)
    train(corpus, tmp_path, max_epoch=1, seed=2, overwrite=True)
    fresh = tmp_path / "fresh"
    train(corpus, fresh, max_epoch=1, seed=2)
    assert same(weights(tmp_path / "Ses01F", "1epoch.pth"), weights(fresh / "Ses01F", "1epoch.pth"))


def test_the_paper_protocol_trains_all_epochs_and_never_validates(corpus, tmp_path):
    train(corpus, tmp_path, protocol="paper", max_epoch=2)
    fold = tmp_path / "Ses01F"
    assert read_json(fold / "run.json")["inference_model"] == "latest.pth"
    assert (fold / "latest.pth").resolve().name == "2epoch.pth"
    assert all("valid" not in entry for entry in read_json(fold / "history.json"))


def test_the_best_epoch_on_the_test_speaker_is_taken_only_on_request_and_marked(corpus, tmp_path):
    train(corpus, tmp_path, protocol="paper", select="best-on-test")
    run = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert run["leaky"] == ["--select best-on-test: the epoch was chosen by the test utterances"]
    assert "--select best-on-test" in run_command(run)
    shapes = yaml.safe_load((tmp_path / "Ses01F/config.yaml").read_text())["valid_shape_file"]
    assert shapes == [str(corpus / "dump/tones/folds/paper/Ses01F/test.shape")]
    history = read_json(tmp_path / "Ses01F/history.json")
    best = max(history, key=lambda entry: entry["valid"]["UA"])
    assert read_json(tmp_path / "Ses01F/run.json")["best_epoch"] == best["epoch"]
    with pytest.raises(UserError, match="select: 'best-on-test' -> "):
        train(corpus, tmp_path, protocol="paper")


def test_a_schedule_over_the_whole_training_ends_with_its_last_step(corpus, tmp_path):
    schedule = {"max_steps": "auto", "warmup_ratio": 0.2, "hold_ratio": 0.0, "decay_ratio": 0.8}
    conf = {"scheduler": "tristagelr", "scheduler_conf": schedule}
    train(corpus, tmp_path / "exp", config=write_system(tmp_path / "system.yaml", **conf))
    state = torch.load(tmp_path / "exp/Ses01F/checkpoint.pth", weights_only=False)
    # 5 batches in steps of two are 3 steps an epoch, the last of one batch; 3 epochs
    assert state["schedulers"][0]["last_epoch"] == state["schedulers"][0]["max_steps"] == 9
    (group,) = state["optimizers"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0.01 * 1.0e-3)


def test_fewer_batches_than_a_group_of_accumulation_still_train(corpus, tmp_path):
    train(corpus, tmp_path, extra_args=["--accum_grad", "100"])
    history = read_json(tmp_path / "Ses01F/history.json")
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    losses = [entry["train"]["loss"] for entry in history]
    assert losses[2] < losses[0]


def test_a_training_without_finite_gradients_is_not_taken_for_finished(corpus, tmp_path):
    for _ in range(3):  # nor when it is tried again until its epochs are used up
        with pytest.raises(UserError, match="1 of 1 folds failed"):
            train(corpus, tmp_path, max_epoch=2, extra_args=["--optim_conf", "lr=1e30"])
        assert read_marker(tmp_path / "Ses01F") is None
    log = (tmp_path / "log/stage4.Ses01F.log").read_text()
    assert "no step had a finite gradient; lower the learning rate" in log


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["epoch 1/3 valid", "2/3epoch started", "epoch 3/3 train"])
def test_a_fold_killed_at_any_moment_resumes_to_the_same_model(
    corpus, trained, tmp_path, processes, moment
):
    interrupted_at(processes, corpus, tmp_path, moment)
    assert read_marker(tmp_path / "Ses01F") is None
    train(corpus, tmp_path)
    for name in ("3epoch.pth", "valid.UA.best.pth"):
        assert same(weights(tmp_path / "Ses01F", name), weights(trained / "Ses01F", name)), name


@pytest.mark.slow
@pytest.mark.parametrize("file", ["checkpoint.pth", "2epoch.pth"])
def test_death_while_a_file_of_the_second_epoch_is_written_costs_no_result(
    corpus, tmp_path, monkeypatch, file
):
    averaged = {"extra_args": ["--keep_nbest_models", "3"]}  # needs every epoch's file at the end
    train(corpus, tmp_path / "undisturbed", **averaged)
    save, seen = torch.save, []

    def save_half_and_die(obj, f, *args, **kwargs):
        name = str(getattr(f, "name", f))
        seen.append(file in name)
        if file in name and (file == "2epoch.pth" or sum(seen) == 2):
            path = f if isinstance(f, str | Path) else f.name
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(obj, f, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save_half_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "died", **averaged)
    monkeypatch.setattr(torch, "save", save)
    train(corpus, tmp_path / "died", **averaged)
    for name in ("3epoch.pth", "valid.UA.best.pth", "valid.UA.ave_3best.pth"):
        died, undisturbed = (tmp_path / run / "Ses01F" for run in ("died", "undisturbed"))
        assert same(weights(died, name), weights(undisturbed, name)), name


def test_a_checkpoint_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "checkpoint.pth"

    class Poison:
        def __reduce__(self):
            raise RuntimeError("the disk is full")

    save({"epoch": 1}, path)
    with pytest.raises(RuntimeError, match="the disk is full"):
        save({"epoch": 2, "bad": Poison()}, path)
    assert torch.load(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_a_full_disk_is_told_from_a_defect_when_a_checkpoint_does_not_fit(tmp_path):
    program = f"""
import resource, signal, torch
from pathlib import Path
from ser.training.checkpoint import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    save([torch.zeros(3000), torch.zeros(300000)], Path({str(tmp_path / "checkpoint.pth")!r}))
except OSError as err:
    print(err.strerror, err.filename)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert f"File too large {tmp_path}/checkpoint.pth\n" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_failing_fold_is_named_with_its_log_and_the_others_still_train(
    corpus, tmp_path, monkeypatch
):
    from ser.training.task import SERTask

    original = SERTask.main

    def main(args):
        if args.run_label == "Ses01F":
            raise RuntimeError("out of memory")
        return original(args=args)

    monkeypatch.setattr(SERTask, "main", main)
    with pytest.raises(UserError, match=r"1 of 2 folds failed; see .*stage4.Ses01F.log"):
        train(corpus, tmp_path, folds=("Ses01F", "Ses02M"), max_epoch=1)
    assert read_marker(tmp_path / "Ses02M") is not None
    log = (tmp_path / "log/stage4.Ses01F.log").read_text()
    assert "out of memory" in log
    assert log.endswith("# exit status: 1\n")


def test_stage_4_before_stage_3_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"\./run.sh --stage 3 --stop-stage 3"):
        train(tmp_path, tmp_path / "exp")


def test_an_unknown_fold_lists_those_there_are(corpus, tmp_path):
    with pytest.raises(UserError, match="Ses09X: not in protocol strict; it has Ses01F Ses01M"):
        train(corpus, tmp_path, folds=("Ses09X",))


def test_wa_and_ua_of_a_hand_worked_confusion():
    # recalls 3/4, 0/1 and (third class absent) nothing
    counts = torch.tensor([[3, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert wa_ua(counts) == pytest.approx((3 / 5, 3 / 8))


def test_a_last_step_of_scaled_gradients_is_that_of_plain_ones():
    """With use_amp, where ESPnet scales losses so that small gradients survive in float16."""
    options = SimpleNamespace(grad_clip=1.0, grad_clip_type=2.0, grad_noise=False)
    stepped = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = model(torch.tensor([[3.0, 4.0]])).sum()  # gradient (3, 4), clipped to (0.6, 0.8)
        (loss if scaler is None else scaler.scale(loss)).backward()
        training = Training(model, model, [optimizer], [None], scaler, options, False)
        statistics = Statistics(SubReporter("train", 1, 0))
        _update(training, statistics)
        statistics.next()
        reporter = statistics.flush()
        assert reporter.stats["grad_norm"][0].value == pytest.approx(5.0)
        assert model.weight.grad is None
        stepped.append(model.weight.detach())
    assert stepped[0].tolist() == [[pytest.approx(0.94), pytest.approx(0.92)]]
    assert torch.allclose(*stepped)
    with pytest.raises(AssertionError):  # of a scaler that nothing was scaled with
        scaler.update()


@pytest.mark.parametrize(
    ("has", "device"),
    [
        ({"architecture": "x86_64", "avx512_f": True}, "processor"),
        ({"architecture": "x86_64", "avx512_bf16": True}, None),
        ({"architecture": "x86_64", "amx_bf16": True}, None),
        ({"architecture": "aarch64"}, None),  # not known
    ],
)
def test_a_processor_without_bfloat16_is_known(monkeypatch, has, device):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert lacks_bfloat16(0) == device


@pytest.mark.parametrize("emulated", [True, False])
def test_a_gpu_that_only_emulates_bfloat16_is_said(corpus, tmp_path, monkeypatch, capsys, emulated):
    trained = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: not emulated)
    monkeypatch.setattr(
        train_module._Work, "train_fold", lambda _, args, log: trained.append(args) or True
    )
    config = write_system(tmp_path / "bfloat16.yaml", model_conf={"amp_dtype": "bfloat16"})
    train(corpus, tmp_path / "exp", config=config, ngpu=1)
    assert [args.ngpu for args in trained] == [1]
    assert ("warning: this GPU only emulates bfloat16" in capsys.readouterr().out) is emulated


def test_a_gpu_that_is_not_there_is_said_before_any_fold_is_touched(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--ngpu 1: torch .*; --ngpu 0 uses the CPU"):
        train(corpus, tmp_path / "exp", ngpu=1)
    assert not (tmp_path / "exp").exists()
