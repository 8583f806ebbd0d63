"""The settings of every property test: fixed seeds, no deadlines on a machine that others share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings


def load_property_profile() -> None:
    # KVBATCH_PROPERTY_EXAMPLES=2000 looks further than `make test` does, from another seed each time.
    wanted = os.environ.get("KVBATCH_PROPERTY_EXAMPLES")
    settings.register_profile(
        "kvbatch",
        deadline=None,
        derandomize=wanted is None,
        database=None,
        max_examples=int(wanted or 40),
        stateful_step_count=12,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    settings.load_profile("kvbatch")
