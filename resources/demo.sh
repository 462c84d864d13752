#!/usr/bin/env bash
# The demo: a shop platform on real machines, scaled for an event under live load. Run it with: make demo
# With --needs it only says what it does, and ends with 2 where it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --needs ]; then
    cat <<'TEXT'
This demo makes real machines on this computer, in network and process namespaces of their own:
two balancers with one VRRP address and two web machines, three database machines (a Galera cluster)
behind two proxies with another, configured by Ansible over SSH, behind an API that answers as
Proxmox VE does. Then it scales the web tier from two to six machines and the database from three to
five in one event, and back, while visitors are in the shop.

It needs Debian 12, root, 2 cores, 6 GiB of memory and 4 GiB of disk. It installs Debian packages (no
service is started) and a virtual environment in .venv, and takes up to ten minutes, two to three
minutes again. Nothing listens outside this computer. The lab stays up afterwards: thems-jobs lab down
removes it.
TEXT
    [ "$(id -u)" = 0 ] || { echo "The lab needs root: run  sudo make demo"; exit 2; }
    exit 0
fi

PATH="$PWD/.venv/bin:$PATH"
LAB="${THEMS_LAB_DIR:-/var/lib/thems-lab}"
OUT="$PWD/.reports"
mkdir -p "$OUT"
export THEMS_PLATFORM="$LAB/platform-database.yaml"
export PYTHONDONTWRITEBYTECODE= # what was compiled once is kept: every command starts half a second sooner
began=$SECONDS

say() { printf '\n\033[1m%s\033[0m  (%d:%02d)\n' "$*" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }
run() { printf '$ %s\n' "$*"; "$@"; }

say "1. A lab"
run thems-jobs lab up --dir "$LAB"

say "2. Templates and a small platform"
for tier in balancer web proxy db; do run thems-jobs template build "$tier" --yes; done
run thems-jobs provision --yes
run thems-jobs status
run thems-jobs galera-health

say "3. Visitors come: 24 of them, two on a page that takes ten seconds"
rm -f "$OUT/visitors.stop"
thems-jobs lab visitors --dir "$LAB" --count 22 --slow-count 2 --stop-file "$OUT/visitors.stop" --report "$OUT/visitors.json" >"$OUT/visitors.txt" 2>&1 &
visitors=$!
trap 'touch "$OUT/visitors.stop"; wait "$visitors" 2>/dev/null || true' EXIT

say "4. Scale for event: what would happen?"
until=$(date -u -d '+3 hours' +%Y-%m-%dT%H:%MZ)
event=(--tier web=6 --tier db=5 --event fashion-show --until "$until" --reason "Autumn collection, live on stage")
run thems-jobs scale "${event[@]}" --plan

say "5. Scale for event: do it"
run thems-jobs scale "${event[@]}" --yes --report-dir .reports/event
cp .reports/event/report.html .

say "6. The show is over: back to two and three, draining first"
run thems-jobs scale --end fashion-show --yes --report-dir .reports/back
run thems-jobs status

say "7. What the visitors saw"
touch "$OUT/visitors.stop"
trap - EXIT
code=0
wait "$visitors" || code=$?
cat "$OUT/visitors.txt"
[ "$code" = 0 ] || { echo "Visitors were refused or cut: see above."; exit "$code"; }

say "Done. Open report.html; the lab stays up (thems-jobs lab down removes it)."
