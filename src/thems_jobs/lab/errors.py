"""What can go wrong while the lab is brought up, used or taken down."""


class LabError(Exception):
    """One sentence for the terminal: what failed, where, and what to do next."""
