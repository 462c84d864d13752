"""Nine database machines and two ProxySQLs in a process of their own: what they need for answering is not our time.

Usage: galera_servers.py FOLDER MEMBERS SLOW_S. Prints {"hosts", "pair"} and ends when its standard input does.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from galera_stand_in import Galera
from mysql_wire import open_wires
from proxysql_stand_in import ProxySqlServer

ACCOUNTS = {"thems": "secret"}


def main() -> None:
    folder, count, slow_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with open_wires(folder) as wires:
        members = [Galera(index=number, size=count) for number in range(count)]
        members[count // 2].slow_s = slow_s
        hosts = {f"shop-db-{n + 1}": wires.serve(one.answer, ACCOUNTS).address for n, one in enumerate(members)}
        proxies = [ProxySqlServer(dict(zip(hosts.values(), members, strict=True))) for _ in range(2)]
        for proxy in proxies:
            proxy.fill({address: name for name, address in hosts.items()})
        pair = {f"shop-proxy-{n + 1}": wires.serve(one.answer, ACCOUNTS).address for n, one in enumerate(proxies)}
        print(json.dumps({"hosts": hosts, "pair": pair, "ca": wires.ca_file.name}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
