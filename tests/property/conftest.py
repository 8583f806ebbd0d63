from __future__ import annotations

from support.property_profile import load_property_profile

load_property_profile()
