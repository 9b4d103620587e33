import multiprocessing
import shutil
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from ser.errors import UserError
from ser.lang import espeak

SENTENCE = dict(
    text="I left the keys.", voice="en-us+f1", rate=170, volume=100, pitch=50, pitch_range=50
)


def _speak(**changes):
    return espeak.synthesize(**{**SENTENCE, **changes})[0]


@pytest.fixture
def fresh_library():
    _unload()
    yield
    _unload()


def _unload():
    if espeak._instance is not None:
        espeak._instance.close()
        espeak._instance = None


def test_english_words_come_as_ipa_with_stress():
    assert espeak.phonemize("hello world", "en") == "həlˈoʊ wˈɜːld"


def test_german_words_come_as_ipa_with_stress():
    assert espeak.phonemize("Tüten", "de") == "tˈyːtən"


def test_mandarin_has_a_voice():
    assert espeak.phonemize("你好", "cmn").startswith("ni")


def test_every_clause_is_phonemized():
    assert espeak.phonemize("Hello. World, hello!", "en") == "həlˈoʊ wˈɜːld həlˈoʊ"


def test_marks_of_a_switch_of_language_are_left_out():
    ipa = espeak.phonemize("Das Weekend im Computer", "de")
    assert "(" not in ipa and len(ipa.split()) == 4


def test_marks_of_a_switch_of_language_stay_on_demand():
    assert espeak.phonemize("我熊", "cmn", keep_switches=True) == "wˈo2 (en)kʃəŋtˈuː(cmn)"


@pytest.mark.parametrize("text", ["", " ", "...", "?!"])
def test_text_without_words_gives_nothing(text):
    assert espeak.phonemize(text, "en") == ""


@pytest.mark.parametrize("language", ["xx", "", "de-zz", "../de"])
def test_an_unknown_language_is_named(language):
    with pytest.raises(UserError, match=f"language '{language}'.*en, de or cmn"):
        espeak.phonemize("hello", language)


def test_an_unknown_voice_or_variant_is_named():
    for voice in ("nobody", "en-us+nobody"):
        with pytest.raises(UserError, match="nobody"):
            _speak(voice=voice)


def test_the_language_of_phonemes_does_not_depend_on_the_voice_used_before():
    before = espeak.phonemize("Tisch", "de")
    _speak()
    espeak.phonemize("table", "en")
    assert espeak.phonemize("Tisch", "de") == before


@pytest.mark.parametrize("voice", ["en-us+f1", "en-us+f5", "en-us+m3"])
def test_speech_does_not_depend_on_what_was_spoken_before(voice):
    first = _speak(voice=voice)
    _speak(text="Something else, rather longer.", voice="en-us+m5", rate=250, pitch=90)
    again = _speak(voice=voice)
    assert first.dtype == np.int16 and first.ndim == 1
    np.testing.assert_array_equal(first, again)


def test_parameters_do_what_they_say():
    slow, fast = _speak(rate=120), _speak(rate=240)
    assert len(slow) > 1.3 * len(fast)
    soft, loud = _speak(volume=40), _speak(volume=120)
    assert np.abs(loud.astype(int)).mean() > 1.5 * np.abs(soft.astype(int)).mean()
    assert _pitch(_speak(pitch=80)) > 1.2 * _pitch(_speak(pitch=20))


def _pitch(samples):
    """Hz of the strongest autocorrelation between 80 and 350 Hz."""
    spectrum = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
    lags = np.fft.irfft(spectrum)[: 22050 // 80]
    shortest = 22050 // 350
    return 22050 / (shortest + np.argmax(lags[shortest:]))


def test_data_under_a_path_longer_than_espeaks_buffer_is_found(
    tmp_path, monkeypatch, fresh_library
):
    deep = tmp_path.joinpath(*["a" * 60] * 4)
    deep.mkdir(parents=True)
    data = deep / "espeak-ng-data"
    data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(data))
    assert espeak.phonemize("hello", "en") == "həlˈoʊ"
    assert len(_speak()) > 1000
    assert len(str(espeak._instance.data)) < 160
    shutil.rmtree(espeak._instance.data.parent)


def test_a_short_path_is_used_as_it_is():
    assert espeak.short_data_path(Path("/opt/espeak-ng-data")) == Path("/opt/espeak-ng-data")


def test_broken_data_is_an_error_with_a_cure(tmp_path, monkeypatch, fresh_library):
    monkeypatch.setattr(espeak, "short_data_path", lambda data: tmp_path)
    with pytest.raises(UserError, match="reinstall"):
        espeak.phonemize("hello", "en")
    # A library that stays loaded after the failure would keep its history between utterances.
    assert espeakng_loader.get_library_path() not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_may_use_the_library(method):
    espeak.phonemize("hello", "en")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(espeak.phonemize, ("hello", "en")) == "həlˈoʊ"
