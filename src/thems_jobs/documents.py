"""YAML files that people write: read within limits, typed, and every mistake named with its place in the file."""

import difflib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from thems_jobs.core.platform import Mistake
from thems_jobs.errors import UsageError

SIZE_LIMIT = 256 * 1024  # bytes; the largest real platform file is a few kilobytes
NODE_LIMIT = 20_000  # values after every alias is written out: what a "YAML bomb" blows up
DEPTH_LIMIT = 32  # levels; a platform file has five
KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge")

T = TypeVar("T")
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A file as read: plain values, and the line on which each of them stands."""

    path: Path
    data: Any
    lines: Mapping[Place, int]

    def where(self, mistake: Mistake, place: Place) -> str:
        """Given a mistake and its place, return the sentence for it, with the line."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"line {self.lines[place]}, {mistake}" if place in self.lines else str(mistake)

    def wrong(self, sentences: list[str]) -> UsageError:
        """Given what is wrong with this file, return the error that says so."""
        return wrong_file(self.path, sentences)


def wrong_file(path: Path, sentences: list[str]) -> UsageError:
    """Given what is wrong with a file, return the error that says so."""
    return UsageError("wrong-file", str(path), sentences, "Nothing was changed.")


def read_text(path: Path, what: str, limit: int = SIZE_LIMIT) -> str:
    """Given a file, return its text. Raise UsageError if it cannot be read, is too large or is no UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: such a path there cannot be
        reason = error.strerror if isinstance(error, OSError) else error
        raise wrong_file(path, [f"the {what} cannot be read ({reason})."]) from error
    if len(content) > limit:
        raise wrong_file(path, [f"the {what} is larger than {limit // 1024} KiB."])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise wrong_file(path, [f"the {what} is not UTF-8 text."]) from error


def read_document(path: Path, what: str) -> Document:
    """Given a YAML file, return it as plain values. Raise UsageError if it is none, or none that people write."""
    text = read_text(path, what)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise wrong_file(path, [f"the {what} is empty."])
        lines, sentences = _inspect(root)
        if sentences:
            raise wrong_file(path, sentences)
        return Document(path, yaml.safe_load(text), lines)
    except RecursionError as error:
        raise wrong_file(path, [f"the {what} is nested too deeply."]) from error
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, " if error.problem_mark else ""
        raise wrong_file(path, [f"{place}this is not YAML: {error.problem}."]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise wrong_file(path, [f"this is not YAML: {' '.join(str(error).split())}."]) from error


def _inspect(root: yaml.Node) -> tuple[dict[Place, int], list[str]]:
    """Given the nodes of a file, return the line of each value, and a sentence for each key that is there twice.

    Aliases are written out here, one value at a time, so that a file which explodes is noticed early.
    """
    lines, sentences = dict[Place, int](), list[str]()
    stack: list[tuple[Place, yaml.Node]] = [((), root)]
    while stack:
        place, node = stack.pop()
        lines[place] = node.start_mark.line + 1
        if len(lines) > NODE_LIMIT or len(place) > DEPTH_LIMIT:
            return lines, [f'its aliases unfold to over {NODE_LIMIT} values or {DEPTH_LIMIT} levels (a "YAML bomb").']
        if isinstance(node, yaml.SequenceNode):
            stack += [((*place, index), item) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag not in KEY_TAGS:
                    sentences.append(f"line {line}, {path_of(place) or 'the file'}: a key must be plain text.")
                    continue
                if key.value in seen:
                    path = path_of((*place, key.value))
                    sentences.append(
                        f"line {line}, {path}: found twice, expected once (first on line {seen[key.value]})."
                    )
                seen.setdefault(key.value, line)
                stack.append(((*place, key.value), value))
    return lines, sentences


def path_of(place: Place) -> str:
    """Given a place, return it as people write it: tiers.web.nodes[0]."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def typed(document: Document, adapter: TypeAdapter[T], shape: Any) -> T:
    """Given a file and the type it should have, return it as that. Raise UsageError with every mistake.

    JSON stands between, because pydantic is strict about it (true is no number, "2" is no number) and still builds
    dataclasses from it.
    """
    try:
        return adapter.validate_json(json.dumps(document.data, default=str), strict=True)
    except ValidationError as error:
        sentences = []
        for item in error.errors(include_url=False, include_context=False):
            place = tuple(part for part in item["loc"] if part != "[key]")
            sentences.append(document.where(_mistake(item["type"], place, item["input"], shape), place))
        raise document.wrong(sentences) from error


def _mistake(kind: str, place: Place, found: object, shape: Any) -> Mistake:
    path = path_of(place) or "the file"
    if kind == "unexpected_keyword_argument":
        known = [field.name for field in fields(_shape_at(shape, place[:-1]))]
        close = difflib.get_close_matches(str(place[-1]), known, 1)
        hint = f" (did you mean {close[0]}?)" if close else f" (known here: {', '.join(known)})"
        return Mistake(path, "an unknown key", f"a key that means something{hint}")
    expected = _words(_shape_at(shape, place))
    return Mistake(path, "nothing" if kind == "missing" else _shown(found), expected)


def _shown(value: object) -> str:
    text = repr(value) if value is not None else "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shape_at(shape: Any, place: Place) -> Any:
    """Given a type and a place in it, return the type that is expected there."""
    for part in place:
        shape = _without_none(shape)
        if is_dataclass(shape):
            shape = typing.get_type_hints(shape)[str(part)]
        elif typing.get_origin(shape) is dict:
            shape = typing.get_args(shape)[1]
        else:
            shape = typing.get_args(shape)[0]
    return _without_none(shape)


def _without_none(shape: Any) -> Any:
    if typing.get_origin(shape) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(shape) if part is not type(None))
    return shape


def _words(shape: Any) -> str:
    """Given a type, return what it is called among people."""
    origin = typing.get_origin(shape)
    if is_dataclass(shape):
        return f"a mapping with {', '.join(field.name for field in fields(shape))}"
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(shape)))}"
    if origin is dict:
        return "a mapping of names"
    if origin in (list, tuple):
        return f"a list, each {_words(typing.get_args(shape)[0])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[shape]
