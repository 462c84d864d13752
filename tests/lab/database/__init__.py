"""The database tier by the command line, provisioned once for all tests here."""
