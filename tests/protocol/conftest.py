"""Hypothesis profiles for the property tests.

By default each run generates the same examples, so that a failure can be reproduced on another machine. To
search for new failures, run `HYPOTHESIS_PROFILE=search pytest tests/protocol`.
"""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,  # a busy machine must not fail a test
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("default"), derandomize=False, max_examples=3000)
# For tests/mutants.py, which needs any failing example, not the smallest one.
settings.register_profile("mutants", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
