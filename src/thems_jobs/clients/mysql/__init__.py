"""What speaks the MySQL protocol: database machines and ProxySQL's admin interface. Only here is pymysql known."""

from thems_jobs.clients.mysql.mariadb import Databases
from thems_jobs.clients.mysql.proxysql import ProxySql

__all__ = ["Databases", "ProxySql"]
