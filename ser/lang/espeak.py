"""Speech and phonemes from espeak-ng, through ctypes and the wheel ``espeakng-loader``.

No system package is needed: the wheel includes libespeak-ng and its data. The library keeps
one voice, one set of parameters and one synthesiser in global variables, hence

- threads: every call holds a lock, so calls from threads are safe but do not run in parallel;
- processes: safe to use in spawned workers; after a fork, the child initialises its own copy;
- state: the synthesiser carries noise and its position in the wave over from one utterance to
  the next, even across espeak_Terminate. ``synthesize`` therefore reloads the library each
  time (3 ms) and seeds its noise, so that the same arguments always give the same samples.
"""

import _ctypes
import atexit
import ctypes
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import espeakng_loader
import numpy as np

from ser.errors import UserError

# Values of the C header speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PHONEMES_IPA = 0x02
_POSITION_CHARACTER = 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}
_OK = 0

# espeak-ng copies its data path into a buffer of 160 bytes and appends file names to it.
_LONGEST_DATA_PATH = 120

# Language codes whose espeak-ng voice has another name; other codes are voice names.
_VOICE_OF_LANGUAGE = {"en": "en-us"}
# espeak-ng marks words read by another language's rules, e.g. "(en)wiːkɛnd(de)".
_LANGUAGE_SWITCH = re.compile(r"\([a-z]{2,3}(-[a-z0-9-]+)?\)")

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

_lock = threading.RLock()


class _Espeak:
    """The loaded library and the path of its data; one per process."""

    def __init__(self, data: Path) -> None:
        self.pid = os.getpid()
        self.data = data
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.lib.espeak_TextToPhonemes.argtypes = [
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_int,
            ctypes.c_int,
        ]
        self.lib.espeak_SetSynthCallback.argtypes = [_CALLBACK]
        self.lib.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self.chunks: list[np.ndarray] = []
        # ctypes frees unreferenced callbacks, so keep it as long as the library.
        self.callback = _CALLBACK(self._take)
        self.sample_rate = self.lib.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, os.fsencode(self.data), _DONT_EXIT
        )
        if self.sample_rate <= 0:
            _ctypes.dlclose(self.lib._handle)
            raise UserError(
                f"{self.data}: espeak-ng cannot read its data; reinstall the package "
                "espeakng-loader (pip install --force-reinstall espeakng-loader)"
            )
        self.lib.espeak_SetSynthCallback(self.callback)
        # Noise comes from espeak-ng's own generator, seeded with the time, and from C's rand().
        self.lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)

    def close(self) -> None:
        """Unload the library together with all static variables that it changed."""
        self.lib.espeak_Terminate()
        _ctypes.dlclose(self.lib._handle)

    def set_voice(self, voice: str) -> bool:
        return self.lib.espeak_SetVoiceByName(voice.encode()) == _OK

    def _take(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # continue


_instance: _Espeak | None = None


def short_data_path(data: Path) -> Path:
    """``data``, or a link to it under a short temporary name if its path is too long.

    Beyond 160 bytes espeak-ng silently falls back to a system directory, which would happen for a
    virtual environment deep in a home directory. The link is removed at exit.
    """
    if len(os.fsencode(data)) <= _LONGEST_DATA_PATH:
        return data
    for parent in (tempfile.gettempdir(), "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="espeak", dir=parent))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        link = folder / "espeak-ng-data"
        link.symlink_to(data, target_is_directory=True)
        if len(os.fsencode(link)) <= _LONGEST_DATA_PATH:
            return link
    raise UserError(
        f"{data}: longer than espeak-ng can handle ({_LONGEST_DATA_PATH} bytes), and so is the "
        "temporary directory; set TMPDIR to a short path"
    )


def _espeak(fresh: bool = False) -> _Espeak:
    global _instance
    data = _instance.data if _instance else short_data_path(Path(espeakng_loader.get_data_path()))
    if _instance and (fresh or _instance.pid != os.getpid()):
        _instance.close()
        _instance = None
    if _instance is None:
        _instance = _Espeak(data)
    return _instance


def phonemize(text: str, language: str, keep_switches: bool = False) -> str:
    """IPA of ``text`` as espeak-ng pronounces it, with stress marks and blanks between words.

    ``language`` is ``en``, ``de``, ``cmn`` or any other voice name of espeak-ng. Mandarin tones
    are digits after the vowel. ``keep_switches`` keeps the marks around words read by another
    language's rules, such as "(en)wiːkɛnd(de)". Text without words gives "".

    Raises UserError for a language unknown to espeak-ng.
    """
    with _lock:
        espeak = _espeak()
        if not language or not espeak.set_voice(_VOICE_OF_LANGUAGE.get(language, language)):
            raise UserError(
                f"language {language!r}: espeak-ng has no such voice; "
                "use a code such as en, de or cmn (key 'language' of egs/<corpus>/corpus.yaml)"
            )
        # espeak-ng reads one clause per call and advances the pointer; NULL marks the end.
        rest = ctypes.c_char_p(text.encode("utf-8"))
        clauses = []
        while rest.value:
            ipa = espeak.lib.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, _PHONEMES_IPA)
            clauses.append((ipa or b"").decode("utf-8"))
        ipa = " ".join(clauses)
        return " ".join((ipa if keep_switches else _LANGUAGE_SWITCH.sub("", ipa)).split())


def synthesize(
    text: str, voice: str, rate: int, volume: int, pitch: int, pitch_range: int
) -> tuple[np.ndarray, int]:
    """Synthesise ``text`` as int16 samples of shape (samples,) and their rate in Hz (22050).

    ``voice`` is a voice name with an optional variant (``en-us+f1``), ``rate`` is in words per
    minute (80 to 450), ``volume`` in percent (0 to 200, 100 is normal), ``pitch`` and
    ``pitch_range`` from 0 to 100 (50 is normal; range 0 is a monotone). The same arguments
    always give the same samples, regardless of earlier calls.

    Raises UserError for a voice unknown to espeak-ng or text that gives no sound.
    """
    with _lock:
        espeak = _espeak(fresh=True)
        # espeak-ng ignores an unknown variant and would use the plain voice.
        variant = voice.partition("+")[2]
        if (variant and not (espeak.data / "voices" / "!v" / variant).is_file()) or (
            not espeak.set_voice(voice)
        ):
            raise UserError(f"voice {voice!r}: espeak-ng has no such voice; try en-us+f1")
        values = {"rate": rate, "volume": volume, "pitch": pitch, "range": pitch_range}
        for name, value in values.items():
            espeak.lib.espeak_SetParameter(_PARAMETERS[name], int(value), 0)
        espeak.chunks.clear()
        data = text.encode("utf-8") + b"\0"
        status = espeak.lib.espeak_Synth(
            data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        espeak.lib.espeak_Synchronize()
        chunks, espeak.chunks = espeak.chunks, []
        if status != _OK or not chunks:
            raise UserError(f"text {text!r}: espeak-ng gave no sound for it (status {status})")
        return np.concatenate(chunks), espeak.sample_rate
