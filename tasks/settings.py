"""A configuration of which everything may be left out, and how it is laid over a whole one.

Deployments take it as a parameter, so that Prefect's page shows a form of it, and its server refuses a wrong value when
a run is asked for. Types, ranges, choices and descriptions are those of `PipelineConfig`, from which it is made:

- a field that is left out keeps the file's value; `null` is a value of fields that may be null, and of no others;
- sections may say a part; one that says nothing, as forms send them, changes nothing;
- entries of lists are whole, and a list takes the place of the file's;
- of a section with kinds, the fields of all kinds stand side by side. Without `kind`, or with the file's own, it
  changes the file's section; with another, it takes its place.

What no schema can say (fields that do not fit together, fields of another kind) is refused when the flow begins.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_serializer,
)
from pydantic.fields import FieldInfo

from tasks.config import PipelineConfig
from tasks.manifest import Json

_LEFT_TO_THE_WHOLE = (AfterValidator, BeforeValidator, PlainValidator, WrapValidator, Discriminator, Tag)
"""What annotations may hold that is no constraint of one value: checks by functions, and how unions are told apart."""
_YES_OR_NO = Annotated[bool, WithJsonSchema({"enum": [True, False]})]
"""A choice of two: of a `boolean`, Prefect's form makes a switch, and sends `false` of all that nobody has touched."""
_TAGS = ("kind", "metric")
"""Fields that say which of several kinds a section is."""


class Partial(BaseModel):
    """Base of all that may be said in part; what was not said is not in its JSON either."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_serializer
    def _said(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


if TYPE_CHECKING:

    class Settings(Partial):
        """A part of a configuration."""


def _nothing() -> None:
    """A default that is a function stands in no schema, and so in no form."""


@functools.cache
def _partial(model: type[BaseModel], whole: bool) -> type[Partial]:
    """The class with the same fields, and no checks across them. `whole`: the same of them are required."""
    model.model_rebuild()  # a field's class may have been defined after the field
    fields = {
        name: _field(_annotation(name, field), field.description, required=whole and field.is_required())
        for name, field in model.model_fields.items()
    }
    return _made(model.__name__.removesuffix("Config"), model.__doc__, fields)


def _side_by_side(name: str, kinds: Sequence[type[BaseModel]], whole: bool) -> type[Partial]:
    """The class with the fields of all kinds. `whole`: the one that tells them apart is required."""
    tag = next(name for name in _TAGS if all(name in kind.model_fields for kind in kinds))
    values = [value for kind in kinds for value in get_args(kind.model_fields[tag].annotation)]
    fields = {tag: _field(Literal[tuple(values)], None, required=whole)}
    for field_name in dict.fromkeys(field for kind in kinds for field in kind.model_fields if field != tag):
        having = {
            value: kind.model_fields[field_name]
            for value, kind in zip(values, kinds, strict=True)
            if field_name in kind.model_fields
        }
        annotations: list[Any] = []
        for field in having.values():
            one = _annotation(field_name, field)
            annotations += [] if one in annotations else [one]
        text = next((field.description for field in having.values() if field.description), "")
        among = "" if len(having) == len(kinds) else f"Of {', '.join(having)}. "
        fields[field_name] = _field(_union(annotations), f"{among}{text}".strip() or None, required=False)
    return _made(name.title().replace("_", ""), None, fields)


def _made(name: str, text: str | None, fields: Mapping[str, Any]) -> type[Partial]:
    made: type[Partial] = create_model(f"{name}Settings", __base__=Partial, __doc__=text, **dict(fields))
    return made


def _field(annotation: Any, description: str | None, *, required: bool) -> tuple[Any, Any]:
    return annotation, Field(description=description) if required else Field(
        default_factory=_nothing, description=description
    )


def _annotation(name: str, field: FieldInfo) -> Any:
    """A field's type with its constraints."""
    return _constrained(_alike(name, field.annotation, whole=False), field.metadata)


def _alike(name: str, annotation: Any, *, whole: bool) -> Any:
    """The same type, with `Partial` classes in the place of sections. `name`: the field's."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if _is_section(annotation):
        return _partial(annotation, whole)
    if origin is Annotated:
        return _constrained(_alike(name, inside[0], whole=whole), annotation.__metadata__)
    if origin in (Union, types.UnionType):
        sections = [one for one in inside if _is_section(one)]
        others = [_alike(name, one, whole=whole) for one in inside if one not in sections]
        if len(sections) > 1:
            return _union([_side_by_side(name, sections, whole), *others])
        return _union([*(_partial(one, whole) for one in sections), *others])
    if origin in (tuple, list):  # of neither can a part be named
        return origin[tuple(one if one is Ellipsis else _alike(name, one, whole=True) for one in inside)]
    if origin is dict:
        return dict[inside[0], _alike(name, inside[1], whole=whole)]  # type: ignore[valid-type,misc]
    return _YES_OR_NO if annotation is bool else annotation


def _constrained(annotation: Any, metadata: Sequence[Any]) -> Any:
    for one in metadata:
        if not isinstance(one, _LEFT_TO_THE_WHOLE) and not (isinstance(one, FieldInfo) and one.discriminator):
            annotation = Annotated[annotation, one]
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _union(annotations: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, annotations)


if not TYPE_CHECKING:
    Settings = _partial(PipelineConfig, False)
    Settings.__name__ = Settings.__qualname__ = "Settings"
    Settings.__doc__ = "What is said here takes the place of what the configuration's file says."


def laid_over(document: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Json]:
    """A configuration's document with the changes in the place of what it says itself; see above for how."""
    return _laid_over(PipelineConfig, document, _without_empty(changes))


def _without_empty(section: Mapping[str, Json]) -> dict[str, Json]:
    """Without sections that say nothing, nor hold one that does."""
    kept = {name: _without_empty(value) if isinstance(value, dict) else value for name, value in section.items()}
    return {name: value for name, value in kept.items() if value != {}}


def _laid_over(
    model: type[BaseModel] | None, document: Mapping[str, Json], changes: Mapping[str, Json]
) -> dict[str, Json]:
    out = dict(document)
    for name, value in changes.items():
        field = model.model_fields.get(name) if model is not None else None
        out[name] = _section_over(field, document.get(name), value) if isinstance(value, dict) else value
    return out


def _section_over(field: FieldInfo | None, before: Json, changes: Mapping[str, Json]) -> dict[str, Json]:
    default = getattr(field.default, "kind", None) if field is not None else None
    if isinstance(before, str) and default is not None:
        before = {"kind": before}  # a kind's name may stand for its section
    section = before if isinstance(before, dict) else {}
    kind = section.get("kind", default)
    if changes.get("kind", kind) != kind:
        return dict(changes)
    return _laid_over(_model_of(field), section, changes)


def _model_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The class of a section without kinds."""
    if field is None:
        return None
    sections = [one for one in (field.annotation, *get_args(field.annotation)) if _is_section(one)]
    return sections[0] if len(sections) == 1 else None
