"""What all tests share: nothing of the caller's own settings reaches them."""

import os

for name in [name for name in os.environ if name.startswith("THEMS_")]:
    if name not in (
        "THEMS_LAB_CACHE",
        "THEMS_SEEDS",
        "THEMS_SEED",
        "THEMS_KILL_SEED",
        "THEMS_TEST_LAB",
        "THEMS_JENKINS_USER",
        "THEMS_JENKINS_TOKEN_FILE",
        "THEMS_JENKINS_CA_FILE",
    ):
        del os.environ[name]
