"""Jobs that run WooCommerce shops on a Proxmox cluster."""

__version__ = "0.1.0"
