"""The roles on real machines, through our own clients: two web machines behind two balancers."""

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from inside import network_of
from real_lab import Lab, Machine

from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.balancer import Balancers
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clients.web_check import WebCheck
from thems_jobs.core.facts import Balancer
from thems_jobs.errors import Transient, Unreachable
from thems_jobs.lab.hypervisor import HOST_KEY_PATH
from visiting import visitors
from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

ADDRESS = "10.77.9.250"  # VRRP
VARIABLES = {
    "thems_platform": "roles",
    "thems_health_path": "/healthz",
    "thems_php_workers": 3,
    "thems_demo_pages": True,
    "thems_vrrp_address": ADDRESS,
    "thems_vrrp_prefix": 16,
    "thems_vrrp_router_id": 79,
    "thems_front_port": 80,
    "thems_web_port": 80,
    "thems_web_health_path": "/healthz",
    "thems_roles_digest": "of this test",
}


@dataclass
class Roles:
    """Two web machines and two balancers, configured, with the clients for them."""

    web: list[Machine]
    balancers: list[Machine]
    keys: dict[str, str]
    ssh: Ssh
    ansible: Ansible
    lists: Balancers
    logs: Path

    def hosts(self, machines: list[Machine]) -> dict[str, tuple[str, str]]:
        return {machine.name: (machine.address, self.keys[machine.name]) for machine in machines}

    def variables(self, role: str) -> dict[str, object]:
        addresses = [machine.address for machine in self.balancers]
        port = {"web": 80, "balancer": 8404}[role]
        return {
            **VARIABLES, "thems_role": role, "thems_health_port": port, "thems_balancer_addresses": addresses,
            "thems_vrrp_machines": addresses,
        }  # fmt: skip

    def converge(self) -> dict[str, str]:
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(self.ansible.converge, self.hosts(machines), self.variables(role))
                for role, machines in (("web", self.web), ("balancer", self.balancers))
            ]
        return {name: error for run in runs for name, error in run.result().items()}

    def does(self, machine: Machine, command: str) -> str:
        answer = self.ssh.run(machine.address, ["sudo", "sh", "-c", command], timeout_s=60)
        assert answer.code == 0, f"{command}: {answer.error}"
        return answer.output

    def views(self) -> dict[str, Balancer]:
        views = self.lists.show({machine.name: machine.address for machine in self.balancers})
        assert all(isinstance(view, Balancer) for view in views.values()), views
        return {name: view for name, view in views.items() if isinstance(view, Balancer)}

    def give_weight(self, *weights: int | None) -> None:
        wanted = {
            machine.name: (f"{machine.address}:80", weight) for machine, weight in zip(self.web, weights, strict=True)
        }
        self.lists.change({machine.name: machine.address for machine in self.balancers}, wanted)

    def connections(self, machine: Machine) -> int:
        return sum(
            view.servers[machine.name].connections for view in self.views().values() if machine.name in view.servers
        )

    def holders(self) -> list[str]:
        return [name for name, view in self.views().items() if ADDRESS in view.holds]


@pytest.fixture(scope="module")
def configured(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    names = ("roles-web-1", "roles-web-2", "roles-balancer-1", "roles-balancer-2")
    machines = [lab.clone(9100, name) for name in names]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Machine.boot, machines))
    keys = {machine.name: " ".join(machine.read(HOST_KEY_PATH).split()[:2]) for machine in machines}
    logs = tmp_path_factory.mktemp("run")
    ssh = Ssh("thems", lab.layout.ssh_key, logs)
    roles = Roles(machines[:2], machines[2:], keys, ssh, Ansible(ssh, logs, 280), Balancers(ssh), logs)
    with network_of(lab.layout.netns):
        errors = roles.converge()
        assert errors == {}, errors
        roles.give_weight(100, 100)
    yield roles
    ssh.close()
    for machine in machines:
        lab.remove(machine)


@pytest.fixture
def roles(configured: Roles, lab: Lab) -> Iterator[Roles]:
    with network_of(lab.layout.netns):
        yield configured


def get(address: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, 80, timeout=30)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_late_part_is_a_few_tasks_and_changes_nothing_twice(roles: Roles) -> None:
    assert roles.converge() == {}
    logs = sorted(roles.logs.glob("ansible-converge-*.log"), key=lambda path: path.stat().st_mtime)[-2:]
    for log in logs:
        text = log.read_text()
        assert text.count("changed=0") == 2, text
        assert text.count("\nTASK [") <= 6, text


def test_a_web_machine_answers_by_php(roles: Roles) -> None:
    machine = roles.web[0]
    status, body = get(machine.address, "/")
    assert (status, f"This is {machine.name}" in body) == (200, True)
    assert get(machine.address, "/slow.php?seconds=0.1")[1].startswith(machine.name)
    assert get(machine.address, "/any/shop/page")[1] == get(machine.address, "/")[1]


def test_uploads_are_never_run(roles: Roles) -> None:
    machine = roles.web[0]
    names = ("evil.php", "evil.PHP", "evil.phtml", "evil.phar", "evil.php.jpg", ".user.ini")
    roles.does(
        machine,
        "cd /srv/shop/shared/uploads && for name in " + " ".join(names) + "; do echo '<?php echo 6 * 7;' > $name; done"
        " && echo picture > picture.jpg && ln -sfn /srv/shop/shared/uploads /srv/shop/releases/placeholder/elsewhere",
    )
    assert get(machine.address, "/wp-content/uploads/picture.jpg") == (200, "picture\n")
    for name in names:
        for path in (f"/wp-content/uploads/{name}", f"/wp-content//uploads/./{name}", f"/elsewhere/{name}"):
            status, body = get(machine.address, path)
            assert "42" not in body, path
            assert status in (200, 403, 404), path
    assert get(machine.address, "/wp-content/uploads/evil.php")[0] == 403
    assert get(machine.address, "/elsewhere/evil.php") == (403, "")
    assert get(machine.address, "/wp-content/uploads/")[0] == 403  # nor listed
    roles.does(machine, "rm /srv/shop/releases/placeholder/elsewhere /srv/shop/shared/uploads/*")


def test_a_swap_of_the_release_counts_at_once_and_mixes_nothing(roles: Roles) -> None:
    machine = roles.web[1]
    for name in ("one", "two"):
        roles.does(
            machine,
            f"mkdir -p /srv/shop/releases/{name} && cd /srv/shop/releases/{name}"
            " && echo '<?php usleep(20000); $first = basename(__DIR__); require \"part.php\";' > index.php"
            f" && echo '<?php echo $first, \" {name}\";' > part.php",
        )

    def swap(name: str) -> None:
        roles.does(machine, f"cd /srv/shop && ln -sfn releases/{name} current.new && mv -T current.new current")

    swap("one")
    with visitors(machine.address, 80, 3) as visits:
        for number in range(6):
            name = ("two", "one")[number % 2]
            swap(name)
            assert get(machine.address, "/") == (200, f"{name} {name}")
    assert visits.failures == []
    assert set(visits.answers) == {"one one", "two two"}
    swap("placeholder")


def test_health_is_ready_busy_or_not_ready(roles: Roles) -> None:
    machine = roles.web[1]
    check = WebCheck()
    check.check(machine.name, machine.address, 80, "/healthz")
    busy = [threading.Thread(target=get, args=(machine.address, "/slow.php?seconds=3")) for _ in range(6)]
    for thread in busy:
        thread.start()
    check.check(machine.name, machine.address, 80, "/healthz")  # all PHP workers are taken: slow, not dead
    for thread in busy:
        thread.join()
    roles.does(machine, "cd /srv/shop && mv current current.away")
    status, body = get(machine.address, "/healthz")
    assert (status, "no release" in body) == (503, True)
    with pytest.raises(Transient, match="answered 503, expected 200"):
        check.check(machine.name, machine.address, 80, "/healthz")
    roles.does(machine, "cd /srv/shop && mv current.away current")
    assert check.warm(machine.name, machine.address, 80)[-1] < 5


def test_a_machine_that_stops_finishes_its_pages(roles: Roles) -> None:
    machine = roles.web[1]
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(get, machine.address, "/slow.php?seconds=5")
        time.sleep(1)  # the page is being made, otherwise there is nothing to finish
        roles.does(machine, "systemctl stop apache2 php8.2-fpm")
        assert page.result()[0] == 200
    roles.does(machine, "systemctl start php8.2-fpm apache2")
    eventually(lambda: get(machine.address, "/healthz")[0] == 200, "not back", within_s=20)


def test_logs_and_php_know_the_visitor_and_believe_no_one_else(roles: Roles) -> None:
    machine = roles.web[0]
    roles.give_weight(100, 0)
    forged = {"X-Forwarded-For": "192.0.2.66"}
    eventually(lambda: get(ADDRESS, "/via-balancer", forged)[0] == 200, "no answer", within_s=10)
    get(machine.address, "/directly", forged)
    log = roles.does(machine, "cat /var/log/apache2/access.log").splitlines()
    assert [line.split()[0] for line in log if "/via-balancer" in line][-1] == "10.77.0.1"
    assert [line.split()[0] for line in log if "/directly" in line] == ["10.77.0.1"]
    assert not [line for line in log if "/healthz" in line]
    roles.give_weight(100, 100)


def test_draining_through_the_address_cuts_no_slow_page(roles: Roles) -> None:
    first = roles.web[0]
    eventually(lambda: len(roles.holders()) == 1, "no single holder", within_s=15)
    roles.give_weight(100, 100)
    with visitors(ADDRESS, 80, 8, slow_every=3, slow_page="/slow.php?seconds=10") as visits:
        eventually(lambda: roles.connections(first) >= 1, "nobody on the machine", within_s=20)
        roles.give_weight(0, 100)
        eventually(lambda: roles.connections(first) == 0, "requests stay", within_s=40)
        roles.give_weight(None, 100)
        assert all(set(view.servers) == {roles.web[1].name} for view in roles.views().values())
    assert (visits.failures, visits.closed) == ([], 0)
    assert any("took 10" in answer for answer in visits.answers)
    roles.give_weight(100, 100)


def test_a_balancer_will_not_be_left_with_too_few(roles: Roles) -> None:
    eventually(
        lambda: all(server.up for view in roles.views().values() for server in view.servers.values()), "down", 20
    )
    hosts = {machine.name: machine.address for machine in roles.balancers}
    wanted = {roles.web[0].name: (f"{roles.web[0].address}:80", 0)}
    before = {name: view.generation for name, view in roles.views().items()}
    with pytest.raises(Transient, match="at least 2 must"):
        roles.lists.change(hosts, wanted, least_serving=2)
    with pytest.raises(Transient, match="changed by somebody else"):
        Balancers(roles.ssh).change(hosts, wanted, generations={roles.balancers[0].name: "another"})
    assert {name: view.generation for name, view in roles.views().items()} == before


def test_the_address_moves_when_haproxy_or_the_machine_says_so(roles: Roles) -> None:
    (holder,) = eventually(lambda: len(h := roles.holders()) == 1 and h, "no single holder", within_s=15)
    machine = next(machine for machine in roles.balancers if machine.name == holder)
    other = next(machine for machine in roles.balancers if machine.name != holder)
    roles.lists.hand_over(machine.name, machine.address)
    eventually(lambda: roles.holders() == [other.name], "not handed over", within_s=10)
    roles.does(other, "systemctl kill --signal=SIGSTOP --kill-whom=all haproxy")  # hung, not dead
    hosts = {machine.name: machine.address}
    eventually(
        lambda: ADDRESS in getattr(roles.lists.show(hosts)[machine.name], "holds", ()), "not taken over", within_s=15
    )
    roles.does(other, "systemctl kill --signal=SIGCONT --kill-whom=all haproxy")
    eventually(lambda: roles.holders() == [machine.name], "not one holder again", within_s=20)
    assert get(ADDRESS, "/healthz")[0] == 200


def test_a_balancer_that_reboots_comes_back_with_its_list(configured: Roles, lab: Lab) -> None:
    machine = configured.balancers[1]
    with network_of(lab.layout.netns):
        configured.give_weight(100, 30)
    machine.do("shutdown")
    machine.boot()
    with network_of(lab.layout.netns):
        view = eventually(lambda: configured.views()[machine.name], "does not answer", within_s=30)
        weights = {name: server.weight for name, server in view.servers.items()}
        assert weights == {configured.web[0].name: 100, configured.web[1].name: 30}
        configured.give_weight(100, 100)
        eventually(lambda: len(configured.holders()) == 1, "not one holder", within_s=20)


def test_a_machine_with_another_key_is_not_talked_to(roles: Roles, tmp_path: Path) -> None:
    first, second = roles.web
    ssh = Ssh("thems", roles.ssh.key_file, tmp_path)
    with pytest.raises(Unreachable, match="has not been read"):
        ssh.run(first.address, ["true"])
    ssh.know({first.address: roles.keys[second.name]})
    with pytest.raises(Unreachable, match="verification failed"):
        ssh.run(first.address, ["true"])
    ssh.know({first.address: roles.keys[first.name]})
    assert ssh.run(first.address, ["cat"], stdin="a 'b' $c\n").output == "a 'b' $c\n"
    assert ssh.run(first.address, ["sh", "-c", "echo oops >&2; exit 3"]).code == 3
    assert (ssh.answers(first.address), ssh.answers("10.77.9.249")) == (True, False)
    with pytest.raises(Unreachable, match="within 1 s"):
        ssh.run(first.address, ["sleep", "30"], timeout_s=1)
    wrong = Ansible(ssh, tmp_path, 60).converge(
        {first.name: (first.address, roles.keys[second.name])}, roles.variables("web")
    )
    assert "cannot be reached" in wrong[first.name]
    assert "verification failed" in wrong[first.name]
    ssh.close()


def test_each_machine_tells_its_own_trouble(roles: Roles) -> None:
    broken, well = roles.balancers
    roles.does(broken, "mv /etc/keepalived /etc/keepalived.away && ln -s /nowhere /etc/keepalived")
    errors = roles.ansible.converge(roles.hosts([broken, well]), roles.variables("balancer"))
    roles.does(broken, "rm /etc/keepalived && mv /etc/keepalived.away /etc/keepalived")
    assert list(errors) == [broken.name]
    assert errors[broken.name].startswith("task 'Configure keepalived' failed: "), errors
    assert roles.ansible.converge(roles.hosts([broken, well]), roles.variables("balancer")) == {}
