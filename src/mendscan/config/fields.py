"""What every section of the settings is made of: frozen, strict models, and the ranges that their fields have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Amount", "Fraction", "Frozen", "NonNegative", "Percentile", "Positive", "Size"]

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegative = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(gt=0, lt=100)]
Amount = Annotated[float, Field(ge=0)]
Size = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """A section: immutable, and with no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)
