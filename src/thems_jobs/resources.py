"""Where the playbooks, platform files and report templates are that come with this package."""

from pathlib import Path


def jobs() -> Path:
    """Return the folder of Jenkins' job definitions: in the installed package, or in the checkout."""
    package = Path(__file__).parent
    packaged = package / "resources" / "jobs"
    return packaged if packaged.is_dir() else package.parent.parent / "jobs"


def path(*parts: str) -> Path:
    """Given a path below resources/, return where it is: in the installed package, or in the checkout."""
    package = Path(__file__).parent
    for root in (package / "resources", package.parent.parent / "resources"):
        if root.is_dir():
            return root.joinpath(*parts)
    raise FileNotFoundError("the resources of thems-jobs are missing: install the package again")
