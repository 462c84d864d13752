"""The database tier by the command line: provisioned once for all tests here, and removed after them."""

from collections.abc import Iterator

import pytest
from database_shop import DatabaseShop
from shop import Shop


@pytest.fixture(scope="package")
def database_shop(provisioned: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseShop]:
    """Proxies and a cluster that was made from nothing; gone after these tests, for the others know no such tiers."""
    shop = DatabaseShop(provisioned.layout, provisioned.client, tmp_path_factory.mktemp("database-shop"))
    for tier in ("db", "proxy"):
        shop.do("template", "build", tier, "--yes")
    try:
        shop.do("provision", "--yes")
        yield shop
    finally:
        shop.remove_database()


@pytest.fixture
def shop(database_shop: DatabaseShop) -> Iterator[DatabaseShop]:
    """The platform with its database tier, to work on."""
    yield database_shop
    database_shop.end_runs()
