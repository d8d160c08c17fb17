"""The typed job and the custom resource definition are two spellings of one thing."""

import types
import typing
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel

from cra_operator import api
from cra_operator.lifecycle.words import LONGEST

DEFINITION = Path(__file__).parents[2] / "crds" / "cra.dev_cratrainingjobs.yaml"
SCHEMA: dict[str, Any] = yaml.safe_load(DEFINITION.read_text())["spec"]
ROOT: dict[str, Any] = SCHEMA["versions"][0]["schema"]["openAPIV3Schema"]


def models(
    model: type[BaseModel], schema: dict[str, Any], path: str
) -> list[tuple[str, type[BaseModel], Any]]:
    """Every model with the part of the schema that it stands for."""
    found = [(path, model, schema)]
    for field in model.model_fields.values():
        inner = _model_in(field.annotation)
        name = field.alias or ""
        if inner is not None:
            part = schema["properties"].get(name, {})
            found += models(inner, part.get("items", part), f"{path}.{name}")
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *typing.get_args(annotation)]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _bare(annotation: Any) -> Any:
    """The type without None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [o for o in typing.get_args(annotation) if o is not type(None)]
        return options[0] if len(options) == 1 else tuple(options)
    return annotation


PARTS = [
    *models(api.JobSpec, ROOT["properties"]["spec"], "spec"),
    *models(api.JobStatus, ROOT["properties"]["status"], "status"),
]


def test_the_names_are_the_definitions() -> None:
    assert SCHEMA["group"] == api.GROUP
    assert SCHEMA["names"]["kind"] == api.KIND
    assert SCHEMA["names"]["plural"] == api.PLURAL
    assert SCHEMA["versions"][0]["name"] == api.VERSION


@pytest.mark.parametrize(("path", "model", "schema"), PARTS, ids=[path for path, _, _ in PARTS])
def test_fields_are_the_same(path: str, model: type[BaseModel], schema: dict[str, Any]) -> None:
    assert {field.alias for field in model.model_fields.values()} == schema["properties"].keys()


@pytest.mark.parametrize(("path", "model", "schema"), PARTS, ids=[path for path, _, _ in PARTS])
def test_required_fields_are_the_same(path: str, model: type[BaseModel], schema: dict[str, Any]) -> None:
    required = {field.alias for field in model.model_fields.values() if field.is_required()}
    assert required >= set(schema.get("required", [])) - {"message"}
    if path.startswith("spec"):
        assert required == set(schema.get("required", []))


@pytest.mark.parametrize(("path", "model", "schema"), PARTS, ids=[path for path, _, _ in PARTS])
def test_defaults_enums_and_types_are_the_same(
    path: str, model: type[BaseModel], schema: dict[str, Any]
) -> None:
    kinds = {int: "integer", float: "number", str: "string", bool: "boolean", datetime: "string"}
    for name, field in model.model_fields.items():
        part = schema["properties"][field.alias]
        if "default" in part and part["default"] != {}:
            if isinstance(field.default, api.Model):
                assert field.default.wire().items() >= part["default"].items(), f"{path}.{name}"
            else:
                assert field.default == part["default"], f"{path}.{name}"
        elif path.startswith("spec") and not field.is_required() and "default" not in part:
            assert field.default in (None, [], {}), f"{path}.{name} has a default that the API does not know"
        bare = _bare(field.annotation)
        if typing.get_origin(bare) is Literal and path.startswith(("spec", "status.phase")):
            assert set(typing.get_args(bare)) == set(part["enum"]), f"{path}.{name}"
        if bare in kinds:
            assert part.get("type") == kinds[bare], f"{path}.{name}"


def test_bounded_lists_are_kept_in_bounds() -> None:
    status = ROOT["properties"]["status"]["properties"]
    assert status["decisions"]["maxItems"] == api.MAX_DECISIONS
    assert status["speeds"]["maxItems"] == api.MAX_SPEEDS
    assert status["workers"]["maxItems"] == 4096
    assert status["message"]["maxLength"] >= LONGEST
    condition = status["conditions"]["items"]["properties"]
    assert condition["message"]["maxLength"] >= LONGEST


def test_unknown_fields_of_a_newer_definition_are_ignored() -> None:
    spec = api.JobSpec.model_validate({"scaling": {"maxGPUs": 1, "fancy": True}, "more": 1})
    assert spec.scaling.max_gpus == 1


def test_a_job_is_frozen() -> None:
    spec = api.JobSpec.model_validate({"scaling": {"maxGPUs": 1}})
    with pytest.raises(ValueError, match="frozen"):
        spec.suspend = True
