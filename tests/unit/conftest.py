"""Settings of the properties: `--hypothesis-profile=unshrunk` shows the first failure as it was found, at once."""

import os

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate])

# CI plays the same cases every time, so that it tells what a change did; everybody else's runs look for new ones.
settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
