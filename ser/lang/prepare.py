"""Stage 2: ``data/<corpus>/all`` -> ``data/<corpus>/lang`` and ``data/<corpus>/lang_<type>``.

``lang`` always holds the lexicon and the emotion-tagged manner classes:

    lexicon.txt         WORD PHONE PHONE ...
    lexicon.oov         words pronounced by the neural model, one per line
    phones_to_class.txt PHONE CLASS
    text.words          utt WORD WORD ...   (normalised transcript)
    text.phn            utt PHONE PHONE ...
    text.units          utt UNIT UNIT ...   (only the utterance id if it has no words)
    units.txt           UNIT ID             (<blank> 0)
    summary.txt         the printed summary

``lang_<type>`` holds ``units.txt`` and ``text.units`` of another token type; ``lang_bpe`` also
``bpe.model``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.data.tables import (
    lang_inputs,
    read_lines,
    read_table,
    read_undecided,
    write_lines,
    write_table,
)
from ser.errors import UserError
from ser.files import atomic_dir
from ser.lang.lexicon import Lexicon, Transcripts, build_lexicon, split_text
from ser.lang.tokens import bpe_units, char_units
from ser.lang.units import TOKEN_TYPES, ctc_min_frames, phone_units, write_units
from ser.stage import is_done, mark_done, require_done

DEFAULT_TYPE = "tagged_class"  # written to lang/ itself
TEXT_CURE = "to give transcripts: ./run.sh --stage 1 --text FILE with the same --corpus and options"


def lang_dir(data_dir: Path | str, token_type: str) -> Path:
    """Folder of the units of ``token_type``: ``lang`` or ``lang_<type>``.

    Raises UserError for an unknown type.
    """
    if token_type not in TOKEN_TYPES:
        raise UserError(
            f"--token-type {token_type}: no such type; choose one of {', '.join(TOKEN_TYPES)}"
        )
    return Path(data_dir) / ("lang" if token_type == DEFAULT_TYPE else f"lang_{token_type}")


def prepare_lang(data_dir: Path | str, token_type: str, bpe_size: int) -> None:
    """Make ``lang`` and, for another ``token_type``, ``lang_<type>``, unless they are up to date.

    A corpus without any words gets empty targets, and this is reported: systems without a phoneme
    or character head need none.

    Raises UserError if stage 1 is not done, for an unknown token type, a word that cannot be
    pronounced, a BPE size that the corpus does not allow, and BPE without words.
    """
    directory = lang_dir(data_dir, token_type)
    source = Path(data_dir) / "all"
    require_done(source, 1, "the corpus tables")
    inputs = lang_inputs(source)

    lang = lang_dir(data_dir, DEFAULT_TYPE)
    settings: dict[str, Any] = {"inputs": inputs, "token_type": DEFAULT_TYPE}
    if not _already_done(lang, settings):
        _make_lang(source, lang, settings)
    if directory == lang:
        return
    settings = {"inputs": inputs, "token_type": token_type}
    if token_type == "bpe":
        settings["bpe_size"] = bpe_size
    if not _already_done(directory, settings):
        _make_lang_of_type(source, lang, directory, settings)


def _already_done(directory: Path, settings: Mapping[str, Any]) -> bool:
    done = is_done(directory, dict(settings))
    if done:
        print(f"{directory}: already done with the same input")
        print((directory / "summary.txt").read_text(encoding="utf-8"), end="")
    return done


def _make_lang(source: Path, lang: Path, settings: Mapping[str, Any]) -> None:
    transcripts, language = _read_transcripts(source)
    wordless = not any(transcripts.words.values())
    lexicon = build_lexicon(transcripts.words, language, source / "text")
    text_phn = {
        utt: [phone for word in words for phone in lexicon.phones[word]]
        for utt, words in transcripts.words.items()
    }
    inventory, units = _phone_units(source, DEFAULT_TYPE, text_phn, lexicon.classes)
    summary = _summarize_words(transcripts, lexicon) + _summarize_units(source, inventory, units)
    if wordless:
        summary.append(
            f"no words in any of {len(units)} utterances: systems with a phoneme or character head "
            f"(type ctc) cannot be trained on them; {TEXT_CURE}"
        )
    with atomic_dir(lang) as temporary:
        write_table(temporary / "lexicon.txt", _joined(lexicon.phones))
        write_lines(temporary / "lexicon.oov", lexicon.predicted)
        write_table(temporary / "phones_to_class.txt", lexicon.classes)
        write_table(temporary / "text.words", _joined(transcripts.words))
        write_table(temporary / "text.phn", _joined(text_phn))
        _finish(temporary, inventory, units, summary, settings)
    _show(lang, summary)


def _make_lang_of_type(
    source: Path, lang: Path, directory: Path, settings: Mapping[str, Any]
) -> None:
    token_type, model = settings["token_type"], None
    if token_type in ("char", "bpe"):
        words = _split(read_table(lang / "text.words", allow_empty=True))
        if token_type == "bpe":
            if not any(words.values()):
                raise UserError(
                    f"{source}/text: no words in any of {len(words)} utterances, which the pieces "
                    f"of token_type bpe are learnt from; {TEXT_CURE}"
                )
            inventory, units, model = bpe_units(words, settings["bpe_size"])
        else:
            inventory, units = char_units(words, _language(source))
    else:
        text_phn = _split(read_table(lang / "text.phn", allow_empty=True))
        classes = read_table(lang / "phones_to_class.txt")
        inventory, units = _phone_units(source, token_type, text_phn, classes)
    summary = _summarize_units(source, inventory, units)
    with atomic_dir(directory) as temporary:
        if model is not None:
            (temporary / "bpe.model").write_bytes(model)
        _finish(temporary, inventory, units, summary, settings)
    _show(directory, summary)


def _read_transcripts(source: Path) -> tuple[Transcripts, str]:
    language = _language(source)
    text = read_table(source / "text", allow_empty=True)
    transcripts = split_text(text, language)
    if not text:
        raise UserError(
            f"{source}/text: no utterances; make the tables again: ./run.sh --stage 1 "
            "--stop-stage 1 with the same --corpus and options"
        )
    return transcripts, language


def _phone_units(
    source: Path,
    token_type: str,
    text_phn: Mapping[str, Sequence[str]],
    classes: Mapping[str, str],
) -> tuple[list[str], dict[str, list[str]]]:
    emotions = read_lines(source / "emotions")
    utt2emo = read_table(source / "utt2emo")
    for utt in text_phn:
        if utt2emo.get(utt) not in emotions:
            raise UserError(
                f"{source}/utt2emo: {utt} is {utt2emo.get(utt)!r}, expected one of "
                f"{', '.join(emotions)}; make the tables again: ./run.sh --stage 1 --stop-stage 1"
            )
    index = {utt: emotions.index(emotion) for utt, emotion in utt2emo.items()}
    if token_type.startswith("tagged"):  # undecided utterances have no tag, so no units
        text_phn = {**text_phn, **dict.fromkeys(read_undecided(source), ())}
    return phone_units(token_type, text_phn, classes, index, len(emotions))


def _finish(
    directory: Path,
    inventory: Sequence[str],
    units: Mapping[str, Sequence[str]],
    summary: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    write_units(directory / "units.txt", inventory)
    write_table(directory / "text.units", _joined(units))
    write_lines(directory / "summary.txt", summary)
    mark_done(directory, dict(settings))


def _summarize_words(transcripts: Transcripts, lexicon: Lexicon) -> list[str]:
    tags = ", ".join(f"{tag} {count}" for tag, count in sorted(transcripts.tags.items()))
    tokens = sum(map(len, transcripts.words.values()))
    predicted = len(lexicon.predicted)
    return [
        f"words: {tokens} spoken, {len(lexicon.phones)} different, pronounced by {lexicon.source}"
        + (f", {predicted} of them by g2p_en (lexicon.oov)" if predicted else ""),
        f"tags dropped: {transcripts.tags.total()}" + (f" ({tags})" if tags else ""),
    ]


def _summarize_units(
    source: Path, inventory: Sequence[str], units: Mapping[str, Sequence[str]]
) -> list[str]:
    duration = {utt: float(value) for utt, value in read_table(source / "utt2dur").items()}
    for utt in units:
        if utt not in duration:
            raise UserError(
                f"{source}/utt2dur: {utt} is missing, but stands in text; make the tables again: "
                "./run.sh --stage 1 --stop-stage 1"
            )
    total = sum(map(len, units.values()))
    empty = sum(not target for target in units.values())
    # wav2vec 2.0 and others have 25-ms frames every 20 ms: T = floor((seconds - 0.025) / 0.02) + 1
    frames = {utt: int((seconds - 0.025) / 0.02) + 1 for utt, seconds in duration.items()}
    too_long = sum(ctc_min_frames(target) > frames[utt] for utt, target in units.items())
    return [
        f"units: {len(inventory)} and the blank; {total} in {len(units)} utterances, "
        f"{total / sum(duration[utt] for utt in units):.1f} a second",
        f"utterances with an empty target: {empty}; "
        f"with more units than 20-ms frames: {too_long} (CTC leaves both out)",
    ]


def _show(directory: Path, summary: Sequence[str]) -> None:
    print(f"{directory}: done")
    for line in summary:
        print(line)


def _language(source: Path) -> str:
    return read_lines(source / "language")[0]


def _joined(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {key: " ".join(values) for key, values in table.items()}


def _split(table: Mapping[str, str]) -> dict[str, list[str]]:
    return {key: value.split() for key, value in table.items()}
