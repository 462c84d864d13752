"""Settings of the properties: `--hypothesis-profile=unshrunk` shows the first failure as it was found, at once."""

import os

from hypothesis import HealthCheck, Phase, settings

# How long a case takes on a busy machine says nothing of what is decided.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
settings.register_profile("unshrunk", settings.get_profile("any machine"), phases=[Phase.explicit, Phase.generate])

# CI plays the same cases every time, so that it tells what a change did; everybody else's runs look for new ones.
settings.register_profile("ci", settings.get_profile("any machine"), derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
