"""How deep the property tests look.

By default each run makes the same examples, so that a red build is red again on the next machine. To look
for new ones: `HYPOTHESIS_PROFILE=search pytest tests/protocol`.
"""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,  # a busy machine is not a bug
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("default"), derandomize=False, max_examples=3000)
# For tests/mutants.py, which asks whether an example fails and not for the smallest that does.
settings.register_profile("mutants", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
