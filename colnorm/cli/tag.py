"""Tags text: coloured text, CoNLL columns, JSON lines or an HTML page.

colnorm tag "Mr. Annan flew to Geneva on Monday."
colnorm tag --model runs/ner_dataset-crf --file news.txt --format html --output news.html
colnorm tag --file texts.jsonl --format spans --output labelled.jsonl
cat tokens.conll | colnorm tag --tokens --format conll
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from colnorm import model_file, predict, process, tagged
from colnorm.data import json_lines


@dataclasses.dataclass(frozen=True)
class Command:
    """What to tag, and how to show it."""

    text: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Text, joined by spaces; without any, --file or standard input is read."""
    file: Path | None = None
    """Text file in utf-8; of JSON lines (.jsonl, .ndjson) each line's "text" is a text of its own."""
    tokens: bool = False
    """The input holds a token in the first column of each line, blank lines between sentences; else it is raw text."""
    format: Literal["color", "conll", "json", "spans", "html"] = "color"
    """color: coloured text; conll: token and tag; json: a line a sentence, with character ranges and posteriors; spans: a line
    a text, as annotation tools read it; html: a page of its own."""
    min_posterior: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Leave out entities that are less probable: 0.8 for all types, per=0.9 for one; may be given several times. The curves
    that colnorm evaluate draws help to choose."""
    most_uncertain: int | None = None
    """Show only so many sentences, those of whose tags the model is least sure (by their entropy): what to label next."""
    output: Path | None = None
    """Write here instead of to standard output."""
    model: str = model_file.DEFAULT
    """A packaged model by its name (colnorm models lists them), a .safetensors file, or a run directory."""
    checkpoint: str = "best"
    """Of a run directory: best (by validation micro F1), latest, or the number of an epoch that is still stored."""


def tag(command: Command) -> str:
    """The input as ``command.format`` shows it, tagged."""
    if command.text and command.file is not None:
        raise ValueError("give the text as arguments or with --file, not both")
    if command.most_uncertain is not None and command.most_uncertain < 1:
        raise ValueError(f"--most-uncertain must be at least 1, got {command.most_uncertain}")
    texts = _texts(command)
    process.prepare()

    predictor = find(command.model, command.checkpoint)
    minimum = _minimum(command.min_posterior, predictor.types)
    if command.tokens:
        words = [tokens for text in texts for tokens in predict.read_token_lines(text.split("\n"))]
        texts = [" ".join(tokens) for tokens in words]
        of_texts = [[sentence] for sentence in predictor.tag_tokens(words)]
    else:
        of_texts = list(predictor.tag_many(texts))
    if minimum:
        of_texts = [[tagged.keep_sure(sentence, minimum) for sentence in sentences] for sentences in of_texts]
    if command.most_uncertain is not None:
        texts, of_texts = tagged.most_uncertain(texts, of_texts, command.most_uncertain)
    if command.format == "spans":
        return "".join(
            json_lines.to_json_line(text, tagged.to_spans(sentences)) + "\n"
            for text, sentences in zip(texts, of_texts, strict=True)
        )
    text, sentences = tagged.joined(texts, of_texts)
    match command.format:
        case "conll":
            return tagged.to_conll(sentences)
        case "json":
            return tagged.to_json_lines(sentences, text)
        case "html":
            return tagged.to_html(sentences, text, predictor.types, Path(command.model).name)
        case "color":
            coloured = command.output is None and sys.stdout.isatty()
            return tagged.to_colour(sentences, text, predictor.types, coloured)


def find(model: str, checkpoint: str = "best") -> predict.Predictor:
    """The tagger of that name, of that file or of that run directory."""
    if model in (packaged := model_file.packaged()):
        return model_file.load(packaged[model])
    if Path(model).suffix == model_file.SUFFIX:
        return model_file.load(model)
    if not Path(model).exists():
        raise FileNotFoundError(f"{model}: expected a model of {', '.join(packaged) or 'none'}, a file or a run directory")
    return predict.load(model, checkpoint)


def _minimum(given: Sequence[str], types: Sequence[str]) -> dict[str, float]:
    """What ``--min-posterior`` means for each type; a later word overrides an earlier one."""
    found: dict[str, float] = {}
    for word in given:
        kind, named, number = word.rpartition("=")
        expected = f"--min-posterior: expected a number from 0 to 1, or one for a type of {', '.join(types)}, as per=0.9"
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"{expected}; got {word!r}") from None
        if not 0 <= value <= 1 or (named and kind not in types):
            raise ValueError(f"{expected}; got {word!r}")
        found |= {kind: value} if named else dict.fromkeys(types, value)
    return found


def _texts(command: Command) -> list[str]:
    if command.text:
        return [_of_arguments(command.text)]
    if command.file is not None and command.file.suffix.lower() in json_lines.EXTENSIONS:
        return [annotated.text for annotated in json_lines.read_json_lines(command.file)]
    return [_read(command.file)]


def _of_arguments(words: Sequence[str]) -> str:
    text = " ".join(words)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # Python keeps a byte that is none of the shell's encoding as half a surrogate pair, which no output can hold.
        got = f"{text[error.start]!r} at {error.start}"
        raise ValueError(f"the text of the arguments: expected characters that utf-8 can hold, got {got}") from None
    return text


def _read(file: Path | None) -> str:
    """The file or standard input, as utf-8, with line ends as they are."""
    name = "standard input" if file is None else str(file)
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}:{line}: expected utf-8, got the byte 0x{data[error.start]:02x}") from None


def run(command: Command) -> None:
    """:func:`tag`, written to where the command says."""
    result = tag(command)
    if command.output is not None:
        command.output.write_text(result, encoding="utf-8", newline="")
        print(f"written: {command.output}")
    else:
        _print(result)


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)  # what `exit_status` does for file names, to write escapes instead, would be other text
    except UnicodeEncodeError as error:
        raise ValueError(
            f"standard output takes {encoding}, which has no {text[error.start]!r}; "
            "write to a file with --output, or set PYTHONIOENCODING=utf-8"
        ) from None
    sys.stdout.write(text)


main = process.command_line(Command, run, "colnorm tag", __doc__)
