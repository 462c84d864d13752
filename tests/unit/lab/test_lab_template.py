"""What every lab machine brings."""

from thems_jobs.lab.template import BASE_PACKAGES, FINISH_SCRIPT


def test_logs_that_services_write_are_rotated() -> None:
    """Debian's services write to /var/log; a role drops its rules for them, and the timer must not be switched off."""
    assert "logrotate" in BASE_PACKAGES
    assert "logrotate" not in FINISH_SCRIPT
