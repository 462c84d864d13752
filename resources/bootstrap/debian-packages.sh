#!/bin/sh
# Installs the Debian packages that the lab and the tests need. Starts no service: while apt works, policy-rc.d
# forbids it. Does nothing, in a moment, when everything is there. Further packages may be named as arguments.
# Who is not root is told what is missing; what can be done without it goes on.
set -eu

packages="systemd-container mmdebstrap iproute2 openssh-client openssl util-linux mount ca-certificates $*"

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
    installed) ;;
    *) missing="$missing $package" ;;
    esac
done
# apt's lists tell the lab which Debian archive this machine uses; an image without them needs them once.
if [ -z "$missing" ] && ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "MISSING: Debian packages that only root can install; what needs them will fail:$missing" >&2
    echo "         To install them: sudo apt-get install$missing" >&2
    exit 0
fi

policy=/usr/sbin/policy-rc.d
mark="thems-jobs installs packages"
kept=
if grep -qsF "$mark" "$policy"; then rm -f "$policy"; fi # an earlier run was killed
if [ -e "$policy.thems-jobs" ]; then mv "$policy.thems-jobs" "$policy"; fi # ... and had put the host's own aside
restore() {
    rm -f "$policy"
    if [ -n "$kept" ]; then mv "$kept" "$policy"; fi
}
trap restore EXIT
trap 'exit 130' INT TERM
if [ -e "$policy" ] || [ -L "$policy" ]; then
    kept=$policy.thems-jobs
    mv "$policy" "$kept"
fi
printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # one word per package
    apt-get -q -y --no-install-recommends install $missing
fi
