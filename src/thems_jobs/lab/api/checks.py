"""Every request against the facts: types, limits, formats. All wrong parameters are reported at once."""

import re
from typing import Any

from thems_jobs.lab.api.errors import bad_parameters
from thems_jobs.lab.api.facts import Endpoint, Shape
from thems_jobs.lab.api.formats import CHECKS, DEFAULT_KEYS, PROPERTY_STRINGS, split_list

Errors = dict[str, str]

MISSING = "property is missing and it is not optional"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
TRUE_WORDS = ("1", "on", "yes", "true")
FALSE_WORDS = ("0", "off", "no", "false")


def checked(endpoint: Endpoint, given: dict[str, Any]) -> dict[str, Any]:
    """Given the parameters of a request, return them typed. Raise 400 with a text for each wrong one."""
    errors: Errors = {}
    typed: dict[str, Any] = {}
    for name, value in given.items():
        shape = endpoint.shape(name)
        if shape is None:
            errors[name] = UNKNOWN
        else:
            typed[name] = _typed(value, name, name, shape, errors)
            _check_requires(name, shape, given, errors)
    for name, shape in endpoint.parameters.items():
        if name in given or shape.get("optional") or name.endswith("[n]"):
            continue
        errors[name] = MISSING
    if errors:
        raise bad_parameters(errors)
    return typed


def parse_property_string(text: str, option: str, shape: Shape) -> dict[str, str]:
    """Given a checked property string such as `shared:8,size=8G`, return its keys; the leading bare value has its
    default key. Aliases are resolved: for virtio=MAC both model and macaddr are returned."""
    return _property_pairs(text, option, shape, {})


def _check_requires(name: str, shape: Shape, given: dict[str, Any], errors: Errors, prefix: str = "") -> None:
    required = shape.get("requires")
    if required and required not in given:
        errors[prefix + required] = f"missing property - '{prefix}{name}' requires this property"


def _typed(value: Any, where: str, option: str, shape: Shape, errors: Errors) -> Any:
    """Return the value in its type, or note in errors at `where` why it has another."""
    kind = shape.get("type", "string")
    if kind == "array":
        return _typed_array(value, where, option, shape, errors)
    if isinstance(value, list):
        if kind == "string" and _is_list_format(shape.get("format")):
            value = ",".join(str(part) for part in value)
        else:
            return _wrong_type(kind, "ARRAY", where, errors)
    if isinstance(value, dict):
        return _wrong_type(kind, "HASH", where, errors)
    if value is None:
        return _wrong_type(kind, "", where, errors)
    text = {True: "1", False: "0"}[value] if isinstance(value, bool) else str(value)
    number: int | float
    if kind == "boolean":
        return int(text) if text in ("0", "1") else _wrong_type(kind, text, where, errors)
    if kind == "integer":
        if not re.fullmatch(r"[+-]?\d+", text):
            return _wrong_type(kind, text, where, errors)
        number = int(text)
    elif kind == "number":
        if not re.fullmatch(r"[+-]?\d*\.?\d+", text):
            return _wrong_type(kind, text, where, errors)
        number = float(text) if "." in text else int(text)
    else:
        _check_text(text, where, option, shape, errors)
        return text
    _check_range(number, where, shape, errors)
    return number


def _typed_array(value: Any, where: str, option: str, shape: Shape, errors: Errors) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [
        _typed(part, f"{where}[{index}]", option, shape.get("items", {}), errors) for index, part in enumerate(values)
    ]


def _wrong_type(kind: str, got: str, where: str, errors: Errors) -> None:
    errors[where] = (
        f"type check ('{kind}') failed - got '{got}'"
        if got not in ("ARRAY", "HASH")
        else (f"type check ('{kind}') failed - got {got}")
    )


def _check_range(number: float, where: str, shape: Shape, errors: Errors) -> None:
    if "minimum" in shape and number < float(shape["minimum"]):
        errors[where] = f"value must have a minimum value of {shape['minimum']}"
    elif "maximum" in shape and number > float(shape["maximum"]):
        errors[where] = f"value must have a maximum value of {shape['maximum']}"


def _check_text(text: str, where: str, option: str, shape: Shape, errors: Errors) -> None:
    if "minLength" in shape and len(text) < shape["minLength"]:
        errors[where] = f"value must be at least {shape['minLength']} characters long"
    elif "maxLength" in shape and len(text) > shape["maxLength"]:
        errors[where] = f"value may only be {shape['maxLength']} characters long"
    elif "enum" in shape and text not in shape["enum"]:
        choices = ", ".join(shape["enum"])
        errors[where] = f"value '{text}' does not have a value in the enumeration '{choices}'"
    elif "pattern" in shape and not re.fullmatch(_perl_pattern(shape["pattern"]), text):
        errors[where] = "value does not match the regex pattern"
    elif "format" in shape:
        _check_format(text, where, option, shape, errors)


def _perl_pattern(pattern: str) -> str:
    """Perl writes compiled patterns as (?^:...), which Python does not know."""
    return pattern.replace("(?^:", "(?:")


def _is_list_format(name: object) -> bool:
    return isinstance(name, str) and name.endswith("-list")


def _check_format(text: str, where: str, option: str, shape: Shape, errors: Errors) -> None:
    name = shape["format"]
    if isinstance(name, dict) or name in PROPERTY_STRINGS:
        found: Errors = {}
        _property_pairs(text, option, shape, found)
        if found:
            errors[where] = "invalid format - format error\n" + "".join(f"{where}.{k}: {v}\n" for k, v in found.items())
        return
    parts = [text]
    if _is_list_format(name):
        name, parts = name.removesuffix("-list"), split_list(text)
    check = CHECKS.get(name)
    why = next((why for part in parts if check and (why := check(part))), None)
    if why:
        errors[where] = f"invalid format - {why}\n"


def _property_pairs(text: str, option: str, shape: Shape, errors: Errors) -> dict[str, str]:
    name = shape["format"]
    keys: dict[str, Shape] = name if isinstance(name, dict) else PROPERTY_STRINGS[name]
    default = DEFAULT_KEYS.get(name if isinstance(name, str) else re.sub(r"\d+$", "[n]", option))
    default = default or ("file" if "file" in keys else None)
    pairs: dict[str, str] = {}
    for part in re.split(r"\s*,\s*", text):
        key, equals, value = part.partition("=")
        if not part:
            continue
        if not equals or (default == "file" and key not in keys and default not in pairs):
            if default is None or default in pairs:
                errors[part] = "value without key, but schema does not define a default key"
                continue
            key, value = default, part
        _add_pair(key, value, keys, pairs, errors)
    for key, key_shape in keys.items():
        if "alias" not in key_shape and not key_shape.get("optional") and key not in pairs:
            errors[key] = MISSING
        if key in pairs:
            _check_requires(key, key_shape, pairs, errors)
    return pairs


def _add_pair(key: str, value: str, keys: dict[str, Shape], pairs: dict[str, str], errors: Errors) -> None:
    shape = keys.get(key)
    if shape is None:
        errors[key] = UNKNOWN
        return
    if "alias" in shape:
        if "keyAlias" in shape:
            pairs[shape["keyAlias"]] = key
        key = shape["alias"]
        shape = keys[key]
    if key in pairs:
        errors[key] = "duplicate key in comma-separated list property"
        return
    if shape.get("type") == "boolean":
        value = "1" if value.lower() in TRUE_WORDS else "0" if value.lower() in FALSE_WORDS else value
    _typed(value, key, key, shape, errors)
    pairs[key] = value
