"""What every section of the config has in common."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused and values don't change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    short: ClassVar[Any] = None
    """The type of a value that stands for a whole section, such as a bare path; None: there is none."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """The section in a JSON schema: its keys, or its short form."""
        schema = handler(core)
        if cls.short is not None:
            found = handler.resolve_ref_schema(schema)
            keys = {**found}
            found.clear()
            found.update(
                {name: keys.pop(name) for name in ("title", "description") if name in keys},
                anyOf=[keys, TypeAdapter(cls.short).json_schema()],
            )
        return schema
