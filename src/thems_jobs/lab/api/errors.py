"""How a call ends when it does not end well. The text travels in the HTTP reason phrase, as Proxmox VE does it."""


class ApiError(Exception):
    """An answer that is not 200: status, text, and for 400 the text per parameter. Bare ones have no body."""

    def __init__(self, status: int, text: str, errors: dict[str, str] | None = None, *, bare: bool = False):
        super().__init__(text)
        self.status = status
        self.text = text
        self.errors = errors
        self.bare = bare


def failed(text: str) -> ApiError:
    """Given the text of a semantic error, return it: Proxmox answers 500 to all of them."""
    return ApiError(500, text)


def bad_parameters(errors: dict[str, str]) -> ApiError:
    """Given a text per parameter, return the 400."""
    return ApiError(400, "Parameter verification failed.", errors)


def denied(what: str = "") -> ApiError:
    """Given `path, PRIVILEGE` or nothing, return the 403."""
    return ApiError(403, "Permission check failed" + (f" ({what})" if what else ""))


def not_found(vmid: int, node: str) -> ApiError:
    """Return the only 'not found' there is: a 500 about the configuration file."""
    return failed(f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")


def gateway(status: int, text: str) -> ApiError:
    """Given 595 or 596, return it: no body, and the operation may have been executed."""
    return ApiError(status, text, bare=True)
