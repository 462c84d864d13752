"""Settings of the properties: `--hypothesis-profile=unshrunk` shows the first failure as it was found, at once."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate])
